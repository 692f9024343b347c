"""Numbers that evaluation shares: PSNR, rates with their intervals, precision and recall."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["Counts", "Rate", "mean_over_tasks", "precision_recall", "psnr", "rate", "wilson"]

Counts = tuple[int, int]  # (successes, episodes)


@dataclass(frozen=True)
class Rate:
    """A success rate with its 95% interval; all in [0, 1]."""

    mean: float
    low: float
    high: float
    episodes: int


def psnr(squared_error_mean: float, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB, `10 log10(peak^2 / squared_error_mean)`; infinite where the error is 0.

    The squared error is pooled over frames first: the mean of per-frame PSNR would let one perfect frame hide many bad
    ones. NaN in, NaN out.
    """
    if squared_error_mean == 0:
        return math.inf
    return 10 * math.log10(peak**2 / squared_error_mean)


def wilson(successes: float, n: float, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a rate (95% at z = 1.96) -> (low, high), both in [0, 1]; (0, 1) when n is 0.

    `scipy.stats.binomtest` takes whole numbers only; `mean_over_tasks` has fractions of an episode.
    """
    assert 0 <= successes <= n, f"{successes} successes of {n} episodes"
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def rate(successes: int, episodes: int) -> Rate:
    """One task's success rate with its Wilson interval, of at least one episode."""
    assert episodes > 0, "no episodes were played"
    low, high = wilson(successes, episodes)
    return Rate(successes / episodes, low, high, episodes)


def mean_over_tasks(counts: Mapping[str, Counts], together: bool = False) -> Rate:
    """The mean of the tasks' rates, every task weighing the same, with a Wilson interval.

    The interval is Wilson's at the mean rate for `tasks^2 / sum(1 / n_task)` episodes. When every task has the same
    number of episodes (ours do) that is Wilson on the pooled counts, and somewhat too wide rather than too narrow: the
    variance within tasks is at most that of one pooled binomial. Other draws of tasks are not part of it.

    `together`: each episode is one of every task, as Crafter's are. The interval is then Wilson's for so many episodes
    as one task has, which is too wide: the mean of an episode's outcomes varies at most as much as a single one.
    """
    assert counts, "no tasks were played"
    rates = [rate(k, n) for k, n in counts.values()]
    mean = sum(r.mean for r in rates) / len(rates)
    effective = len(rates) ** 2 / sum(1 / r.episodes for r in rates)
    if together:
        effective = min(r.episodes for r in rates)
    low, high = wilson(mean * effective, effective)
    return Rate(mean, low, high, int(effective) if together else sum(r.episodes for r in rates))


def precision_recall(predicted: ArrayLike, actual: ArrayLike) -> tuple[float | None, float | None]:
    """Precision and recall of bool arrays of one shape; None where nothing was predicted, or nothing was there."""
    predicted, actual = np.asarray(predicted, dtype=bool), np.asarray(actual, dtype=bool)
    assert predicted.shape == actual.shape, (predicted.shape, actual.shape)
    hits, said, there = int((predicted & actual).sum()), int(predicted.sum()), int(actual.sum())
    return hits / said if said else None, hits / there if there else None
