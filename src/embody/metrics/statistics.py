"""Intervals and tests over training seeds and episodes: is one policy better than another, or did it have luck?

Legend: S training seeds, N episodes of each, P achievements (of MiniGrid: tasks), R resamples. Outcomes are bool
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
_EQUAL = 1e-12  # differences that only rounding tells apart are the same


@dataclass(frozen=True)
class Estimate:
    """A statistic with its 95% interval; arrays of the statistic's own shape."""

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """A statistic of one policy minus that of another, its 95% interval, and how likely chance alone goes as far."""

    value: float
    low: float
    high: float
    p: float  # of these trained policies: which of the two played an episode means nothing
    p_seeds: float | None  # of their way of training: which of the two a seed was given means nothing; None: one seed


# --- statistics -----------------------------------------------------------------------------------------------------


def achievement_rates(outcomes: Outcomes) -> NDArray[np.float64]:
    """Success rate of each achievement, `[P]`, in [0, 1]."""
    return outcomes.mean(axis=(0, 1))


def mean_rate(outcomes: Outcomes) -> float:
    """Success rate, every achievement weighing the same."""
    return float(outcomes.mean())


def mean_return(outcomes: Outcomes) -> float:
    """Achievements an episode: its return where each pays 1, once."""
    return float(outcomes.sum(axis=2).mean())


def achievement_score(outcomes: Outcomes) -> float:
    """`exp(mean_p ln(1 + s_p)) - 1` of a seed's rates `s_p` in percent, averaged over seeds (Hafner 2021); 0..100."""
    percent = 100 * outcomes.mean(axis=1)
    return float((np.exp(np.log1p(percent).mean(axis=1)) - 1).mean())


# --- intervals ------------------------------------------------------------------------------------------------------


def bootstrap(outcomes: Outcomes, statistic: Statistic, resamples: int = _RESAMPLES, seed: int = 0) -> Estimate:
    """Percentile interval (2.5 to 97.5) of any statistic, over seeds and over episodes.

    A resample draws S seeds and N episodes with replacement. All drawn seeds have the same episodes: episode n is one
    world, which every seed plays. With one seed the interval is over episodes alone and says nothing about other
    seeds. With few seeds it is too narrow if they differ; docs/statistics.md tells how often it contains the true
    value. `seed` fixes the draws. (`scipy.stats.bootstrap` resamples along one axis, not two crossed ones.)
    """
    _check(outcomes)
    drawn = [statistic(outcomes[places]) for places in _resampled(outcomes.shape, resamples, seed)]
    return _interval(statistic(outcomes), drawn)


def paired_bootstrap(ours: Outcomes, theirs: Outcomes, statistic: Statistic) -> Estimate:
    """`bootstrap` of a difference: both policies are resampled alike, so what makes a seed's episodes hard cancels."""
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
    """Two-sided p, exact: how likely `|sum +-d|` is at least `|sum d|` if each sign is a fair coin.

    `differences` are whole numbers of pairs, ours minus theirs. Of one achievement (-1, 0, 1) this is McNemar's exact
    test, `scipy.stats.binomtest`. Of several it is `scipy.stats.permutation_test` (`samples`), which is exact up to
    about 20 pairs, in 23 s: it goes through all signs. This takes 0.05 s for 1,000 pairs, and is exact.
    """
    sizes = np.abs(np.asarray(differences, np.int64).reshape(-1))
    most = int(sizes.sum())
    chance = np.zeros(2 * most + 1)  # of each sum, from -most
    chance[most] = 1
    for size in sizes[sizes > 0]:
        chance = (np.roll(chance, size) + np.roll(chance, -size)) / 2
    sums = np.abs(np.arange(-most, most + 1))
    return min(1.0, float(chance[sums >= abs(int(np.sum(differences)))].sum()))


def exchange_test(
    ours: Outcomes, theirs: Outcomes, statistic: Statistic, by_seed: bool = False, seed: int = 0
) -> float:
    """Two-sided p of a difference of any statistic: which policy had which outcomes of a pair is a fair coin.

    Pairs are episodes, or (`by_seed`) all episodes of a training seed. All exchanges are counted where they are at most
    4,000 (p is exact then); else as many are drawn, and the real one counts among them. (`scipy.stats.permutation_test`
    exchanges along one axis; here all achievements of an episode, or all episodes of a seed, are exchanged together.)
    """
    _check(ours, theirs)
    axes = (1, 2) if by_seed else (2,)
    differs = (ours != theirs).any(axis=axes)  # [S] or [S, N]; other pairs can be exchanged as one likes
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
    """How two policies differ that played the same episodes, `[S, N, P]` each: episode n of seed s is a pair.

    The interval is that of a paired bootstrap. The tests are exact for `mean_rate` and `mean_return`, whose difference
    is one of whole numbers.
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
