"""Intervals and tests over seeds and episodes: by hand, by enumeration, and by their coverage."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, permutation_test

from embody.evaluation.compare import seeds_markdown, seeds_table
from embody.metrics.outcomes import outcomes_of
from embody.metrics.rates import wilson
from embody.metrics.statistics import (
    achievement_rates,
    achievement_score,
    bootstrap,
    difference,
    exchange_test,
    mean_rate,
    mean_return,
    sign_flip_test,
)


def draw(rates: Any, episodes: int, seed: int = 0) -> np.ndarray:
    """Random outcomes `[S, N, P]` with rates `[S, P]`."""
    rates = np.asarray(rates)
    return np.random.default_rng(seed).random((len(rates), episodes, rates.shape[1])) < rates[:, None]


# --- statistics -----------------------------------------------------------------------------------------------------


def test_statistics_by_hand() -> None:
    outcomes = np.zeros((2, 4, 2), bool)
    outcomes[0, :2, 0], outcomes[0, 0, 1], outcomes[1, :, 0] = True, True, True  # 50% and 25%; 100% and 0%
    assert achievement_rates(outcomes).tolist() == [0.75, 0.125]
    assert mean_rate(outcomes) == 0.4375 and mean_return(outcomes) == 0.875
    # A seed's score first, then their mean: sqrt(51 * 26) - 1 and sqrt(101 * 1) - 1.
    assert achievement_score(outcomes) == pytest.approx((math.sqrt(51 * 26) + math.sqrt(101)) / 2 - 1)
    assert achievement_score(np.ones((3, 5, 22), bool)) == pytest.approx(100)
    assert achievement_score(np.zeros((3, 5, 22), bool)) == 0


# --- the bootstrap --------------------------------------------------------------------------------------------------


def test_bootstrap_of_one_seed_is_the_binomials() -> None:
    """Resampling 20 episodes with 8 successes draws from Binomial(20, 0.4): 2.5% and 97.5% of it are 4 and 12."""
    outcomes = np.arange(20)[None, :, None] < 8
    cdf = np.cumsum([math.comb(20, k) * 0.4**k * 0.6 ** (20 - k) for k in range(21)])
    expected = [int(np.searchsorted(cdf, share)) / 20 for share in (0.025, 0.975)]
    found = bootstrap(outcomes, mean_rate, resamples=4000)
    assert float(found.value) == 0.4 and expected == [0.2, 0.6]
    assert [float(found.low), float(found.high)] == pytest.approx(expected)


def test_bootstrap_resamples_seeds_and_the_episodes_that_they_share() -> None:
    """Two outcomes of a resample covary if they share a seed or an episode; checked by the variance of means."""
    worlds = np.random.default_rng(0).random((1, 40)) < 0.5  # half of them hard, for every seed
    outcomes = draw([[0.1], [0.5], [0.9]], 40) & worlds[..., None]
    seeds, episodes = outcomes.shape[:2]
    by_seed, by_episode = outcomes.mean(axis=1).var(), outcomes.mean(axis=0).var()
    expected = (outcomes.var() + (episodes - 1) * by_seed + (seeds - 1) * by_episode) / outcomes.size
    values: list[float] = []
    bootstrap(outcomes, lambda sample: values.append(float(sample.mean())) or 0.0, resamples=4000)
    assert np.var(values[:4000]) == pytest.approx(expected, rel=0.08)
    # All episodes of a seed alike: only the draw of seeds is left, 3^3 of them.
    alike = np.repeat(np.array([0, 0, 1], bool)[:, None, None], 5, axis=1)
    values.clear()
    bootstrap(alike, lambda sample: values.append(float(sample.mean())) or 0.0, resamples=4000)
    assert np.mean(np.isclose(values[:4000], 0)) == pytest.approx(8 / 27, abs=0.03)


def test_bootstrap_is_fixed_and_takes_any_statistic() -> None:
    outcomes = draw([[0.2, 0.7]] * 3, 30)
    first, again, other = (bootstrap(outcomes, achievement_rates, 200, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.low, again.low)
    assert not np.array_equal(first.low, other.low)
    assert first.value.shape == first.low.shape == (2,)
    assert (first.low < first.value).all() and (first.value < first.high).all()
    with pytest.raises(AssertionError, match=r"outcomes must be \[seeds, episodes, achievements\], got \[30, 2\]"):
        bootstrap(outcomes[0], mean_rate)


@pytest.mark.parametrize(("spread", "hardness"), [(0.0, 0.0), (0.15, 0.0), (0.05, 0.25)])
def test_bootstrap_covers(spread: float, hardness: float) -> None:
    """Ten seeds whose rates differ by `spread` around 0.4, the worlds that they share by `hardness`: their mean lies
    inside about as often as promised."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(150):
        rates = 0.4 + spread * rng.choice((-1, 1), size=(10, 1, 1)) + hardness * rng.choice((-1, 1), size=(1, 30, 1))
        outcomes = rng.random((10, 30, 1)) < rates
        found = bootstrap(outcomes, mean_rate, resamples=150)
        hits += bool(found.low <= 0.4 <= found.high)
    assert 0.89 <= hits / 150 <= (1.0 if spread == 0 else 0.98)  # two draws are wide where seeds do not differ


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.15, 0.05])
def test_few_seeds_cover_as_often_as_the_page_says(spread: float, seeds: int) -> None:
    page = (Path(__file__).parents[1] / "docs/statistics.md").read_text()
    (row,) = re.findall(rf"(?m)^\| {spread} \|(.*)\|$", page)
    (said,) = [int(share.strip(" %")) / 100 for n, share in zip((2, 3, 5), row.split("|"), strict=True) if n == seeds]
    rng, hits = np.random.default_rng(seeds), 0
    for _ in range(250):
        outcomes = draw(0.4 + spread * rng.choice((-1, 1), size=(seeds, 1)), 200, seed=int(rng.integers(2**31)))
        found = bootstrap(outcomes, mean_rate, resamples=150)
        hits += bool(found.low <= 0.4 <= found.high)
    assert hits / 250 == pytest.approx(said, abs=0.08)


