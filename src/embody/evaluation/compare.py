"""The comparison of runs that differ in their training seed: rates, scores and paired differences.

Legend: S training seeds (one run each), N episodes of each, P achievements (in MiniGrid: tasks).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embody.errors import UserError
from embody.metrics.outcomes import BASELINE, against, outcomes_of
from embody.metrics.policies import POLICIES, title_of
from embody.metrics.rates import rate
from embody.metrics.results_file import read_results, showing
from embody.metrics.statistics import (
    Outcomes,
    Statistic,
    achievement_score,
    bootstrap,
    mean_rate,
    mean_return,
)
from embody.metrics.tables import interval, markdown, percent, probability, short_task

__all__ = ["compare_runs", "seeds_markdown", "seeds_table"]

_STATISTICS: Mapping[str, Statistic] = {"mean": mean_rate, "score": achievement_score, "return": mean_return}
_SHOWN = {"mean": percent, "score": "{:.1f}".format, "return": "{:.2f}".format}


def compare_runs(paths: Sequence[Path]) -> str:
    """The tables of `seeds_markdown` for the `results.json` files at `paths`, of runs with different training seeds.

    A `UserError` if `paths` is empty, a file is missing, or two runs have the same training seed, or as `outcomes_of`.
    """
    if not paths:
        raise UserError("no runs to compare: name one for each training seed, as in `embody compare seed0 seed1`")
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist: run `embody evaluate --name {path.parent.name}` first")
    runs = [read_results(path) for path in paths]
    seeds = [run.get("seed") for run in runs]
    if any(seeds.count(seed) > 1 for seed in seeds):
        raise UserError(f"the runs have training seeds {seeds}: each must have a seed of its own (--seed)")
    files = " or ".join(map(str, paths))
    with showing(files):
        achievements, outcomes = outcomes_of(runs)
        if not outcomes:
            raise UserError(f"{files} has no policy in common with the others: run `embody evaluate` again")
        return seeds_markdown(seeds_table(achievements, outcomes))


def seeds_table(achievements: Sequence[str], runs: Mapping[str, Outcomes], baseline: str = BASELINE) -> dict[str, Any]:
    """`{policy: row}`, JSON-ready, from the outcomes of each policy, bool `[S, N, P]` (see `outcomes_of`).

    A row has `achievements`, each a rate with a Wilson interval over all episodes of all seeds (which ignores that
    episodes of one seed are correlated), and `mean`, `score` (`achievement_score`), `return` with bootstrap intervals.
    Each has the paired `difference` to `baseline`, if that was played. p-values are not corrected for multiple tests.
    """
    table: dict[str, Any] = {}
    for policy, outcomes in runs.items():
        theirs = runs.get(baseline) if policy != baseline else None
        table[policy] = row = {"seeds": outcomes.shape[0], "episodes": outcomes.shape[1], "achievements": {}}
        for place, name in enumerate(achievements):
            one = outcomes[..., [place]]
            row["achievements"][name] = dataclasses.asdict(rate(int(one.sum()), one.size))
            if theirs is not None:
                row["achievements"][name]["difference"] = against(one, theirs[..., [place]])
        for name, statistic in _STATISTICS.items():
            found = bootstrap(outcomes, statistic)
            row[name] = {"mean": float(found.value), "low": float(found.low), "high": float(found.high)}
            if theirs is not None:
                row[name]["difference"] = against(outcomes, theirs, statistic)
    return table


def seeds_markdown(table: Mapping[str, Any], baseline: str = BASELINE) -> str:
    """`seeds_table` as Markdown: a table of rates and scores, and one of paired differences to the baseline."""
    policies = [policy for policy in POLICIES if policy in table] + [p for p in table if p not in POLICIES]
    if not policies:
        return ""
    names = list(table[policies[0]]["achievements"])
    titles = [title_of(policy) for policy in policies]
    reached = [
        *([short_task(name), *(interval(table[p]["achievements"][name]) for p in policies)] for name in names),
        *([f"**{name}**", *(_interval(table[p][name], name) for p in policies)] for name in _STATISTICS),
    ]
    compared = [policy for policy in policies if "difference" in table[policy]["mean"]]
    differences = [
        *([short_task(n), *(_difference(table[p]["achievements"][n], "mean") for p in compared)] for n in names),
        *([f"**{name}**", *(_difference(table[p][name], name) for p in compared)] for name in _STATISTICS),
    ]
    first = table[policies[0]]
    parts = [
        f"{first['seeds']} training seeds, {first['episodes']} episodes each. 95% intervals: achievements, Wilson over"
        " all episodes; mean, score and return, bootstrap over seeds and over the episodes that all seeds play.",
        markdown(["", *titles], reached),
    ]
    if compared:
        parts += [
            f"Differences to {title_of(baseline)}, paired by episode, with 95% bootstrap intervals. The"
            " first p is of a permutation test that exchanges the two policies in each episode, the second in each"
            " training seed. p are not corrected for multiple tests.",
            markdown(["", *(title_of(policy) for policy in compared)], differences),
        ]
    return "\n\n".join(parts) + "\n"


def _interval(value: Mapping[str, Any], name: str) -> str:
    show = _SHOWN[name]
    return f"{show(value['mean'])} ({show(value['low'])} to {show(value['high'])})"


def _difference(value: Mapping[str, Any], name: str) -> str:
    found, show = value["difference"], _SHOWN[name]
    p = probability(found["p"]) + ("" if found["p_seeds"] is None else f", {probability(found['p_seeds'])}")
    return f"{show(found['value'])} ({show(found['low'])} to {show(found['high'])}); p {p}"
