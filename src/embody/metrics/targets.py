"""The headline numbers of a run, what each of them means, and the targets that a game sets for them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from embody.metrics.results_file import Results, lookup
from embody.metrics.rollouts import NEAR
from embody.metrics.tables import decibels, duration, percent, two_decimals

__all__ = ["HEADLINES", "Bound", "Target", "at_bound", "headline", "no_bound", "times_result"]

Bound = Callable[[Results], float | None]  # the bound for these results; None: no target, or nothing to compare with


def no_bound(results: Results) -> None:
    """The bound of a number without a target."""


@dataclass(frozen=True)
class Target:
    """A headline number, and the bound that a game asks its runs to meet, if any.

    A run at the ceiling meets every target: a bound beyond the ceiling counts as the ceiling, and "above the ceiling"
    counts as "at the ceiling".
    """

    title: str
    key: str  # where the number stands in the results, such as `success.cloning.mean`
    show: Callable[[Any], str]
    bound: Bound = no_bound
    relation: str = "at least"  # or "above", "at most"
    reason: str = ""  # where the bound comes from, unless it is a plain number
    meaning: str = ""  # the number explained in a sentence
    ceiling: float = math.inf  # the largest value that the number can have

    def reached(self, results: Results) -> bool | None:
        """Whether the value meets its bound; None if either is missing."""
        value, bound = lookup(results, self.key), self.bound(results)
        if value is None or bound is None:
            return None
        if self.relation == "at most":
            return bool(value <= bound)
        if self._at_ceiling(bound):
            return bool(value >= self.ceiling)
        return bool(value > bound if self.relation == "above" else value >= bound)

    def text(self, results: Results) -> str:
        """The target in words, empty if there is none."""
        bound = self.bound(results)
        if bound is None:
            return ""
        relation, reasons = self.relation, [self.reason]
        if relation != "at most" and self._at_ceiling(bound):
            relation, bound, reasons = "at least", self.ceiling, [self.reason, "the most that is possible"]
        reason = "; ".join(filter(None, reasons))
        return f"{relation} {self.show(bound)}{reason and f' ({reason})'}"

    def _at_ceiling(self, bound: float) -> bool:
        return bound >= self.ceiling


def at_bound(bound: float) -> Bound:
    """A bound that is the same for all results."""
    return lambda _: bound


def times_result(key: str, factor: float = 1.0) -> Bound:
    """`factor` times another result; no bound where that was not measured."""

    def bound(results: Results) -> float | None:
        value = lookup(results, key)
        return None if value is None else factor * value

    return bound


def headline(key: str, bound: Bound = no_bound, relation: str = "at least", reason: str = "") -> Target:
    """The headline number with this key, and a game's target for it, if any."""
    (found,) = (target for target in HEADLINES if target.key == key)
    return replace(found, bound=bound, relation=relation, reason=reason)


# Every run shows these numbers. A game may set targets for them, and show other numbers.
HEADLINES: tuple[Target, ...] = (
    Target(
        "Tokenizer: PSNR",
        "tokenizer.psnr_db",
        decibels,
        meaning="How close decoded held-out frames are to the originals. 30 dB is a root-mean-square error of 3% of the"
        " brightness range, 40 dB of 1%.",
    ),
    Target(
        "World model: gain over copying the last frame",
        "dynamics.gain_over_copy_db",
        decibels,
        meaning=f"PSNR of dreamt frames minus PSNR of a copy of the last context frame, over horizons 1-{NEAR}. Above"
        " 0, the model predicts the future better than a still picture does.",
    ),
    Target(
        "World model: gain over copying, before the agent's training",
        "dynamics_before_agent.gain_over_copy_db",
        decibels,
        meaning="The same number for the world model of phase 1. The difference is what the agent's training changed.",
    ),
    Target(
        "World model: action-shuffle ratio",
        "dynamics.action_shuffle_ratio",
        two_decimals,
        meaning="The world model's loss under actions shuffled over the batch, divided by its loss under the true"
        " actions. At 1, the model ignores actions.",
    ),
    Target(
        "World model: action-shuffle ratio, every frame noised",
        "dynamics.action_shuffle_ratio_noised",
        two_decimals,
        meaning="The same ratio where every frame has a random signal level of its own, the context included.",
    ),
    Target(
        "Dreamt rewards: recall",
        "dynamics.reward_recall",
        percent,
        meaning="Of the rewards in held-out clips, the share that the dream under the same actions gives at the same"
        " timestep.",
        ceiling=1.0,
    ),
    Target(
        "Dreamt rewards: precision",
        "dynamics.reward_precision",
        percent,
        meaning="Of the rewards in these dreams, the share that the clip has at the same timestep.",
        ceiling=1.0,
    ),
    Target(
        "Behaviour cloning: success",
        "success.cloning.mean",
        percent,
        meaning="Success of the policy that imitates the demonstrations (phase 2), in the real environment.",
        ceiling=1.0,
    ),
    Target(
        "Imagination: success",
        "success.imagination.mean",
        percent,
        meaning="Success of the same policy after reinforcement learning in imagination (phase 3), in the real"
        " environment.",
        ceiling=1.0,
    ),
    Target(
        "Control with shuffled rewards: success",
        "success.shuffled_rewards.mean",
        percent,
        meaning="Success after imagination with shuffled rewards. A gain that remains does not come from the rewards.",
        ceiling=1.0,
    ),
    Target("Wall time", "wall_seconds", duration, meaning="Time of all stages of the run together."),
)