# --- tests ----------------------------------------------------------------------------------------------------------


def test_sign_flips_of_one_achievement_are_mcnemars_exact_test() -> None:
    for better, worse in ((8, 1), (5, 5), (0, 6), (30, 14), (1, 0)):
        differences = [1] * better + [-1] * worse + [0] * 50
        assert sign_flip_test(differences) == pytest.approx(binomtest(better, better + worse).pvalue)
    assert sign_flip_test([1] * 8 + [-1]) == pytest.approx(20 / 512)  # by hand: 2 (C(9, 8) + C(9, 9)) / 2^9
    assert sign_flip_test([]) == sign_flip_test([0, 0]) == 1.0


def test_sign_flips_count_every_case() -> None:
    differences = np.random.default_rng(0).integers(-4, 6, size=11)
    by_scipy = permutation_test((differences,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert 0.01 < by_scipy.pvalue < 0.99
    assert sign_flip_test(differences) == pytest.approx(by_scipy.pvalue)


def test_exchanges_of_the_mean_are_sign_flips() -> None:
    ours, theirs = draw([[0.9, 0.5]] * 3, 3, seed=1), draw([[0.3, 0.3]] * 3, 3, seed=2)
    counts = ours.sum(axis=2, dtype=int) - theirs.sum(axis=2, dtype=int)
    assert 0 < (ours != theirs).any(axis=2).sum() <= 11
    assert exchange_test(ours, theirs, mean_rate) == pytest.approx(sign_flip_test(counts))
    by_seed = exchange_test(ours, theirs, mean_rate, by_seed=True)
    assert by_seed == pytest.approx(sign_flip_test(counts.sum(axis=1))) and by_seed >= 0.25
    many = draw([[0.6]], 200, seed=3), draw([[0.52]], 200, seed=4)  # drawn, not counted
    exact = sign_flip_test((many[0].astype(int) - many[1]).ravel())
    assert 0.001 < exact < 0.2
    assert exchange_test(*many, mean_rate) == pytest.approx(exact, abs=4 * math.sqrt(exact / 4000))


def test_p_is_uniform_where_nothing_differs() -> None:
    rng = np.random.default_rng(0)
    found = [sign_flip_test(rng.integers(-3, 4, size=60)) for _ in range(1000)]
    assert np.mean(np.array(found) <= 0.05) == pytest.approx(0.05, abs=0.02)
    assert np.mean(np.array(found) <= 0.5) == pytest.approx(0.5, abs=0.05)


def test_difference_pairs_episodes() -> None:
    """An episode is hard for both policies: without pairing, the variance of difficulty would hide the difference."""
    theirs = np.repeat((np.arange(200) < 100)[None, :, None], 4, axis=0)
    ours = theirs.copy()
    ours[:, 100:110] = True  # 5% better, and never worse
    found = difference(ours, theirs)
    assert found.value == pytest.approx(0.05) and found.p == pytest.approx(2 / 2**40)
    assert 0.01 < found.low < 0.05 < found.high < 0.09
    alone = bootstrap(ours, mean_rate)
    assert float(alone.high - alone.low) > 2 * (found.high - found.low)
    assert found.p_seeds == 2 / 2**4  # four seeds can say no more
    mirrored = difference(theirs, ours)
    assert (mirrored.value, mirrored.low, mirrored.high, mirrored.p) == pytest.approx(
        (-found.value, -found.high, -found.low, found.p), abs=1e-3
    )
    assert difference(ours[:1], theirs[:1]).p_seeds is None
    with pytest.raises(AssertionError, match=r"same episodes: \[4, 200, 1\] and \[4, 199, 1\] differ"):
        difference(ours, theirs[:, 1:])


def test_difference_of_scores() -> None:
    ours, theirs = draw([[0.9, 0.2]] * 2, 60, seed=1), draw([[0.9, 0.02]] * 2, 60, seed=2)
    found = difference(ours, theirs, achievement_score)
    assert found.value == pytest.approx(achievement_score(ours) - achievement_score(theirs))
    assert found.low < found.value < found.high and found.p < 0.01 and found.p_seeds == 0.5
    same = difference(ours, ours, achievement_score)
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_a_p_that_is_drawn_is_never_0() -> None:
    ours = np.ones((1, 60, 2), bool)
    assert exchange_test(ours, ~ours, achievement_score) == pytest.approx(1 / 4001)


# --- several runs ---------------------------------------------------------------------------------------------------


def run(**achieved: tuple[str, str]) -> dict[str, Any]:
    tasks = {policy: {"MiniGrid-A-v0": first, "b": second} for policy, (first, second) in achieved.items()}
    return {"outcomes": {"seeds": {"MiniGrid-A-v0": [5, 8], "b": [9, 12]}, "achieved": tasks}}


def test_outcomes_of_runs() -> None:
    runs = [run(cloning=("1000", "1100"), random=("0000", "0001")), run(cloning=("0000", "1111"))]
    names, found = outcomes_of(runs)
    assert names == ("MiniGrid-A-v0", "b") and list(found) == ["cloning"]  # not all have played at random
    assert found["cloning"].shape == (2, 4, 2)
    assert found["cloning"][0].tolist() == [[True, True], [False, True], [False, False], [False, False]]
    assert found["cloning"][1, :, 1].all() and not found["cloning"][1, :, 0].any()
    with pytest.raises(ValueError, match="results 2 of 2 hold no outcomes"):
        outcomes_of([runs[0], {}])
    other = run(cloning=("0000", "1111"))
    other["outcomes"]["seeds"]["b"] = [10, 13]
    with pytest.raises(ValueError, match="results 2 of 2 are of other tasks or environment seeds"):
        outcomes_of([runs[0], other])


def test_table_of_several_seeds() -> None:
    better = ("1" * 12 + "0" * 8, "1" * 18 + "0" * 2)
    worse = ("1" * 4 + "0" * 16, "1" * 18 + "0" * 2)
    names, outcomes = outcomes_of([run(cloning=worse, imagination=better)] * 3)
    table = seeds_table(names, outcomes)
    row = table["imagination"]
    assert (row["seeds"], row["episodes"]) == (3, 20)
    first = row["achievements"]["MiniGrid-A-v0"]
    assert (first["low"], first["high"]) == pytest.approx(wilson(36, 60)) and first["mean"] == pytest.approx(0.6)
    assert first["difference"]["value"] == pytest.approx(0.4)
    assert first["difference"]["p"] == pytest.approx(2 / 2**24) and first["difference"]["p_seeds"] == 0.25
    assert row["achievements"]["b"]["difference"]["p"] == 1
    assert row["score"]["mean"] == pytest.approx(math.sqrt(61 * 91) - 1)
    assert row["return"]["difference"]["value"] == pytest.approx(0.4)
    assert row["mean"]["mean"] == pytest.approx(0.75) and row["mean"]["low"] < 0.75 < row["mean"]["high"]
    assert "difference" not in table["cloning"]["mean"]
    text = seeds_markdown(table)
    assert "3 training seeds, 20 episodes each" in text
    assert "| A | 20.0% (12-32) | 60.0% (47-71) |" in text
    assert "| **score** |" in text and "p <0.001, 0.250 |" in text
    assert seeds_markdown({}) == ""
    alone = seeds_markdown(seeds_table(names, {"cloning": outcomes["cloning"]}))
    assert "Paired" not in alone
