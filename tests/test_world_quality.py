"""Similarity of frames, rewards and returns of dreams: by hand, by published formulas, by identities."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from embody.agent.losses import lambda_returns
from embody.config import Config
from embody.data import EVERY_TASK, Dataset, DatasetWriter, Episode, Meta, discounted_returns, open_dataset
from embody.evaluation import held_out as measured
from embody.evaluation.held_out import action_shuffle_ratios, dream_held_out, tokenizer_quality
from embody.imagination import Imagined
from embody.metrics.rates import psnr
from embody.metrics.rewards import Returns, imagined_returns, matched, measure_returns, measure_rewards
from embody.metrics.rollouts import Rollouts, measure
from embody.metrics.similarity import frechet, lpips_distances, random_features, ssim
from embody.model import WorldAndAgent
from embody.tokenizer import Lpips
from embody.training.encode import encode_dataset
from tests.tiny_models import (
    ACTIONS,
    CONFIG,
    DYNAMICS,
    TASK,
    VOCABULARY,
    make_agent,
    make_dataset,
    make_dynamics,
    make_lpips_weights,
    make_tokenizer,
)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


# --- SSIM -----------------------------------------------------------------------------------------------------------


def literal_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Wang et al. 2004, window by window, in float64, of one colour `[H, W]` in 0..255."""
    places = np.arange(11) - 5
    weight = np.exp(-(places[:, None] ** 2 + places[None] ** 2) / (2 * 1.5**2))
    weight /= weight.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for row in range(x.shape[0] - 10):
        for column in range(x.shape[1] - 10):
            a, b = (image[row : row + 11, column : column + 11].astype(float) for image in (x, y))
            mean_a, mean_b = (weight * a).sum(), (weight * b).sum()
            var_a, var_b = (weight * (a - mean_a) ** 2).sum(), (weight * (b - mean_b) ** 2).sum()
            covariance = (weight * (a - mean_a) * (b - mean_b)).sum()
            luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
            values.append(luminance * (2 * covariance + c2) / (var_a + var_b + c2))
    return float(np.mean(values))


def test_ssim_is_the_published_one() -> None:
    x = noise(3, 16, 21)
    x[2] = np.linspace(200, 255, 16, dtype=np.uint8)[:, None, None]  # bright and smooth: variances are small
    y = np.clip(x + np.random.default_rng(1).normal(0, 12, x.shape), 0, 255).astype(np.uint8)
    expected = [np.mean([literal_ssim(a[..., c], b[..., c]) for c in range(3)]) for a, b in zip(x, y, strict=True)]
    assert min(expected) < 0.7 < max(expected)
    np.testing.assert_allclose(ssim(x, y), expected, atol=1e-4)


def test_ssim_identities() -> None:
    x, y = noise(130, 12, 12), noise(130, 12, 12, seed=1)
    np.testing.assert_allclose(ssim(x, x), 1, atol=1e-6)
    np.testing.assert_allclose(ssim(x, y), ssim(y, x), atol=1e-6)
    assert abs(ssim(x, y).mean()) < 0.1
    assert (ssim(x, 255 - x) < -0.5).all()  # the structure is turned round
    # Flat frames have no structure: luminance alone, (2 a b + C1) / (a^2 + b^2 + C1).
    flat, other = np.full((1, 11, 11, 3), 51, np.uint8), np.full((1, 11, 11, 3), 102, np.uint8)
    assert ssim(flat, other)[0] == pytest.approx((2 * 0.2 * 0.4 + 1e-4) / (0.2**2 + 0.4**2 + 1e-4), abs=1e-5)
    assert np.isnan(ssim(noise(2, 10, 30), noise(2, 10, 30))).all() and ssim(x[:0], y[:0]).shape == (0,)


# --- the Frechet distance -------------------------------------------------------------------------------------------


