"""Numbers that all evaluations share: PSNR, rates with intervals, precision and recall."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["Counts", "Rate", "mean_over_tasks", "precision_recall", "psnr", "rate", "wilson"]

Counts = tuple[int, int]  # (successes, episodes)


@dataclass(frozen=True)
class Rate:
    """A success rate and its 95% interval, all in [0, 1]."""

    mean: float
    low: float
    high: float
    episodes: int


def psnr(squared_error_mean: float, peak: float = 1.0) -> float:
    """Peak signal-to-noise ratio in dB, `10 log10(peak^2 / squared_error_mean)`; infinite where the error is 0.

    Pass the mean squared error over all frames: in a mean of PSNR by frame, one perfect frame would hide many bad ones.
    NaN for NaN.
    """
    if squared_error_mean == 0:
        return math.inf
    return 10 * math.log10(peak**2 / squared_error_mean)


def wilson(successes: float, n: float, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a rate (95% at z = 1.96) -> (low, high), both in [0, 1]; (0, 1) when n is 0.

    (`scipy.stats.binomtest` takes integers only; `mean_over_tasks` passes fractions.)
    """
    assert 0 <= successes <= n, f"{successes} successes of {n} episodes"
    if n == 0:
        return 0.0, 1.0
    p = successes / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def rate(successes: int, episodes: int) -> Rate:
    """The success rate of one task with its Wilson interval; `episodes` is at least 1."""
    assert episodes > 0, "no episodes were played"
    low, high = wilson(successes, episodes)
    return Rate(successes / episodes, low, high, episodes)


def mean_over_tasks(counts: Mapping[str, Counts], together: bool = False) -> Rate:
    """The unweighted mean of the rates of tasks, with a Wilson interval.

    The interval is Wilson's at the mean rate for `tasks^2 / sum(1 / n_task)` episodes. If all tasks have the same
    number of episodes, this is the interval of the pooled counts. It is slightly too wide, as the variance within tasks
    is at most that of the pooled binomial. It does not cover the choice of tasks.

    `together`: every episode counts for every task, as in Crafter. The interval is then that of the episodes of one
    task. It is too wide, as the mean of an episode's outcomes varies at most as much as a single outcome.
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
    """Precision and recall of bool arrays of equal shape; None if nothing is predicted, or nothing is true."""
    predicted, actual = np.asarray(predicted, dtype=bool), np.asarray(actual, dtype=bool)
    assert predicted.shape == actual.shape, (predicted.shape, actual.shape)
    hits, positives, trues = int((predicted & actual).sum()), int(predicted.sum()), int(actual.sum())
    return hits / positives if positives else None, hits / trues if trues else None
