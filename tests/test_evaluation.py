"""Measures against numbers worked out by hand; closed-loop play against environments with known outcomes."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from embody.config import ActionSpec, EnvConfig
from embody.games import LockstepEnvs
from embody.games.minigrid.cells import CellReader, cell_accuracy, changed_cell_accuracy
from embody.games.minigrid.presets import minigrid
from embody.games.policy import RandomPolicy
from embody.games.success import Demonstrations, demonstrations, play, summary
from embody.metrics.rates import mean_over_tasks, precision_recall, psnr, rate, wilson
from embody.metrics.rollouts import Rollouts, measure

ENV = dataclasses.replace(
    minigrid().env, tasks=("BabyAI-GoToLocalS5N2-v0", "MiniGrid-DoorKey-6x6-v0"), max_steps=(40, 40)
)

# --- metrics --------------------------------------------------------------------------------------------------------


def test_psnr_by_hand() -> None:
    assert psnr(0.01) == pytest.approx(20.0)
    assert psnr(0.001) == pytest.approx(30.0)
    assert psnr(25.0, peak=255.0) == pytest.approx(20 * math.log10(255 / 5))
    assert psnr(0.0) == math.inf


def test_wilson_by_hand() -> None:
    # 5 of 10: centre 1/2, half width z / (2 sqrt(n + z^2)) = 1.96 / (2 sqrt(13.8416)) = 0.26341
    assert wilson(5, 10) == pytest.approx((0.23659, 0.76341), abs=1e-5)
    # 0 of 100: high = z^2 / (n + z^2) = 3.8416 / 103.8416
    assert wilson(0, 100) == pytest.approx((0.0, 0.036995), abs=1e-6)
    low, high = wilson(100, 100)
    assert (low, high) == pytest.approx((0.963005, 1.0), abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(AssertionError, match="11 successes of 10"):
        wilson(11, 10)


def test_wilson_is_scipys() -> None:
    for k in range(41):
        theirs = binomtest(k, 40).proportion_ci(method="wilson")
        assert wilson(k, 40, float(norm.ppf(0.975))) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_mean_over_tasks_is_pooled_wilson_when_tasks_are_equal() -> None:
    mean = mean_over_tasks({"a": (10, 50), "b": (40, 50)})
    assert mean.mean == pytest.approx(0.5) and mean.episodes == 100
    assert (mean.low, mean.high) == pytest.approx(wilson(50, 100))


def test_mean_over_tasks_weighs_tasks_not_episodes() -> None:
    mean = mean_over_tasks({"a": (90, 100), "b": (1, 10)})
    assert mean.mean == pytest.approx(0.5)
    # 2^2 / (1/100 + 1/10) = 36.36 episodes' worth, far from the 110 played
    assert (mean.low, mean.high) == pytest.approx(wilson(0.5 * 400 / 11, 400 / 11))
    with pytest.raises(AssertionError, match="no tasks"):
        mean_over_tasks({})
    with pytest.raises(AssertionError, match="no episodes"):
        mean_over_tasks({"a": (0, 0)})


def test_mean_over_tasks_of_one_episode_for_all() -> None:
    found = mean_over_tasks({"a": (10, 50), "b": (40, 50)}, together=True)
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, *wilson(25, 50))) and found.episodes == 50
    # Where an episode has all or nothing, no less will do.
    rng, hits = np.random.default_rng(0), 0
    for k in rng.binomial(50, 0.3, size=2000):
        low, high = (mean := mean_over_tasks({str(i): (int(k), 50) for i in range(4)}, together=True)).low, mean.high
        hits += low <= 0.3 <= high
    assert 0.93 <= hits / 2000 <= 0.98


def test_mean_over_tasks_interval_covers() -> None:
    rng = np.random.default_rng(0)
    truth, n = np.array([0.9, 0.05, 0.4, 0.6]), 100
    hits = 0
    for successes in rng.binomial(n, truth, size=(2000, 4)):
        found = mean_over_tasks({str(i): (int(k), n) for i, k in enumerate(successes)})
        hits += found.low <= truth.mean() <= found.high
    assert hits / 2000 >= 0.94


def test_precision_recall_by_hand() -> None:
    predicted, actual = [True, True, True, False, False], [True, False, False, True, False]
    assert precision_recall(predicted, actual) == (pytest.approx(1 / 3), pytest.approx(1 / 2))
    assert precision_recall([False, False], [False, True]) == (None, 0.0)
    assert precision_recall([True], [False]) == (0.0, None)


# --- cells ----------------------------------------------------------------------------------------------------------


def real_frames() -> np.ndarray:
    config = ENV
    envs = LockstepEnvs(config, "MiniGrid-DoorKey-6x6-v0", range(900_000, 900_016))
    rng, frames = np.random.default_rng(0), [envs.reset()]
    for _ in range(12):
        frames.append(envs.step(rng.integers(0, 7, (16, 1)), np.ones(16, bool))[0])
    return np.concatenate(frames)


def test_reader_reads_real_frames_exactly_and_noisy_ones_nearly() -> None:
    frames = real_frames()
    reader = CellReader.from_frames(frames)
    cells = reader.read(frames)
    assert cells.shape == (len(frames), 6, 6) and cells.dtype == np.int64
    # Template tiles laid out by the read indices rebuild every frame exactly.
    rebuilt = reader.templates[cells].swapaxes(2, 3).reshape(frames.shape)
    np.testing.assert_array_equal(rebuilt, frames)
    assert len(np.unique(reader.templates.reshape(len(reader.templates), -1), axis=0)) == len(reader.templates) > 8
    np.testing.assert_array_equal(reader.read(frames.astype(np.float32) / 255), cells)
    noisy = frames / 255 + np.random.default_rng(1).normal(0, 0.1, frames.shape)
    assert (reader.read(noisy) == cells).mean() > 0.99


def test_reader_tells_the_four_directions_of_the_agent_apart() -> None:
    config = ENV
    envs = LockstepEnvs(config, "MiniGrid-DoorKey-6x6-v0", [900_000])
    frames = [envs.reset()]
    for _ in range(4):  # left, four times round
        frames.append(envs.step(np.zeros((1, 1), np.int64), np.ones(1, bool))[0])
    cells = CellReader.from_frames(np.concatenate(frames)).read(np.concatenate(frames))
    turned = (cells != cells[0]).sum(axis=(1, 2))
    assert turned.tolist() == [0, 1, 1, 1, 0]
    assert len(np.unique(cells.reshape(5, -1), axis=0)) == 4


def test_reader_takes_any_leading_shape_and_picks_the_nearest() -> None:
    templates = np.zeros((3, 2, 2, 3), np.uint8)
    templates[1], templates[2] = 100, 200
    reader = CellReader(templates)
    frames = np.full((2, 3, 4, 6, 3), 149, np.uint8)
    frames[1] = 151
    cells = reader.read(frames)
    assert cells.shape == (2, 3, 2, 3)
    assert (cells[0] == 1).all() and (cells[1] == 2).all()
    with pytest.raises(ValueError, match="5x6x3 do not split into 2x2"):
        reader.read(np.zeros((1, 5, 6, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        CellReader.from_frames(np.zeros((1, 8, 8, 3), np.float32))


def test_reader_keeps_tiles_apart_that_differ_in_one_value() -> None:
    frames = np.zeros((1, 8, 16, 3), np.uint8)
    frames[0, 7, 15, 2] = 1  # the last byte of the second tile
    assert len(CellReader.from_frames(frames).templates) == 2


def test_cell_accuracies_by_hand() -> None:
    reference = np.array([[0, 0, 0, 0]])
    true = np.array([[0, 1, 2, 0]])
    predicted = np.array([[0, 1, 0, 5]])
    assert cell_accuracy(predicted, true) == 0.5
    assert changed_cell_accuracy(predicted, true, reference) == 0.5
    assert changed_cell_accuracy(reference, true, reference) == 0.0
    assert changed_cell_accuracy(predicted, reference, reference) is None
    assert cell_accuracy(predicted[:0], true[:0]) is None


# --- world model ----------------------------------------------------------------------------------------------------


def grey_rollouts(dtype: type) -> tuple[Rollouts, CellReader]:
    """Two rollouts, 12 horizons, one row of two 8x8 cells; the left cell turns from 0 to 200 at horizon 3.

    Imagined: the first is exact but 10 too bright in the left cell up to horizon 10; the second sees no change.
    """
    real = np.zeros((2, 12, 8, 16, 3))
    real[:, 2:, :, :8] = 200
    imagined = real.copy()
    imagined[0, :10, :, :8] += 10
    imagined[1] = 0
    valid = np.ones((2, 12), bool)
    valid[1, 6:] = False
    rewards, predicted = np.zeros((2, 12)), np.zeros((2, 12))
    rewards[0, 11], rewards[1, 5], rewards[1, 11] = 1, 1, 1  # the last one lies past the end
    predicted[0, 11], predicted[0, 3], predicted[1, 5], predicted[1, 9] = 0.9, 0.8, 0.4, 1
    scale = 1 if dtype is np.uint8 else 255
    frames: list[np.ndarray] = [(x / scale).astype(dtype) for x in (real[:, 0] * 0, real, imagined)]
    reader = CellReader.from_frames(np.concatenate([real[:, 0], real[:, 5]]).astype(np.uint8))
    return Rollouts(frames[0], frames[1], frames[2], valid, rewards, predicted), reader


def test_the_gain_beyond_horizon_10_by_hand() -> None:
    rollouts, _ = grey_rollouts(np.uint8)
    rollouts.imagined[0, 10, :, :8] += 20  # of the first rollout's two frames, horizons 11 and 12
    ours, copied = (20 / 255) ** 2 / 4, (200 / 255) ** 2 / 2
    assert measure(rollouts, None)["gain_over_copy_db_beyond"] == pytest.approx(psnr(ours) - psnr(copied), rel=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_measure_by_hand(dtype: type) -> None:
    rollouts, reader = grey_rollouts(dtype)
    found = measure(rollouts, reader)
    small, large = (10 / 255) ** 2 / 2, (200 / 255) ** 2 / 2  # squared error of a frame whose left cell is off
    # Horizons 1-10 hold 10 frames of the first rollout and 6 of the second, 4 of these after the change.
    ours, copied = (10 * small + 4 * large) / 16, (8 * large + 4 * large) / 16
    assert found["psnr_db"] == pytest.approx(psnr(ours), rel=1e-5)
    assert found["copy_psnr_db"] == pytest.approx(psnr(copied), rel=1e-5)
    assert found["gain_over_copy_db"] == pytest.approx(10 * math.log10(copied / ours), rel=1e-4)
    assert found["gain_over_copy_db_beyond"] is None  # imagined exactly: infinite
    horizon = found["horizon"]
    assert horizon["rollouts"] == [2] * 6 + [1] * 6
    assert horizon["psnr_db"][0] == pytest.approx(psnr(small / 2), rel=1e-5)
    assert horizon["psnr_db"][11] is None and horizon["copy_psnr_db"][0] is None
    assert horizon["copy_psnr_db"][11] == pytest.approx(psnr(large), rel=1e-5)
    assert horizon["cell_accuracy"] == [1, 1] + [0.75] * 4 + [1] * 6
    assert horizon["copy_cell_accuracy"] == [1, 1] + [0.5] * 10
    assert horizon["changed_cell_accuracy"] == [None, None] + [0.5] * 4 + [1] * 6
    assert found["changed_cell_accuracy"] == pytest.approx(10 / 14)
    assert found["changed_cell_accuracy_h10"] == found["cell_accuracy_h10"] == 1.0
    assert (found["reward_precision"], found["reward_recall"], found["rewards"]) == (0.5, 0.5, 2)


def test_measure_without_predicted_rewards() -> None:
    rollouts, reader = grey_rollouts(np.float32)
    found = measure(dataclasses.replace(rollouts, rewards_predicted=None), reader)
    nothing = {"reward_precision": None, "reward_recall": None, "rewards_within": None}
    assert found == measure(rollouts, reader) | nothing


def test_measure_ignores_what_is_past_the_end() -> None:
    rollouts, reader = grey_rollouts(np.float32)
    before = measure(rollouts, reader)
    for array in (rollouts.real, rollouts.imagined, rollouts.rewards_predicted):
        array[1, 6:] = np.nan
    assert measure(rollouts, reader) == before


def test_measure_copies_the_last_context_frame_and_reads_horizon_ten() -> None:
    rollouts, reader = grey_rollouts(np.uint8)
    rollouts.imagined[0, 9] = 0  # horizon 10 alone
    found = measure(rollouts, reader)
    assert (found["changed_cell_accuracy_h10"], found["cell_accuracy_h10"]) == (0.0, 0.5)
    rollouts.context_last[:] = rollouts.real[:, 5]
    horizon = measure(rollouts, reader)["horizon"]
    assert horizon["copy_psnr_db"][0] == pytest.approx(psnr((200 / 255) ** 2 / 2), rel=1e-5)
    assert horizon["copy_psnr_db"][2:] == [None] * 10  # equal
    assert horizon["copy_cell_accuracy"] == [0.5, 0.5] + [1] * 10


def test_measure_of_a_short_horizon() -> None:
    rollouts, reader = grey_rollouts(np.uint8)
    r = rollouts
    short = Rollouts(
        r.context_last, *(a[:, :4] for a in (r.real, r.imagined, r.valid, r.rewards_real, r.rewards_predicted))
    )
    found = measure(short, reader)
    assert found["changed_cell_accuracy_h10"] is None and found["cell_accuracy_h10"] is None
    assert found["gain_over_copy_db_beyond"] is None and found["reward_recall"] is None


# --- success --------------------------------------------------------------------------------------------------------


class Counter:
    """Environments whose frames count the steps; number i succeeds at step `seed` if it is played action 1 then."""

    def __init__(self, config: EnvConfig, task: str, seeds: Sequence[int]) -> None:
        self.seeds, self.labels = np.array(seeds), [f"{task} {seed}" for seed in seeds]
        self.now = np.zeros(len(seeds), int)

    def reset(self) -> np.ndarray:
        return self.frames()

    def frames(self) -> np.ndarray:
        return np.tile(self.now.astype(np.uint8)[:, None, None, None], (1, 8, 8, 3))

    def step(self, actions: np.ndarray, active: np.ndarray) -> tuple[np.ndarray, ...]:
        assert not (active & (self.now >= 5)).any(), "an episode that is over was played on"
        self.now = self.now + active
        terminated = active & (self.now == self.seeds) & (actions[:, 0] == 1)
        return self.frames(), terminated * 1.0, terminated, active & (self.now >= 5), terminated


class Scripted:
    """Plays action 1 at every second step, and checks that the previous actions it receives are its own."""

    def __init__(self) -> None:
        self.labels: list[list[str]] = []

    def begin(self, frames: np.ndarray, labels: list[str]) -> None:
        assert (frames == 0).all()
        self.step, self.n = 0, len(frames)
        self.labels.append(labels)

    def act(self) -> np.ndarray:
        return np.full((self.n, 1), (self.step + 1) % 2)

    def observe(self, actions: np.ndarray, frames: np.ndarray) -> None:
        self.step += 1
        assert frames.max() == self.step and (actions == self.step % 2).all()


def test_play_by_hand() -> None:
    policy = Scripted()
    seeds = [1, 2, 3, 4, 5]  # it plays 1 at steps 1, 3, 5
    found = play(EnvConfig(), "count", seeds, policy, batch=3, record=4, envs=Counter)
    assert found.success.tolist() == [True, False, True, False, True]
    assert found.length.tolist() == [1, 5, 3, 5, 5]
    assert found.counts == (3, 5)
    assert policy.labels == [["count 1", "count 2", "count 3"], ["count 4", "count 5"]]
    assert [len(r.frames) for r in found.recordings] == [2, 6, 4, 6]
    third = found.recordings[2]
    assert (third.task, third.label, third.success) == ("count", "count 3", True)
    assert third.frames[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert third.actions[:, 0].tolist() == [0, 1, 0, 1]


def test_random_play_in_the_real_environment() -> None:
    config, task = ENV, "BabyAI-GoToLocalS5N2-v0"
    seeds = range(900_000, 900_100)
    first, again = (play(config, task, seeds, random_policy(0), batch=50) for _ in range(2))
    np.testing.assert_array_equal(first.success, again.success)
    np.testing.assert_array_equal(first.length, again.length)
    assert 15 <= first.success.sum() <= 45  # 29 of 100 were counted once
    assert first.length.max() == 40 and first.length[~first.success].min() == 40
    assert len(first.recordings) == 4 and first.recordings[0].frames.shape[1:] == (48, 48, 3)
    with pytest.raises(AssertionError, match="0 seeds"):
        play(config, task, [], random_policy(0), batch=4)


def random_policy(seed: int) -> RandomPolicy:
    return RandomPolicy(ActionSpec((7,)), np.random.default_rng(seed))


def test_random_policy_is_uniform_over_every_factor() -> None:
    policy = RandomPolicy(ActionSpec((2, 5)), np.random.default_rng(0))
    policy.begin(np.zeros((10_000, 8, 8, 3), np.uint8), [""] * 10_000)
    actions = policy.act()
    assert actions.shape == (10_000, 2) and actions.dtype == np.int64
    np.testing.assert_allclose(np.bincount(actions[:, 0]) / 10_000, [0.5] * 2, atol=0.02)
    np.testing.assert_allclose(np.bincount(actions[:, 1]) / 10_000, [0.2] * 5, atol=0.02)


@dataclass
class Row:
    task: str
    noise: float
    success: bool
    labelled: bool = True
    source: str = "expert"


class Table:
    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def episodes(self, split: str) -> list[Row]:
        assert split == "train"
        return self.rows


def test_demonstrations_and_summary_by_hand() -> None:
    tables: list[Any] = [
        Table([Row("a", 0.0, True), Row("a", 0.0, True), Row("a", 0.5, False), Row("a", 0.5, True)]),
        Table([Row("b", 0.0, True), Row("b", 0.5, False), Row("b", 0.0, True, labelled=False)]),
        Table([Row("b", 0.0, False, source="off_task")]),
    ]
    found = demonstrations(tables, "train")
    assert found == Demonstrations(
        {"a": (3, 4), "b": (1, 3)},
        {"0": {"a": (2, 2), "b": (1, 1)}, "0.5": {"a": (1, 2), "b": (0, 1)}, "off_task": {"b": (0, 1)}},
    )
    table = summary({"random": {"a": (1, 10), "b": (3, 10)}}, found)
    assert list(table) == ["random", "demonstrations"]
    assert table["random"]["mean"] == pytest.approx(0.2) and table["random"]["episodes"] == 20
    assert (table["random"]["low"], table["random"]["high"]) == pytest.approx(wilson(4, 20))
    assert table["random"]["tasks"]["b"] == {
        "mean": pytest.approx(0.3),
        "low": pytest.approx(wilson(3, 10)[0]),
        "high": pytest.approx(wilson(3, 10)[1]),
        "episodes": 10,
    }
    assert table["demonstrations"]["mean"] == pytest.approx((3 / 4 + 1 / 3) / 2)
    assert table["demonstrations"]["by_noise"]["0.5"]["mean"] == pytest.approx(0.25)
    assert table["demonstrations"]["by_noise"]["0"]["episodes"] == 3
    assert list(summary({"random": {"a": (1, 10)}}, Demonstrations({}, {}))) == ["random"]
    assert rate(1, 10).mean == 0.1
