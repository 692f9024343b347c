"""Intervals and significance tests over training seeds and episodes.

Legend: S training seeds, N episodes of each, P achievements (in MiniGrid: tasks), R resamples. Outcomes are bool
`[S, N, P]`: which achievements an episode had.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Difference",
    "Estimate",
    "Statistic",
    "achievement_rates",
    "bootstrap",
    "achievement_score",
    "difference",
    "exchange_test",
    "mean_rate",
    "mean_return",
    "paired_bootstrap",
    "sign_flip_test",
]

Outcomes = NDArray[np.bool_]
Statistic = Callable[[Outcomes], Any]  # outcomes -> a number, or an array of them

_RESAMPLES, _EXCHANGES = 2000, 4000
_EQUAL = 1e-12  # differences closer than this count as equal


@dataclass(frozen=True)
class Estimate:
    """A statistic and its 95% interval, each with the shape of the statistic."""

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A statistic of one policy minus that of another, its 95% interval, and two-sided p-values.

    The null hypothesis of `p` is that the two trained policies are exchangeable in every episode; that of `p_seeds`,
    that the two ways of training are exchangeable for every seed. `p_seeds` is None with one seed.
    """

    value: float
    low: float
    high: float
    p: float
    p_seeds: float | None


# --- statistics -----------------------------------------------------------------------------------------------------


def achievement_rates(outcomes: Outcomes) -> NDArray[np.float64]:
    """The success rate of each achievement, `[P]`, in [0, 1]."""
    return outcomes.mean(axis=(0, 1))


def mean_rate(outcomes: Outcomes) -> float:
    """The unweighted mean of the achievements' success rates, in [0, 1]."""
    return float(outcomes.mean())


def mean_return(outcomes: Outcomes) -> float:
    """The mean number of achievements in an episode, 0 to P."""
    return float(outcomes.sum(axis=2).mean())


def achievement_score(outcomes: Outcomes) -> float:
    """Crafter's score, 0 to 100: `exp(mean_p ln(1 + s_p)) - 1` of rates `s_p` in percent, averaged over seeds."""
    percent = 100 * outcomes.mean(axis=1)
    return float((np.exp(np.log1p(percent).mean(axis=1)) - 1).mean())


# --- intervals ------------------------------------------------------------------------------------------------------


def bootstrap(outcomes: Outcomes, statistic: Statistic, resamples: int = _RESAMPLES, seed: int = 0) -> Estimate:
    """The percentile interval (2.5 to 97.5) of any statistic, over seeds and over episodes.

    A resample draws S seeds and N episodes with replacement. All drawn seeds have the same episodes: episode n is one
    world, which every seed plays. With one seed the interval is over episodes only and says nothing about other seeds.
    With few seeds it is too narrow if they differ; docs/statistics.md tells how often it contains the true value.
    `seed` fixes the draws. (`scipy.stats.bootstrap` resamples along one axis, not two crossed ones.)
    """
    _check(outcomes)
    drawn = [statistic(outcomes[places]) for places in _resampled(outcomes.shape, resamples, seed)]
    return _interval(statistic(outcomes), drawn)


def paired_bootstrap(ours: Outcomes, theirs: Outcomes, statistic: Statistic) -> Estimate:
    """`bootstrap` of ours minus theirs. Both have the same resamples, so the difficulty of an episode cancels."""
    drawn = [
        np.subtract(statistic(ours[places]), statistic(theirs[places]))
        for places in _resampled(ours.shape, _RESAMPLES, 0)
    ]
    return _interval(np.subtract(statistic(ours), statistic(theirs)), drawn)


def _resampled(shape: tuple[int, ...], resamples: int, seed: int) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    rng, (seeds, episodes) = np.random.default_rng(seed), shape[:2]
    for _ in range(resamples):
        yield rng.integers(seeds, size=(seeds, 1)), rng.integers(episodes, size=(1, episodes))


def _interval(value: Any, drawn: list[Any]) -> Estimate:
    low, high = np.percentile(np.array(drawn), (2.5, 97.5), axis=0)
    return Estimate(np.asarray(value), np.asarray(low), np.asarray(high))


