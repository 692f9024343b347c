"""The ranges of rewards and returns in the training split, and the check that they lie in the range of the heads'
bins."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

import numpy as np
from numpy.typing import NDArray

from embody.config import Config
from embody.data import Dataset, discounted_returns
from embody.data.goal import Goal
from embody.data.recorded_events import RecordedEvents
from embody.errors import UserError

__all__ = ["RewardStatistics", "check_ranges", "reward_statistics"]

Span = tuple[float, float]


@dataclass(frozen=True)
class RewardStatistics:
    """Statistics over all timesteps of labelled episodes; recordings of many tasks count once for each task in them."""

    rewards: Span  # lowest and highest
    returns: Span
    mean: float  # of rewards
    std: float


def reward_statistics(
    datasets: Sequence[Dataset], goal: Goal, gamma: float, once: bool = False
) -> RewardStatistics | None:
    """Statistics of the training split, relabelled for `goal`; None if it has no labelled episode.

    If `once`, a task is over with its first event.
    """
    count, total, squares = 0, 0.0, 0.0
    rewards, returns = [], []
    for dataset in datasets:
        rows = [row for row in dataset.episodes("train") if row.labelled]
        own = [dataset.rows(row.id, 0, row.length) for row in rows if goal.keeps_rewards(row.task)]
        if own:
            of_all = discounted_returns(dataset.rewards, dataset.offsets, gamma)
            found = np.concatenate([dataset.rewards[timesteps] for timesteps in own]).astype(np.float64)
            values = np.concatenate([of_all[timesteps] for timesteps in own])
            count, total, squares = count + len(found), total + found.sum(), squares + (found**2).sum()
            rewards += [float(found.min()), float(found.max())]
            returns += [float(values.min()), float(values.max())]
        relabelled = [row for row in rows if not goal.keeps_rewards(row.task)]
        events = RecordedEvents(dataset, len(dataset.meta.tasks))
        for paying in goal.relabellings(events) if relabelled else []:
            parts = [events.in_episode(row.id, paying) for row in relabelled]
            paid = sum(map(len, parts))
            if paid:
                count, total, squares = count + sum(row.length for row in relabelled), total + paid, squares + paid
                rewards += [0.0, 1.0]
                returns += [0.0, 1.0 if once else max(_most(part, gamma) for part in parts)]
    if not count:
        return None
    mean = total / count
    variance = max(0.0, squares - count * mean**2) / max(1, count - 1)
    return RewardStatistics((min(rewards), max(rewards)), (min(returns), max(returns)), mean, variance**0.5)


def _most(events: NDArray[np.int64], gamma: float) -> float:
    """The highest return in an episode with reward 1 at `events`; a timestep just before an event has it."""
    most = value = 0.0
    for gap in reversed(np.diff(events, append=events[-1:])):
        value = 1 + gamma ** int(gap) * value
        most = max(most, value)
    return most


def check_ranges(config: Config, found: RewardStatistics) -> None:
    """Raises a `UserError` if rewards or returns are out of the range of their bins, which would clamp them."""
    rewards, what = found.rewards, "rewards"
    if config.agent_objective.standardise_rewards:
        std = max(found.std, 1e-3)
        rewards, what = ((rewards[0] - found.mean) / std, (rewards[1] - found.mean) / std), "standardised rewards"
    returns = f"returns (imagination.gamma {config.imagination.gamma:g})"
    for setting, span, name in (("reward_range", rewards, what), ("value_range", found.returns, returns)):
        low, high = getattr(config.agent, setting)
        if span[0] < low or span[1] > high:
            wide = floor(100 * min(span[0], low)) / 100, ceil(100 * max(span[1], high)) / 100
            raise UserError(
                f"agent.{setting} {low:g} to {high:g} does not hold the data's {name}, {span[0]:g} to {span[1]:g}:"
                f" set it to {wide[0]:g} {wide[1]:g}"
            )
