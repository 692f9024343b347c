"""Runs of several training seeds beside each other: rates, scores, and differences that are more than luck.

Legend: S training seeds (one run each), N episodes of each, P achievements (of MiniGrid: tasks).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from embody.errors import UserError
from embody.metrics.outcomes import BASELINE, against, outcomes_of
from embody.metrics.policies import POLICIES, title_of
from embody.metrics.rates import rate
from embody.metrics.results_file import read_results
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
    """The `results.json` at `paths`, of runs that differ in their training seed, as `seeds_markdown`.

    A `UserError` if there is none or one is missing, or as `outcomes_of`; or if two have the same training seed: no
    new evidence.
    """
    if not paths:
        raise UserError("name the runs to compare, one of each training seed, as in `embody compare seed0 seed1`")
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist: run `embody evaluate --name {path.parent.name}` first")
    runs = [read_results(path) for path in paths]
    seeds = [run.get("seed") for run in runs]
    if len(set(seeds)) < len(seeds):
        raise UserError(f"the runs have the training seeds {seeds}: each must have its own (--seed)")
    return seeds_markdown(seeds_table(*outcomes_of(runs)))


def seeds_table(achievements: Sequence[str], runs: Mapping[str, Outcomes], baseline: str = BASELINE) -> dict[str, Any]:
    """`{policy: row}`, ready for JSON, of each policy's outcomes, bool `[S, N, P]` (`outcomes_of`).

    A row has `achievements` (each a rate with Wilson's interval over all episodes of all seeds, which does not know
    that those of a seed belong together), and `mean`, `score` (`achievement_score`), `return` with bootstrap intervals.
    Each has the paired `difference` to the `baseline`, if that was played; p are not corrected for their number.
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
    """`seeds_table` as Markdown: what was reached, and the paired differences to the baseline."""
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
        f"{first['seeds']} training seeds, {first['episodes']} episodes each. Achievements: Wilson's 95% intervals over"
        " all episodes; mean, score and return: bootstrap over seeds, and over the episodes that they share.",
        markdown(["", *titles], reached),
    ]
    if compared:
        parts += [
            f"Paired with {title_of(baseline)}, episode by episode: difference and its 95% bootstrap"
            " interval. First p: the two policies exchanged at random in each episode; second: in each training seed."
            " Not corrected for the number of tests.",
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