def _check(outcomes: Outcomes, others: Outcomes | None = None) -> None:
    shape = list(outcomes.shape)
    assert len(shape) == 3 and 0 not in shape, f"outcomes must be [seeds, episodes, achievements], got {shape}"
    assert others is None or list(others.shape) == shape, (
        f"paired policies must play the same episodes: {shape} and {list(others.shape)} differ"
    )


# --- tests ----------------------------------------------------------------------------------------------------------


def sign_flip_test(differences: ArrayLike) -> float:
    """The exact two-sided p-value of a sign-flip test: `P(|sum +-d| >= |sum d|)` if all signs are fair coins.

    `differences` d are integers, one for each pair, ours minus theirs. For one achievement (-1, 0 or 1) this is
    McNemar's exact test, `scipy.stats.binomtest`. For several, `scipy.stats.permutation_test` enumerates all signs,
    which takes 23 s for 20 pairs; the distribution of sums computed here takes 0.05 s for 1,000 pairs.
    """
    sizes = np.abs(np.asarray(differences, np.int64).reshape(-1))
    most = int(sizes.sum())
    chance = np.zeros(2 * most + 1)  # probability of each sum from -most to most
    chance[most] = 1
    for size in sizes[sizes > 0]:
        chance = (np.roll(chance, size) + np.roll(chance, -size)) / 2
    sums = np.abs(np.arange(-most, most + 1))
    return min(1.0, float(chance[sums >= abs(int(np.sum(differences)))].sum()))


def exchange_test(
    ours: Outcomes, theirs: Outcomes, statistic: Statistic, by_seed: bool = False, seed: int = 0
) -> float:
    """The two-sided p-value of a permutation test, for a difference of any statistic.

    The outcomes of the two policies are exchanged at random, in each episode or (`by_seed`) in all episodes of a
    training seed. If there are at most 4,000 permutations, all are counted and p is exact; otherwise 4,000 are drawn at
    random, and the observed one is added. (`scipy.stats.permutation_test` exchanges along one axis; here all
    achievements of an episode, or all episodes of a seed, are exchanged together.)
    """
    _check(ours, theirs)
    axes = (1, 2) if by_seed else (2,)
    differs = (ours != theirs).any(axis=axes)  # [S] or [S, N]; exchanging equal outcomes changes nothing
    found = abs(statistic(ours) - statistic(theirs))
    units = int(differs.sum())
    exact = 2**units <= _EXCHANGES
    coins = itertools.product((False, True), repeat=units) if exact else _coins(units, seed)
    extreme = total = 0
    swapped = np.zeros(differs.shape, bool)
    for coin in coins:
        swapped[differs] = coin
        swap = swapped.reshape(*swapped.shape, *[1] * (3 - swapped.ndim))
        changed = statistic(np.where(swap, theirs, ours)) - statistic(np.where(swap, ours, theirs))
        extreme, total = extreme + (abs(changed) >= found - _EQUAL), total + 1
    return float(extreme / total if exact else (extreme + 1) / (total + 1))


def _coins(units: int, seed: int) -> Iterator[NDArray[np.bool_]]:
    rng = np.random.default_rng(seed)
    for _ in range(_EXCHANGES):
        yield rng.random(units) < 0.5


def difference(ours: Outcomes, theirs: Outcomes, statistic: Statistic = mean_rate) -> Difference:
    """The paired difference of two policies that played the same episodes, outcomes `[S, N, P]` each.

    The interval is from `paired_bootstrap`, p from `sign_flip_test` (exact) for `mean_rate` and `mean_return`, and from
    `exchange_test` for other statistics.
    """
    _check(ours, theirs)
    interval = paired_bootstrap(ours, theirs, statistic)
    several = len(ours) > 1
    if statistic in (mean_rate, mean_return):
        counts = ours.sum(axis=2, dtype=np.int64) - theirs.sum(axis=2, dtype=np.int64)
        p, p_seeds = sign_flip_test(counts), sign_flip_test(counts.sum(axis=1)) if several else None
    else:
        p = exchange_test(ours, theirs, statistic)
        p_seeds = exchange_test(ours, theirs, statistic, by_seed=True) if several else None
    return Difference(float(interval.value), float(interval.low), float(interval.high), p, p_seeds)
