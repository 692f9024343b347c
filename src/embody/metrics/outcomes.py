"""The outcomes of episodes in `results.json`, and paired differences between two policies.

Legend: S training seeds (one run each), N episodes of each, P achievements (or tasks, if a goal is one task).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embody.errors import UserError
from embody.metrics.results_file import Results, lookup
from embody.metrics.statistics import Outcomes, Statistic, difference, mean_rate

__all__ = ["BASELINE", "against", "outcomes_of"]

BASELINE = "cloning"  # the policy that others are compared with


def outcomes_of(runs: Sequence[Results]) -> tuple[tuple[str, ...], dict[str, NDArray[np.bool_]]]:
    """The names of the achievements, and the outcomes, bool `[S, N, P]`, of each policy that all `runs` have measured.

    A `UserError` if a run's results hold no outcomes, or if the runs did not play the same episodes.
    """
    seeds = [lookup(run, "outcomes.seeds") for run in runs]
    for number, found in enumerate(seeds):
        if not found:
            raise UserError(
                f"results {number + 1} of {len(runs)} hold no outcomes of episodes: run `embody evaluate` again"
            )
        if found != seeds[0]:
            raise UserError(
                f"results {number + 1} of {len(runs)} are of other tasks or environment seeds than the first:"
                " evaluate all with the same env.tasks, collect.seed and evaluation.episodes"
            )
    achieved = [run["outcomes"]["achieved"] for run in runs]
    names = tuple(dict.fromkeys(name for tasks in achieved[:1] for outcomes in tasks.values() for name in outcomes))
    shared = [policy for policy in (achieved[0] if achieved else ()) if all(policy in found for found in achieved)]
    return names, {
        policy: np.array([[[c == "1" for c in found[policy][name]] for name in names] for found in achieved]).swapaxes(
            1, 2
        )
        for policy in shared
    }


def against(ours: Outcomes, theirs: Outcomes, statistic: Statistic = mean_rate) -> dict[str, Any]:
    """`difference` of `ours` minus `theirs`, JSON-ready."""
    return dataclasses.asdict(difference(ours, theirs, statistic))