def test_frechet_of_given_gaussians() -> None:
    """Sets with exactly these means and covariances; those of the second case do not commute."""
    rng = np.random.default_rng(0)
    white = rng.normal(size=(50, 2))
    white -= white.mean(axis=0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white, rowvar=False))).T
    np.testing.assert_allclose(np.cov(white, rowvar=False), np.eye(2), atol=1e-12)
    # Diagonal: |m - m'|^2 + sum (s - s')^2.
    assert frechet(white * [1, 2], white * [3, 0.5] + [1, -2]) == pytest.approx(5 + (1 - 3) ** 2 + (2 - 0.5) ** 2)
    # 2 x 2: tr (C C')^(1/2) = sqrt(tr C C' + 2 sqrt(det C C')).
    a, b = np.array([[2.0, 1.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [-1.0, 3.0]])
    first, second = a @ a.T, b @ b.T
    root = math.sqrt(np.trace(first @ second) + 2 * math.sqrt(np.linalg.det(first @ second)))
    expected = np.trace(first) + np.trace(second) - 2 * root
    assert frechet(white @ a.T, rng.permutation(white) @ b.T) == pytest.approx(expected)
    assert frechet(white @ a.T, white @ a.T) == pytest.approx(0, abs=1e-12)
    assert math.isnan(frechet(white[:2], white)) and frechet(white[:, :1], white[:, :1] + 3) == pytest.approx(9)


def test_random_features_never_change_and_see_what_differs() -> None:
    frames = noise(400, 16, 24)
    found = random_features(frames)
    assert found.shape == (400, 32) and found.dtype == np.float64 and random_features(frames[:0]).shape == (0, 32)
    plain = (np.arange(16 * 24 * 3) * 37 % 256).astype(np.uint8).reshape(1, 16, 24, 3)
    np.testing.assert_allclose(random_features(plain)[0, :4], PINNED, rtol=1e-4)  # on every machine
    blurred = ((frames.astype(int) + np.roll(frames, 1, axis=1) + np.roll(frames, 1, axis=2)) // 3).astype(np.uint8)
    same = frechet(found[:200], found[200:])
    assert frechet(random_features(blurred[:200]), found[200:]) > 20 * same
    assert frechet(found, found) == pytest.approx(0, abs=1e-9)


PINNED = [0.0, 0.3492236, 0.7054641, 0.7251060]

# --- measured of rollouts -------------------------------------------------------------------------------------------


def some_rollouts(side: int = 12, horizon: int = 20) -> Rollouts:
    """60 rollouts whose imagined frames are the real ones under noise; every other one ends at horizon 15."""
    rng = np.random.default_rng(0)
    last = rng.integers(0, 256, (60, side, side, 3), dtype=np.uint8)
    real = np.stack([np.roll(last, h, axis=2) for h in range(1, horizon + 1)], axis=1)
    imagined = np.clip(real + rng.normal(0, 8, real.shape), 0, 255).astype(np.uint8)
    valid = np.ones((60, horizon), bool)
    valid[::2, 15:] = False
    return Rollouts(last, real, imagined, valid, np.zeros((60, horizon)), None)


def test_likeness_is_measured_by_horizon_where_the_episode_goes_on() -> None:
    r = some_rollouts()
    found = measure(r, None)
    horizon = found["horizon"]
    assert horizon["rollouts"] == [60] * 15 + [30] * 5
    by_hand = np.stack([ssim(r.imagined[:, h], r.real[:, h]) for h in range(20)], axis=1)
    assert horizon["ssim"][3] == pytest.approx(by_hand[:, 3].mean())
    assert horizon["ssim"][17] == pytest.approx(by_hand[1::2, 17].mean())
    assert found["ssim"] == pytest.approx(by_hand[:, :10].mean())
    assert horizon["copy_ssim"][17] == pytest.approx(ssim(r.context_last[1::2], r.real[1::2, 17]).mean())
    assert horizon["copy_ssim"][11] == pytest.approx(1)  # rolled all the way round
    near = [x[:, :10].reshape(-1, 12, 12, 3) for x in (r.imagined, r.real)]
    assert found["frechet"] == pytest.approx(frechet(*map(random_features, near)))
    assert horizon["frechet"][2] == pytest.approx(
        frechet(random_features(r.imagined[:, 2]), random_features(r.real[:, 2]))
    )
    assert horizon["copy_frechet"][2] == pytest.approx(
        frechet(random_features(r.context_last), random_features(r.real[:, 2]))
    )
    assert horizon["frechet"][16] is None and horizon["frechet"][14] is not None  # 30 frames, 32 features
    assert found["lpips"] is None and set(horizon["lpips"]) == {None}

    def brightness(frames: np.ndarray) -> np.ndarray:
        return frames.mean(axis=(1, 2, 3))[:, None] / 255

    other = measure(r, None, features=brightness)["horizon"]["frechet"]
    assert other[16] == pytest.approx(frechet(brightness(r.imagined[1::2, 16]), brightness(r.real[1::2, 16])))


def test_lpips_is_measured_at_some_horizons() -> None:
    r = some_rollouts(side=32, horizon=6)
    r = Rollouts(*(getattr(r, f.name)[:4] for f in dataclasses.fields(r)[:5]), None)
    network = Lpips("alex", make_lpips_weights("alex"))
    found = measure(r, None, network)
    assert [value is None for value in found["horizon"]["lpips"]] == [False, False, True, True, False, True]
    expected = lpips_distances(network, r.imagined[:, 4], r.real[:, 4])
    units = [torch.from_numpy(x[:, 4]).permute(0, 3, 1, 2) / 127.5 - 1 for x in (r.imagined, r.real)]
    np.testing.assert_allclose(expected, network(*units).numpy(), rtol=1e-3)
    assert found["horizon"]["lpips"][4] == pytest.approx(expected.mean())
    assert found["horizon"]["copy_lpips"][4] > 2 * found["horizon"]["lpips"][4]
    assert np.isnan(lpips_distances(network, noise(2, 31, 40), noise(2, 31, 40))).all()


# --- rewards and returns --------------------------------------------------------------------------------------------


def at(*rows: list[int], horizon: int = 12) -> np.ndarray:
    return np.array([[timestep in row for timestep in range(horizon)] for row in rows])


def test_rewards_are_matched_once_within_the_tolerance() -> None:
    cases = [
        ([4], [6], 1, 0),
        ([4], [6], 2, 1),
        ([6], [4], 2, 1),
        ([4, 5, 6], [5], 2, 1),  # said three times, there once
        ([5], [4, 5, 6], 2, 1),
        ([2, 4], [0, 3], 2, 2),  # the nearest first would leave 4 for 3, and 2 for 0: as here
        ([3, 4], [2, 3], 1, 2),  # timestep 3 takes 2, and leaves 3 to timestep 4
        ([3], [3], 0, 1),
        ([2], [3], 0, 0),
    ]
    for said, there, tolerance, pairs in cases:
        assert matched(at(said), at(there), tolerance) == pairs, (said, there, tolerance)
    assert matched(at([3], []), at([], [3]), 5) == 0  # of two rollouts


def test_rewards_by_task() -> None:
    predicted, actual = at([4], [2, 9], [], []), at([5], [2], [3], [])
    found = measure_rewards(predicted, actual, ("a", "a", "b", "c"), tolerance=1)
    assert (found["precision"], found["recall"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert found["tasks"]["a"] == {"rewards": 2, "predicted": 3, "precision": pytest.approx(2 / 3), "recall": 1.0}
    assert found["tasks"]["b"] == {"rewards": 1, "predicted": 0, "precision": None, "recall": 0.0}
    assert found["tasks"]["c"] == {"rewards": 0, "predicted": 0, "precision": None, "recall": None}
    exact = measure_rewards(predicted, actual, (), tolerance=0)
    assert (exact["precision"], exact["recall"], exact["tasks"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3), {})


def test_imagined_returns_are_those_of_phase_3_at_lambda_1() -> None:
    rng = np.random.default_rng(0)
    rewards, continues, values = rng.normal(size=(3, 5)), rng.random((3, 5)), rng.normal(size=3)
    found = imagined_returns(rewards, continues, values, np.ones((3, 5), bool), 0.9)
    padded = [torch.tensor(np.insert(x, 0, 0, axis=1)) for x in (rewards, continues)]
    last = torch.zeros(3, 6, dtype=torch.float64)
    last[:, -1] = torch.tensor(values)
    np.testing.assert_allclose(found, lambda_returns(*padded, last, 0.9, 1.0)[:, 0].numpy())
    # An episode that ends after two timesteps: r_1 + gamma c_1 r_2, and no value.
    ended = imagined_returns(rewards, continues, values, np.arange(5) < np.array([[2]] * 3), 0.9)
    np.testing.assert_allclose(ended, rewards[:, 0] + 0.9 * continues[:, 0] * rewards[:, 1])


def test_returns_by_hand() -> None:
    recorded = np.array([0.0, 1.0, 2.0])
    found = measure_returns(Returns(recorded, 2 * recorded + 1, np.array([1.0, 1.0, 1.0])))
    assert found["imagined"] == {
        "correlation": pytest.approx(1),
        "mean_error": pytest.approx(2),
        "mean_absolute_error": pytest.approx(2),
    }
    assert found["value"]["correlation"] is None and found["value"]["mean_error"] == 0
    assert found["value"]["mean_absolute_error"] == pytest.approx(2 / 3)
    assert (found["contexts"], found["recorded_mean"]) == (3, 1)


# --- the models -----------------------------------------------------------------------------------------------------


def settings(rollouts: int, horizon: int) -> Config:
    evaluation = dataclasses.replace(CONFIG.evaluation, rollouts=rollouts, horizon=horizon)
    return dataclasses.replace(CONFIG, evaluation=evaluation)


def with_events(root: Path, steps: int) -> Dataset:
    """Two recordings of two tasks: the first is achieved at every 5th timestep, the second at timestep 7 of one."""
    random, episodes = np.random.default_rng(0), []
    for seed in range(2):
        actions = random.integers(0, ACTIONS.sizes, (steps, 2))
        actions[0] = 0
        events = np.zeros((steps, 2), bool)
        events[5::5, 0], events[7, 1] = True, seed == 0
        frames = random.integers(0, 256, (steps, 8, 12, 3), dtype=np.uint8)
        nothing = np.zeros(steps, np.float32), np.zeros(steps, bool)
        fields: dict[str, Any] = dict(source="person", noise=0.0, seed=seed, success=True, events=events)
        episodes.append(Episode(frames, actions, *nothing, EVERY_TASK, "", **fields))
    meta = Meta(("open", "paint"), ACTIONS, 8, 12, 5, VOCABULARY, labels=("go to the door", "red"))
    writer = DatasetWriter(root / TASK, meta)
    writer.write_shard("validation", 0, episodes)
    writer.finish()
    return open_dataset(root / TASK)


def encoded(dataset: Dataset) -> Dataset:
    encode_dataset(make_tokenizer(), "abc", dataset)
    return dataset


def test_dreams_of_recordings_of_many_tasks(tmp_path: Path) -> None:
    dataset, config = encoded(with_events(tmp_path, 60)), settings(rollouts=24, horizon=12)
    dynamics = make_dynamics()
    dreams = dream_held_out(config, make_tokenizer(), WorldAndAgent(dynamics, make_agent()), [dataset], "abc")
    r, returns = dreams.rollouts, dreams.returns
    assert set(r.tasks) == {"open", "paint"} and returns is not None
    of_open = np.array(r.tasks) == "open"
    whole = r.valid.all(axis=1)
    assert set(r.rewards_real[of_open & whole].sum(axis=1)) <= {2, 3} and whole.sum() > 10
    assert r.rewards_real[~of_open].sum(axis=1).max() <= 1
    # Every return belongs to a timestep of one of the recordings, under its task, at the gamma of imagination.
    possible: dict[str, list[float]] = {"open": [], "paint": []}
    for task, name in enumerate(("open", "paint")):
        for episode in range(2):
            events = dataset.events(episode)
            assert events is not None
            rewards = events[:, task].astype(np.float32)
            possible[name] += discounted_returns(rewards, np.array([0, 60]), 0.9).tolist()
    for recorded, task in zip(returns.recorded, r.tasks, strict=True):
        assert np.isclose(possible[task], recorded, atol=1e-5).any()
    found = measure(dataclasses.replace(r, rewards_predicted=r.rewards_real.copy()), None)
    assert found["reward_precision"] == found["reward_recall"] == 1
    assert found["rewards_within"]["tasks"]["open"]["recall"] == 1
    assert found["rewards_within"]["tasks"]["open"]["rewards"] == r.rewards_real[of_open].sum()
    assert measure(r, None)["horizon"]["rollouts"] == r.valid.sum(axis=0).tolist()
    assert all(value > 0 for value in action_shuffle_ratios(config, dynamics, [dataset], "abc").values())


def test_dreams_of_everything_are_told_apart_by_task(tmp_path: Path) -> None:
    """Real rewards are the first achievements of each task, by hand; dreamt ones are predicted from dreamt frames."""
    dataset = encoded(with_events(tmp_path, 60))
    agent_config = dataclasses.replace(CONFIG.agent, goal="all", tasks=4)
    config = dataclasses.replace(settings(rollouts=64, horizon=5), agent=agent_config)
    model = WorldAndAgent(make_dynamics(), make_agent(agent_config))
    assert model.events is not None
    dreams = dream_held_out(config, make_tokenizer(), model, [dataset], "abc")
    r = dreams.rollouts
    assert r.tasks == ("open", "paint") and r.rewards_real.shape == (64, 5, 2) == r.rewards_predicted.shape
    firsts = {(episode, task): at for episode, task, at in ((0, 0, 5), (1, 0, 5), (0, 1, 7))}
    for row in range(64):
        context = r.context_last[row]
        (episode, timestep), *_ = [
            (e, t) for e in range(2) for t in range(60) if (dataset.frames(e, t, t + 1)[0] == context).all()
        ]
        expected = np.zeros((5, 2), bool)
        for (e, task), at in firsts.items():
            if e == episode and timestep < at <= timestep + 5:
                expected[at - timestep - 1, task] = True
        np.testing.assert_array_equal(r.rewards_real[row], expected)
    assert r.rewards_real.any(axis=(0, 1)).all()
    found = measure(dataclasses.replace(r, rewards_predicted=r.rewards_real.copy()), None)["rewards_within"]
    assert found["precision"] == found["recall"] == 1 and found["rewards"] == r.rewards_real.sum()
    assert found["tasks"]["paint"]["rewards"] == r.rewards_real[..., 1].sum()
    with torch.no_grad():
        model.events.mlp[-1].bias[:] = torch.tensor(
            [50.0, -50.0, 50.0, 50.0]
        )  # all that is left of "open" comes at once
    always = dream_held_out(config, make_tokenizer(), model, [dataset], "abc").rollouts
    assert always.rewards_predicted is not None and not always.rewards_predicted[..., 1].any()
    assert not always.rewards_predicted[:, 1:].any() and always.rewards_predicted[:, 0, 0].any()


def test_dreams_go_on_past_the_window(tmp_path: Path) -> None:
    """Context 3 and horizon 40 in a window of 8: as a short dream until the cache is full, then the window moves."""
    dataset, tokenizer = encoded(make_dataset(tmp_path, [60, 25], "validation")), make_tokenizer()
    model = WorldAndAgent(make_dynamics(dataclasses.replace(DYNAMICS, context=8)), make_agent())
    long, short = (
        dream_held_out(settings(16, horizon), tokenizer, model, [dataset], "abc").rollouts for horizon in (40, 5)
    )
    assert long.imagined.shape[:2] == (16, 40)
    np.testing.assert_array_equal(long.real[:, :5], short.real)
    assert np.abs(long.imagined[:, :5].astype(int) - short.imagined).max() <= 1
    assert long.rewards_predicted is not None and np.isfinite(long.rewards_predicted).all()
    late = long.imagined[:, 30:].astype(int)
    assert np.abs(np.diff(late, axis=1)).max() > 0  # it still moves
    rollouts = measure(long, None)["horizon"]["rollouts"]
    assert rollouts[0] == 16 > rollouts[-1] > 0 and rollouts == sorted(rollouts, reverse=True)


def test_a_held_out_dream_stands_beside_its_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames, actions, rewards and returns belong to the timesteps after the context; each reward is its timestep."""
    lengths, horizon, context = (9, 30), 4, CONFIG.evaluation.context
    rewards = [0.5 * t for length in lengths for t in range(length)]
    dataset = encoded(make_dataset(tmp_path, list(lengths), "validation", rewards=rewards))
    asked: list[Tensor] = []

    class Told:
        def __init__(self, *_: object, **__: object) -> None: ...

        def reset(self, latents: Tensor, *_: Tensor) -> Tensor:
            self.rows = len(latents)
            return torch.arange(float(context)).expand(self.rows, -1)[..., None]

        def imagine(self, actions: Tensor) -> Imagined:
            asked.append(actions)
            h = torch.arange(100.0, 100 + horizon).expand(self.rows, -1)
            ones = torch.ones(self.rows, horizon)
            return Imagined(
                h[..., None, None].expand(-1, -1, 2, 8), h[..., None], 0 * ones, ones, ones[..., None][..., :0].bool()
            )

    tokenizer = make_tokenizer()
    monkeypatch.setattr(measured, "Dream", Told)
    model = WorldAndAgent(make_dynamics(), make_agent())
    monkeypatch.setattr(measured, "_values", lambda _, features: features[:, 0].numpy())
    monkeypatch.setattr(tokenizer, "decode_video", lambda z: z[:, :, :1, :1, None].expand(-1, -1, 3, 8, 12) / 255)
    found = dream_held_out(settings(32, horizon), tokenizer, model, [dataset], "abc")
    rollouts, returns = found.rollouts, found.returns
    assert returns is not None and rollouts.rewards_real is not None
    places = [(episode, timestep) for episode in range(2) for timestep in range(lengths[episode])]
    for row in range(32):
        episode, timestep = next(
            place
            for place in places
            if np.array_equal(dataset.frames(place[0], place[1], place[1] + 1)[0], rollouts.context_last[row])
        )
        behind = range(timestep + 1, lengths[episode])
        there = behind[:horizon]
        n = len(there)
        assert rollouts.valid[row].tolist() == [True] * n + [False] * (horizon - n)
        if n:
            steps = (episode, timestep + 1, timestep + 1 + n)
            np.testing.assert_array_equal(rollouts.real[row, :n], dataset.frames(*steps))
            np.testing.assert_array_equal(asked[0][row, :n], dataset.actions[dataset.rows(*steps)])
        assert rollouts.rewards_real[row, :n].tolist() == [0.5 * t for t in there]
        assert rollouts.imagined[row, :, 0, 0, 0].tolist() == [100, 101, 102, 103]
        recorded = sum(0.5 * t * 0.9 ** (t - timestep - 1) for t in behind)
        assert returns.recorded[row] == pytest.approx(recorded, rel=1e-5)
        assert returns.value[row] == context - 1
        assert returns.imagined[row] == pytest.approx(0.9**4 * 103 if n == horizon else 0)


def test_tokenizer_quality_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a decoder that is 3 levels too dark; from 130 frames, five clips of 20 are used."""
    dataset, tokenizer = make_dataset(tmp_path, [5, 130], "validation"), make_tokenizer()
    monkeypatch.setattr(tokenizer, "encode_video", lambda frames: frames)
    monkeypatch.setattr(tokenizer, "decode_video", lambda frames: (frames.int() - 3).clamp(min=0) / 255)
    values, (real, _) = tokenizer_quality(tokenizer, [dataset], None, 8)
    assert values["frames"] == 5 + 100 == len(real)
    assert values["psnr_db"] == pytest.approx(psnr(float(((np.minimum(real, 3) / 255) ** 2).mean())))
    np.testing.assert_array_equal(real[5:25], dataset.frames(1, 0, 20))
    np.testing.assert_array_equal(real[-20:], dataset.frames(1, 110, 130))


def test_the_value_is_that_of_the_contexts_last_timestep(tmp_path: Path) -> None:
    """A value head that says 2 at once, rewards of 0 and certain continues: imagined is gamma^H 2."""
    dataset, agent = encoded(make_dataset(tmp_path, [40, 40], "validation")), make_agent()
    tokenizer, model = make_tokenizer(), WorldAndAgent(make_dynamics(), agent)
    short, long = (dream_held_out(settings(12, h), tokenizer, model, [dataset], "abc").returns for h in (2, 6))
    assert short is not None and long is not None and short.value.std() > 0.01
    np.testing.assert_allclose(short.value, long.value, rtol=1e-4)  # known before anything is dreamt
    assert np.abs(short.imagined - long.imagined).max() > 0.01
    heads = agent.heads
    with torch.no_grad():
        for head in (heads.value, heads.reward, heads.continues):
            head[-1].weight.zero_()
            head[-1].bias.zero_()
        heads.value[-1].bias[:] = heads.value_bins.encode(torch.tensor(2.0)).clamp(min=1e-9).log()
        heads.reward[-1].bias.view(3, -1)[:] = heads.reward_bins.encode(torch.tensor(0.0)).clamp(min=1e-9).log()
        heads.continues[-1].bias.fill_(50.0)
    dreams = dream_held_out(settings(12, 4), tokenizer, model, [dataset], "abc")
    assert dreams.returns is not None
    np.testing.assert_allclose(dreams.returns.value, 2, rtol=1e-3)
    expected = np.where(dreams.rollouts.valid[:, -1], 0.9**4 * 2, 0)
    np.testing.assert_allclose(dreams.returns.imagined, expected, atol=1e-3)
    without = dream_held_out(settings(4, 4), tokenizer, model.dynamics, [dataset], "abc")
    assert without.returns is None and without.rollouts.rewards_predicted is None
