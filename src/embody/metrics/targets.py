"""Headline numbers of a run and the bounds that they are asked to meet."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from embody.metrics.results_file import Results, lookup
from embody.metrics.tables import decibels, duration, percent, two_decimals

__all__ = ["HEADLINES", "Target", "at_bound", "times_result"]


@dataclass(frozen=True)
class Target:
    """A headline number, and the bound that a game asks its runs to meet, if any."""

    title: str
    key: str
    show: Callable[[Any], str]
    bound: Callable[[Results], float | None] = lambda _: None  # None: no target, or nothing to compare with
    relation: str = "at least"  # or "above", "at most"
    reason: str = ""  # what the bound is, if not a plain number

    def reached(self, results: Results) -> bool | None:
        """Whether the value meets its bound; None if either is missing."""
        value, bound = lookup(results, self.key), self.bound(results)
        if value is None or bound is None:
            return None
        meets = {"at least": value >= bound, "above": value > bound, "at most": value <= bound}
        return bool(meets[self.relation])

    def text(self, results: Results) -> str:
        """The target in words, empty if there is none."""
        bound = self.bound(results)
        return "" if bound is None else f"{self.relation} {self.show(bound)}{self.reason and f' ({self.reason})'}"


def at_bound(bound: float) -> Callable[[Results], float | None]:
    """A bound that is the same for all results."""
    return lambda _: bound


def times_result(key: str, factor: float = 1.0) -> Callable[[Results], float | None]:
    """`factor` times another result; no bound where that was not measured."""

    def bound(results: Results) -> float | None:
        value = lookup(results, key)
        return None if value is None else factor * value

    return bound


# What every run shows first; a game may ask for bounds, or show other numbers.
HEADLINES: tuple[Target, ...] = (
    Target("Tokenizer, PSNR", "tokenizer.psnr_db", decibels),
    Target("Dynamics, gain over copy-last-frame", "dynamics.gain_over_copy_db", decibels),
    Target("The gain before the agent's training", "dynamics_before_agent.gain_over_copy_db", decibels),
    Target("Dynamics, action-shuffle ratio", "dynamics.action_shuffle_ratio", two_decimals),
    Target("The same, each frame at a level of its own", "dynamics.action_shuffle_ratio_noised", two_decimals),
    Target("Rewards, recall", "dynamics.reward_recall", percent),
    Target("Rewards, precision", "dynamics.reward_precision", percent),
    Target("Cloning, success", "success.cloning.mean", percent),
    Target("Imagination, success", "success.imagination.mean", percent),
    Target("Shuffled rewards, success", "success.shuffled_rewards.mean", percent),
    Target("Wall time", "wall_seconds", duration),
)
