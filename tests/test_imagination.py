"""The dream against a recomputation from scratch, the player against the data, and learning inside the dream."""

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import (
    check_reset_seed_determinism,
    check_returned_data_not_reused,
    check_step_determinism,
)
from numpy.typing import NDArray
from torch import Tensor, nn

from embody.agent import Agent, PmpoLoss, lambda_returns
from embody.config import AgentConfig, to_dict
from embody.data import (
    BatchShapes,
    ClipSpec,
    Dataset,
    EpisodeSelection,
    Placement,
    Relabelling,
    batches,
    open_latents,
)
from embody.data.sampling.batch import Batch
from embody.dynamics import Dynamics
from embody.imagination import Dream, DreamEnv, DreamStep, Player
from embody.model import WorldAndAgent, load_world_and_agent
from embody.nn.noise import GeneratorNoise, RowNoise
from embody.saving.tensors import save_tensors
from embody.training.encode import encode_dataset
from embody.training.imagination import ImaginationStage, dream_trajectories
from embody.training.loop import StepContext
from tests.tiny_models import (
    ACTIONS,
    AGENT,
    BEHAVIOUR,
    CONFIG,
    DYNAMICS,
    ONE_TIME_LAYER,
    SAMPLING,
    VOCABULARY,
    make_actions,
    make_agent,
    make_batch,
    make_dataset,
    make_dynamics,
    make_tokenizer,
    seeded,
)

CONTEXT, STEPS = 3, 4
WINDOW = DYNAMICS.context


def timestep(batch: Batch, t: int) -> Tensor:
    return batch.actions[:, t]


def start(dream: Dream, batch: Batch, frames: int = CONTEXT) -> Tensor:
    """Features of the first `frames` timesteps of `batch`."""
    assert batch.latents is not None
    return dream.reset(batch.latents[:, :frames], batch.actions[:, :frames], batch.is_first[:, :frames], batch.task)


# --- the dream ------------------------------------------------------------------------------------------------------


class Recomputed:
    """The dream without any cache: each pass goes anew over all frames of the window, noised as they were kept."""

    def __init__(self, dynamics: Dynamics, agent: Agent, batch: Batch, seed: int) -> None:
        self.dynamics, self.agent, self.generator, self.task = dynamics, agent, seeded(seed), batch.task
        self.kept = torch.zeros(batch.rows, 0, 2, 8)
        self.actions = torch.zeros(batch.rows, 0, 2, dtype=torch.long)
        self.is_first = torch.zeros(batch.rows, 0, dtype=torch.bool)

    def run(self, z: Tensor, tau: float, d: float, actions: Tensor, is_first: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions and features of the last frames `z` `[B, n, L, Z]`."""
        level, d_min = self.dynamics.context_level, 1 / DYNAMICS.k_max
        noised = torch.cat((self.kept, z), dim=1)
        taus = torch.full(noised.shape[:2], level)
        steps = torch.full(noised.shape[:2], d_min)
        taus[:, self.kept.shape[1] :], steps[:, self.kept.shape[1] :] = tau, d
        arguments = (
            noised,
            taus,
            steps,
            torch.cat((self.actions, actions), 1),
            torch.cat((self.is_first, is_first), 1),
        )
        seen = [part[:, -WINDOW:] for part in arguments]
        prediction = self.dynamics(*seen)
        features = self.agent(self.task, prediction.memory, seen[0].shape[1], blocks=self.dynamics.trunk.blocks)
        return prediction.clean[:, -z.shape[1] :], features[:, -z.shape[1] :]

    def keep(self, z: Tensor, actions: Tensor, is_first: Tensor) -> Tensor:
        noise, level = torch.randn(z.shape, generator=self.generator), self.dynamics.context_level
        noised = (1 - level) * noise + level * z
        _, features = self.run(noised, level, 1 / DYNAMICS.k_max, actions, is_first)
        self.kept = torch.cat((self.kept, noised), dim=1)
        self.actions = torch.cat((self.actions, actions), dim=1)
        self.is_first = torch.cat((self.is_first, is_first), dim=1)
        return features

    def step(self, actions: Tensor, k_sample: int) -> tuple[Tensor, Tensor]:
        z = torch.randn(len(actions), 1, 2, 8, generator=self.generator)
        not_first = torch.zeros(len(actions), 1, dtype=torch.bool)
        for k in range(k_sample):
            clean, _ = self.run(z, k / k_sample, 1 / k_sample, actions[:, None], not_first)
            z = z + (clean - z) / (1 - k / k_sample) / k_sample
        return z[:, 0], self.keep(z, actions[:, None], not_first)[:, 0]


@torch.no_grad()
@pytest.mark.parametrize(
    ("pattern", "steps", "k_sample"), [("STST", STEPS, 4), ("STST", STEPS, 1), (ONE_TIME_LAYER.pattern, 9, 2)]
)
def test_a_dream_equals_its_recomputation_from_scratch(pattern: str, steps: int, k_sample: int) -> None:
    trunk = dataclasses.replace(DYNAMICS.trunk, pattern=pattern)
    dynamics, agent = make_dynamics(dataclasses.replace(DYNAMICS, trunk=trunk)), make_agent(trunk=trunk)
    batch = make_batch(2, CONTEXT + steps)
    batch.is_first[:, 0] = True
    assert (CONTEXT + steps > WINDOW) == (pattern != "STST")  # beyond the window only a single time layer is exact
    dream = Dream(WorldAndAgent(dynamics, agent), k_sample=k_sample, noise=GeneratorNoise(seeded(5)))
    reference = Recomputed(dynamics, agent, batch, 5)
    assert batch.latents is not None
    context = batch.latents[:, :CONTEXT].reshape(2, CONTEXT, 2, 8)
    expected = reference.keep(context, batch.actions[:, :CONTEXT], batch.is_first[:, :CONTEXT])
    torch.testing.assert_close(start(dream, batch), expected, atol=2e-5, rtol=1e-4)
    for t in range(CONTEXT, CONTEXT + steps):
        latents, features = reference.step(timestep(batch, t), k_sample)
        step = dream.step(timestep(batch, t))
        torch.testing.assert_close(step.latents, latents, atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(step.features, features, atol=2e-5, rtol=1e-4)
        out = agent.heads(features)
        reward = agent.heads.reward_bins.decode_peak(out.reward[:, 0])
        torch.testing.assert_close(step.reward, reward, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(step.continues, out.continues.sigmoid(), atol=1e-4, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("k_sample", [1, 4])
@pytest.mark.parametrize("with_agent", [True, False])
def test_known_actions_lead_to_the_same_in_fewer_passes(k_sample: int, with_agent: bool) -> None:
    dynamics = make_dynamics()
    model = WorldAndAgent(dynamics, make_agent()) if with_agent else dynamics
    steps = WINDOW + 3  # past the window, where each frame drops another
    batch = make_batch(2, CONTEXT + steps)
    passes: list[int] = []
    dynamics.register_forward_pre_hook(lambda _, arguments: passes.append(arguments[0].shape[1]))
    one_by_one, fused = (Dream(model, k_sample=k_sample, noise=GeneratorNoise(seeded(5))) for _ in range(2))
    start(one_by_one, batch)
    expected = [one_by_one.step(timestep(batch, t)) for t in range(CONTEXT, CONTEXT + steps)]
    start(fused, batch)
    passes.clear()
    found = fused.imagine(batch.actions[:, CONTEXT:])
    # The first frame has nothing to keep; the last one is kept in a pass of its own.
    assert passes == [1] * k_sample + ([2] + [1] * (k_sample - 1)) * (steps - 1) + [1]
    for name in ("latents", "features", "reward", "continues"):
        wanted = torch.stack([getattr(step, name) for step in expected], dim=1)
        torch.testing.assert_close(getattr(found, name), wanted, atol=1e-5, rtol=1e-5)
    # And both go on alike.
    torch.testing.assert_close(
        fused.step(timestep(batch, 0)).latents, one_by_one.step(timestep(batch, 0)).latents, atol=1e-5, rtol=1e-5
    )


def test_observed_frames_stand_where_dreamt_ones_would() -> None:
    dynamics, agent, batch = make_dynamics(), make_agent(), make_batch(1, 6)
    at_once = start(Dream(WorldAndAgent(dynamics, agent), k_sample=2, noise=GeneratorNoise(seeded(5))), batch, 6)
    dream = Dream(WorldAndAgent(dynamics, agent), k_sample=2, noise=GeneratorNoise(seeded(5)))
    found = [start(dream, batch, 3)]
    assert batch.latents is not None
    for t in range(3, 6):
        found.append(dream.observe(batch.latents[:, t], timestep(batch, t))[:, None])
    torch.testing.assert_close(torch.cat(found, dim=1), at_once, atol=1e-5, rtol=1e-4)


def test_the_agent_does_not_change_the_dream() -> None:
    dynamics, batch = make_dynamics(), make_batch(2, CONTEXT + STEPS)
    with_agent = Dream(WorldAndAgent(dynamics, make_agent()), k_sample=2, noise=GeneratorNoise(seeded(5)))
    without = Dream(dynamics, k_sample=2, noise=GeneratorNoise(seeded(5)))
    assert start(without, batch).shape == (2, CONTEXT, 0) and start(with_agent, batch).shape == (2, CONTEXT, 32)
    for t in range(CONTEXT, CONTEXT + STEPS):
        step = without.step(timestep(batch, t))
        assert torch.equal(step.latents, with_agent.step(timestep(batch, t)).latents)
        assert step.reward.shape == step.continues.shape == (2, 0)


def test_actions_tasks_and_noise_tell_dreams_apart() -> None:
    dynamics, agent, batch = make_dynamics(), make_agent(), make_batch(2, CONTEXT + 1)

    def dreamt(batch: Batch, seed: int = 5) -> Any:
        dream = Dream(WorldAndAgent(dynamics, agent), k_sample=2, noise=GeneratorNoise(seeded(seed)))
        start(dream, batch)
        return dream.step(timestep(batch, CONTEXT))

    one = dreamt(batch)
    assert torch.equal(one.latents, dreamt(batch).latents)
    assert (one.latents - dreamt(batch, seed=6).latents).abs().max() > 0.1
    other_actions = dataclasses.replace(batch, actions=(batch.actions + 1) % torch.tensor(ACTIONS.sizes))
    assert (one.latents - dreamt(other_actions).latents).abs().max() > 1e-3
    other_task = dreamt(dataclasses.replace(batch, task=batch.task.roll(1, dims=1)))
    assert torch.equal(one.latents, other_task.latents)
    assert (one.features - other_task.features).abs().max() > 1e-3


def test_selected_rows_dream_on_alone() -> None:
    # A context without noise: rows share a generator, so the third of three would draw other noise than one alone.
    dynamics = make_dynamics(dataclasses.replace(DYNAMICS, context_tau=1.0))
    agent, batch = make_agent(), make_batch(3, CONTEXT + 2)
    dream, alone = (
        Dream(WorldAndAgent(dynamics, agent), k_sample=2, noise=GeneratorNoise(seeded(5))) for _ in range(2)
    )
    start(dream, batch)
    dream.select(torch.tensor([2]))
    present = [field.name for field in dataclasses.fields(Batch) if getattr(batch, field.name) is not None]
    only = dataclasses.replace(batch, **{name: getattr(batch, name)[2:] for name in present})
    start(alone, only)
    for t in (CONTEXT, CONTEXT + 1):
        for each in (dream, alone):
            each.noise = GeneratorNoise(seeded(t))
        found, expected = dream.step(timestep(only, t)), alone.step(timestep(only, t))
        torch.testing.assert_close(found.latents, expected.latents, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.features, expected.features, atol=1e-5, rtol=1e-4)


def test_a_context_longer_than_the_window_is_refused() -> None:
    dream = Dream(make_dynamics(), k_sample=2, noise=GeneratorNoise(seeded(0)))
    with pytest.raises(ValueError, match="9 frames does not fit dynamics.context 8"):
        start(dream, make_batch(1, WINDOW + 1), WINDOW + 1)
    assert start(dream, make_batch(1, WINDOW), WINDOW).shape == (1, WINDOW, 0)


@pytest.mark.parametrize("k_sample", [0, 3, 16])
def test_a_number_of_steps_off_the_grid_is_refused(k_sample: int) -> None:
    with pytest.raises(ValueError, match=f"k_sample {k_sample} must divide k_max 8"):
        Dream(make_dynamics(), k_sample=k_sample, noise=GeneratorNoise(seeded(0)))


# --- the player -----------------------------------------------------------------------------------------------------


@pytest.fixture
def encoded(tmp_path: Path) -> Dataset:
    """Episodes of 7, 2 and 5 timesteps with the latents of the tiny tokenizer, in standard units."""
    dataset = make_dataset(tmp_path, [7, 2, 5])
    encode_dataset(standard_tokenizer(dataset), "tiny", dataset)
    return dataset


def standard_tokenizer(dataset: Dataset) -> Any:
    tokenizer = make_tokenizer()
    with torch.no_grad():
        tokenizer.set_latent_statistics(torch.from_numpy(dataset.frames(0, 0, 7)).permute(0, 3, 1, 2)[None])
    return tokenizer


def make_player(dataset: Dataset, *, context: int = CONTEXT, seed: int = 0) -> Player:
    model = WorldAndAgent(make_dynamics(), make_agent())
    return Player(standard_tokenizer(dataset), model, VOCABULARY, context=context, sampling=SAMPLING, seed=seed)


def test_latents_while_acting_equal_those_on_disk(encoded: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    player = make_player(encoded)
    seen: list[Tensor] = []
    keep = player.dream._keep
    monkeypatch.setattr(player.dream, "_keep", lambda z, *rest: seen.append(z) or keep(z, *rest))
    frames = np.stack([encoded.frames(row, 0, 5) for row in (0, 2)])  # side by side, otherwise than when encoded
    actions = np.stack([encoded.actions[encoded.rows(row, 0, 5)] for row in (0, 2)])
    player.begin(frames[:, 0], ["go to the red"] * 2)
    for t in range(1, 5):
        player.observe(actions[:, t], frames[:, t])
    assert seen[0].shape[1] == CONTEXT and (seen[0] == seen[0][:, :1]).all()
    acting = torch.cat([seen[0][:, :1], *seen[1:]], dim=1).reshape(2, 5, 4, 4)
    latents = open_latents(encoded, "tiny")
    stored = np.stack([latents.slice(row, 0, 5).astype(np.float32) for row in (0, 2)])
    assert stored.std() > 0.3
    np.testing.assert_allclose(acting, stored, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_small_chances_to_end_are_kept_in_bfloat16() -> None:
    """At gamma 0.997 a chance of 0.2% a step is most of the discount; bfloat16 knows nothing between 0.4% and none."""
    model = WorldAndAgent(make_dynamics(), make_agent())
    last = model.agent.heads.continues[-1]
    assert isinstance(last, torch.nn.Linear)
    last.weight.zero_()
    last.bias.fill_(6.25)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        dreamt = trajectories(model, make_batch(2, CONTEXT))
    torch.testing.assert_close(dreamt.continues[:, 1:], torch.full_like(dreamt.continues[:, 1:], 6.25).sigmoid())
    assert dreamt.continues.dtype == torch.float32


def test_a_player_asked_for_everything_is_told_what_is_left(encoded: Dataset) -> None:
    """From the frame on that comes after `relabel`, as in a recording: no frame that was seen is read anew."""
    config = dataclasses.replace(AGENT, goal="all", tasks=4)
    world = make_dynamics(dataclasses.replace(DYNAMICS, context_tau=1.0))
    names = ("go", "red", "door")
    model = WorldAndAgent(world, make_agent(config))
    player = Player(standard_tokenizer(encoded), model, VOCABULARY, names, context=CONTEXT, sampling=SAMPLING)
    frames = np.stack([encoded.frames(row, 0, 4) for row in (0, 2)])
    actions = np.stack([encoded.actions[encoded.rows(row, 0, 4)] for row in (0, 2)])
    player.begin(frames[:, 0], ["go, red, door", "go, door"])
    player.observe(actions[:, 1], frames[:, 1])
    before = player.features
    player.relabel(["go, door", "go, door"])
    assert player.features is before
    player.observe(actions[:, 2], frames[:, 2])
    player.keep([0])
    player.relabel([""])
    player.observe(actions[:1, 3], frames[:1, 3])
    left = torch.tensor([[[1, 1, 1]] * (CONTEXT + 1) + [[1, 0, 1], [0, 0, 0]]], dtype=torch.bool)
    latents, taken, first = player._past(slice(None))
    z = world.pack(latents)
    levels = torch.ones(z.shape[:2]), torch.full(z.shape[:2], 1 / DYNAMICS.k_max)
    memory = world(z, *levels, taken, first, memory_only=True).memory
    assert player.features is not None and z.shape[1] == CONTEXT + 3 <= WINDOW
    told = model.agent(left, memory, z.shape[1], blocks=world.trunk.blocks)[:, -1]
    torch.testing.assert_close(player.features, told, atol=2e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="unknown task 'blue': choose from go, red, door"):
        player.relabel(["go, blue"])


def contexts(dataset: Dataset, length: int, wanted: int) -> Batch:
    """A clip of one row that ends at timestep 0 of an episode, or of `wanted` real timesteps."""
    clips = ClipSpec(
        EpisodeSelection("train"),
        BatchShapes(1, length),
        "tiny",
        Placement(contexts=True),
        relabelling=Relabelling(words=AGENT.words),
    )
    stream = batches([dataset], clips, seed=0)
    return next(batch for batch in itertools.islice(stream, 200) if int(batch.mask.sum()) == wanted)


@pytest.mark.parametrize("observed", [0, 2])
def test_a_player_starts_as_a_training_context_does(encoded: Dataset, observed: int) -> None:
    length = CONTEXT + observed
    batch = contexts(encoded, length, 1 + observed)
    assert batch.latents is not None
    dream = Dream(WorldAndAgent(make_dynamics(), make_agent()), k_sample=2, noise=GeneratorNoise(seeded(7)))
    features = dream.reset(batch.latents, batch.actions, batch.is_first, batch.task)[:, -1]

    def played(seed: int) -> Tensor:
        player = make_player(encoded, seed=seed)
        frames, actions = (
            encoded.frames(row, 0, 1 + observed),
            encoded.actions[encoded.rows(row, 0, 1 + observed)].copy(),
        )
        player.begin(frames[:1], ["go to the red"])
        for t in range(1, 1 + observed):
            player.observe(actions[t : t + 1], frames[t : t + 1])
        assert player.features is not None
        return player.features

    stored, first = open_latents(encoded, "tiny"), batch.latents[0, 0].numpy()
    row = next(row for row in range(3) if np.array_equal(stored.slice(row, 0, 1)[0], first))
    torch.testing.assert_close(played(7), features, atol=1e-3, rtol=0)  # latents are float16 on disk
    assert (played(8) - features).abs().max() > 0.01  # other noise alone is far more


def test_a_player_samples_its_actions_from_the_policy(encoded: Dataset) -> None:
    player = make_player(encoded)
    n = 2000
    player.begin(encoded.frames(0, 0, 1).repeat(n, axis=0), ["go to the blue"] * n)
    assert player.features is not None
    player.features = player.features[:1].expand(n, -1)
    actions = player.act()
    assert actions.shape == (n, 2) and actions.dtype == np.int64
    probability = player.agent.heads.act(player.features[:1]).log_probs[0][0].exp().detach().numpy()
    found = np.bincount(actions[:, 0], minlength=3) / n
    assert (np.abs(found - probability) < 4.5 * np.sqrt(probability * (1 - probability) / n)).all()


def test_a_player_reads_its_task(encoded: Dataset) -> None:
    features = []
    for label in ("go to the red", "go to the blue", "Go to the, red!", "go to the green"):
        player = make_player(encoded)
        player.begin(encoded.frames(0, 0, 1), [label])
        assert player.features is not None
        features.append(player.features)
    red, blue, spelt, unknown = features
    assert torch.equal(red, spelt)
    # The tiny agent reads four words, of which the colour is the last.
    assert (red - blue).abs().max() > 1e-3 and (red - unknown).abs().max() > 1e-3


# --- the environment ------------------------------------------------------------------------------------------------


def make_environment(horizon: int = 5) -> DreamEnv:
    def recorded(seed: int) -> Batch:
        return make_batch(1, CONTEXT, seed=seed % 1000)

    dream = Dream(WorldAndAgent(make_dynamics(), make_agent()), k_sample=2, noise=GeneratorNoise(seeded(0)))
    return DreamEnv(make_tokenizer(), dream, recorded, horizon)


@pytest.mark.filterwarnings("ignore")
def test_the_dream_is_a_gymnasium_environment() -> None:
    environment: gymnasium.Env = make_environment()
    assert environment.observation_space.shape == (8, 12, 3)
    for check in (check_reset_seed_determinism, check_step_determinism, check_returned_data_not_reused):
        check(environment)
    observation, info = environment.reset(seed=1)
    assert observation in environment.observation_space and info == {}
    observation, reward, terminated, truncated, info = environment.step(environment.action_space.sample())
    assert observation in environment.observation_space and observation.dtype == np.uint8
    assert isinstance(reward, float) and isinstance(terminated, bool) and isinstance(truncated, bool)
    assert terminated == (info["continue"] < 0.5)


def test_a_dream_is_over_where_its_end_is_likelier_than_not() -> None:
    environment = make_environment()
    assert environment.dream.agent is not None
    environment.dream.agent.heads.continues = Scripted([[0.2], [-0.2]])
    environment.reset(seed=1)
    assert [environment.step(environment.action_space.sample())[2] for _ in range(2)] == [False, True]


def test_a_seeded_dream_repeats_itself() -> None:
    environment = make_environment()
    actions = make_actions(4).numpy()

    def episode(seed: int | None) -> list[NDArray[np.uint8]]:
        first, _ = environment.reset(seed=seed)
        return [first, *(environment.step(action)[0] for action in actions)]

    one, unseeded, again, other = (np.stack(episode(seed)) for seed in (1, None, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, unseeded) and not np.array_equal(one, other)
    assert (one[0] != other[0]).any()  # another context


def test_the_environment_shows_what_the_dream_decodes_to(monkeypatch: pytest.MonkeyPatch) -> None:
    environment, batch = make_environment(), make_batch(1, CONTEXT, seed=3)
    environment.contexts = lambda seed: batch
    steps: list[DreamStep] = []
    imagine = environment.dream.step
    monkeypatch.setattr(environment.dream, "step", lambda actions: steps.append(imagine(actions)) or steps[-1])
    shown = [environment.reset(seed=9)[0]]
    rewards = []
    for action in make_actions(3).numpy():
        observation, reward, *_ = environment.step(action)
        shown.append(observation)
        rewards.append(reward)
    assert batch.latents is not None
    latents = torch.cat((batch.latents, *(step.latents.reshape(1, 1, 4, 4) for step in steps)), dim=1)
    with torch.no_grad():
        pixels = 255 * make_tokenizer().decode_video(latents)[0, CONTEXT - 1 :].permute(0, 2, 3, 1)
    assert np.abs(np.stack(shown) - pixels.numpy()).max() <= 0.51  # rounded, not cut
    assert rewards == [float(step.reward[0]) for step in steps]


def test_a_dreamt_episode_ends_at_the_horizon_or_where_the_agent_says() -> None:
    environment = make_environment(horizon=2)
    heads = environment.dream.agent.heads if environment.dream.agent else None
    assert heads is not None
    heads.continues = Scripted([[2.0], [2.0], [2.0], [-2.0]])
    action = make_actions(1).numpy()[0]
    environment.reset(seed=0)
    ends = [environment.step(action)[2:4] for _ in range(2)]
    environment.reset(seed=0)
    ends += [environment.step(action)[2:4] for _ in range(2)]
    assert ends == [(False, False), (False, True), (False, False), (True, True)]


# --- learning in the dream ------------------------------------------------------------------------------------------


class Scripted(nn.Module):
    """A head that says one row of its script after the other."""

    def __init__(self, script: list[list[float]]) -> None:
        super().__init__()
        self.script = iter(script)

    def forward(self, features: Tensor) -> Tensor:
        return torch.tensor(next(self.script))[:, None]


def trajectories(model: WorldAndAgent, batch: Batch, seed: int = 0) -> Any:
    return dream_trajectories(model, batch, SAMPLING, horizon=STEPS, noise=GeneratorNoise(seeded(seed)))


def test_steps_after_a_dreamt_terminal_are_masked() -> None:
    model, batch = WorldAndAgent(make_dynamics(), make_agent()), make_batch(3, CONTEXT)
    # Logits that timesteps 1 .. 4 are not terminal, a column for each row.
    script = torch.tensor([[2.0, -2, 2, 2], [2, 2, 2, -2], [-2, 2, 2, 2]])
    model.agent.heads.continues = Scripted(script.T.tolist())
    dreamt = trajectories(model, batch)
    torch.testing.assert_close(dreamt.continues[:, 1:], script.sigmoid())
    # Row 0 ends by arriving at timestep 2: it acted at timesteps 0 and 1. Row 1 ends by its last step.
    assert dreamt.alive.tolist() == [[True, True, False, False], [True] * 4, [True, False, False, False]]


def test_trajectories_are_what_the_live_policy_dreams() -> None:
    model, batch = WorldAndAgent(make_dynamics(), make_agent()), make_batch(2, CONTEXT)
    dreamt = trajectories(model, batch, seed=4)
    generator = seeded(4)
    dream = Dream(model, k_sample=SAMPLING.k_sample, noise=GeneratorNoise(generator))
    features = start(dream, batch)[:, -1]
    for t in range(STEPS):
        torch.testing.assert_close(dreamt.features[:, t], features)
        action = model.agent.heads.act(features).sample(GeneratorNoise(generator))
        assert torch.equal(dreamt.actions[:, t], action)
        step = dream.step(action)
        features = step.features
        torch.testing.assert_close(
            (dreamt.rewards[:, t + 1], dreamt.continues[:, t + 1]), (step.reward, step.continues)
        )
    torch.testing.assert_close(dreamt.features[:, STEPS], features)
    assert not dreamt.features.requires_grad and not dreamt.rewards.requires_grad


def learnt(stage: ImaginationStage, batch: Batch, seed: int) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The first step's loss and metrics: dreams and loss by noise of this seed."""
    dreamt = stage.dream(batch, GeneratorNoise(seeded(seed)))
    return stage.loss(dreamt, StepContext(0, 1, GeneratorNoise(seeded(seed))))


def make_stage(root: Path, **changes: Any) -> ImaginationStage:
    config = dataclasses.replace(CONFIG, imagination=dataclasses.replace(CONFIG.imagination, **changes))
    return ImaginationStage(config, [make_dataset(root, [9, 9])], "", WorldAndAgent(make_dynamics(), make_agent()))


def test_imagination_loss_by_hand(tmp_path: Path) -> None:
    stage, batch = make_stage(tmp_path, gamma=1.0, lambda_=0.7, beta=0.5), make_batch(64, CONTEXT)
    heads, config = stage.model.agent.heads, stage.run_config.imagination
    with torch.no_grad():
        heads.policy[-1].bias[:5] += torch.tensor([0.5, 0.0, -0.5, 1.0, 0.0])  # no longer the prior
        heads.reward_std.fill_(0.05)  # rewards as small as the differences between values
    loss, metrics = stage.loss(
        stage.dream(batch, GeneratorNoise(seeded(4))), StepContext(0, 1, GeneratorNoise(seeded(4)))
    )
    dreamt = trajectories(stage.model, batch, seed=4)
    logits = heads.value(dreamt.features)
    values = heads.value_bins.decode(logits).detach()
    returns = lambda_returns(dreamt.rewards, dreamt.continues, values, 1.0, 0.7)
    states, alive = dreamt.features[:, :-1], dreamt.alive
    policy, prior = heads.act(states), make_agent().heads.act(states)
    assert 0 < alive.float().mean() < 1 and metrics["kl"] > 1e-3
    advantages = returns - values[:, :-1]
    assert ((advantages >= 0) != (returns >= values[:, 1:]))[alive].any()  # the timestep of the baseline matters
    expected, _ = PmpoLoss(config)(policy, prior, dreamt.actions, advantages, alive)
    value = heads.value_bins.loss(logits[:, :-1], returns)[alive].mean()
    torch.testing.assert_close(metrics["value"], value.detach())
    torch.testing.assert_close(loss, expected + value)
    # Returns are targets: their gradient is none.
    gradients = (torch.autograd.grad(total, stage.trained) for total in (loss, expected + value))
    for found, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)
    assert metrics["imagined_length"].item() == pytest.approx(float(alive.sum()) / 64)
    assert metrics["imagined_reward"].item() == pytest.approx(float(dreamt.rewards[:, 1:][alive].sum()) / 64, rel=1e-5)


def test_a_policy_may_stay_within_the_support_of_the_cloned_one(tmp_path: Path) -> None:
    """Whatever it learns, dreaming or loaded to play: an action that the cloned policy hardly takes, it never takes."""
    dreams = dataclasses.replace(CONFIG.imagination, updates=2)
    config = dataclasses.replace(CONFIG, sampling=dataclasses.replace(SAMPLING, support=0.5), imagination=dreams)
    agent = Agent(config.agent, config.dynamics.trunk, config.env.actions)
    agent.load_state_dict(make_agent().state_dict())
    with torch.no_grad():
        agent.heads.policy[-1].bias[:5] = torch.tensor([0.0, 9.0, 9.0, 0.0, 9.0])  # of 3 and of 2
    model, batch = WorldAndAgent(make_dynamics(), agent), make_batch(64, CONTEXT)
    cloned = agent.heads.act(torch.zeros(1, agent.heads.policy[0].in_features), 0.5)
    assert cloned.log_probs[0].exp()[0, 0] == 0 and cloned.log_probs[1].exp().tolist() == [[0, 1]]  # its own support
    stage = ImaginationStage(config, [make_dataset(tmp_path, [9, 9])], "", model)
    heads = stage.model.agent.heads
    with torch.no_grad():
        heads.policy[-1].bias[:5] = torch.tensor([9.0, 1.0, 0.0, 9.0, 0.0])  # what imagination may come to
    dreamt, context = stage.dream(batch, GeneratorNoise(seeded(4))), StepContext(0, 1, GeneratorNoise(seeded(4)))
    loss, metrics = stage.loss(dreamt, context)
    assert loss.isfinite() and 0 < metrics["kl"] < 2
    assert [set(dreamt.actions[..., factor].flatten().tolist()) for factor in (0, 1)] == [{1, 2}, {1}]
    # What was inside when it was dreamt may be outside when it is learnt from: as if it were not there.
    taken = dreamt.actions.clone()
    taken[::2, 1, 0] = 0
    _, metrics = stage.loss(dataclasses.replace(dreamt, actions=taken), context)
    kept = dreamt.alive.clone()
    kept[::2, 1] = False
    states, prior = dreamt.features[:, :-1], stage.prior.agent.heads
    kl = heads.act(states, 0.5).kl(prior.act(states, 0.5))
    torch.testing.assert_close(metrics["kl"], kl[kept].mean().detach())
    models = {"actions": config.env.actions, "dynamics": model.dynamics.config, "agent": config.agent}
    recipe = {"models": {name: to_dict(part) for name, part in models.items()}}
    save_tensors(tmp_path / "imagination.safetensors", stage.model.state_dict(), recipe)
    loaded, _ = load_world_and_agent(tmp_path / "imagination.safetensors")
    seen = dreamt.features
    torch.testing.assert_close(loaded.agent.heads.act(seen, 0.5).log_probs, heads.act(seen, 0.5).log_probs)


def asked_for_all(goal_all: AgentConfig) -> WorldAndAgent:
    """Three tasks; events come often, and steps cost something. Histories without noise."""
    agent = make_agent(goal_all)
    model = WorldAndAgent(make_dynamics(dataclasses.replace(DYNAMICS, context_tau=1.0)), agent)
    assert model.events is not None and model.risk is not None
    with torch.no_grad():
        torch.nn.init.normal_(model.events.mlp[-1].weight, generator=seeded(3))
        torch.nn.init.normal_(model.risk.mlp[-1].weight, std=3.0, generator=seeded(6))
        model.risk.greatest = 0.5
    return model


@pytest.mark.parametrize("finetune", ["heads", "agent"])
def test_asked_for_everything_dreams_pay_for_what_their_frames_show(finetune: Any, tmp_path: Path) -> None:
    """One for each task that is left and comes about, once, less what `risk` expects. The agent is told what is left.

    Timestep by timestep: features are those of the agent that was told of each timestep what was left after it.
    """
    config = dataclasses.replace(
        CONFIG,
        agent=dataclasses.replace(CONFIG.agent, goal="all", tasks=4),
        imagination=dataclasses.replace(CONFIG.imagination, finetune=finetune),
    )
    model = asked_for_all(config.agent)
    assert model.events is not None and model.risk is not None
    left = torch.rand(64, CONTEXT, 3, generator=seeded(1)) < 0.7
    left = left.long().cumprod(dim=1).bool()  # what is no more left is not left later
    batch = dataclasses.replace(make_batch(64, CONTEXT), task=left)
    stage = ImaginationStage(config, [make_dataset(tmp_path, [9, 9], events=[(2, 0)])], "", model)
    dreamt = stage.dream(batch, GeneratorNoise(seeded(4)))
    assert batch.latents is not None and dreamt.task.dtype == torch.bool
    z = torch.cat((model.dynamics.pack(batch.latents)[:, -1:], dreamt.latents), dim=1)
    cost, continues = model.risk.expected(z[:, :-1], dreamt.actions)
    torch.testing.assert_close(dreamt.continues[:, 1:], continues)
    assert cost.std() > 0.01 and continues.std() > 0.01
    for row in range(64):
        still = set(left[row, -1].nonzero()[:, 0].tolist())
        for t in range(dreamt.actions.shape[1]):
            shown = set((model.events(z[row, t], z[row, t + 1]) > 0).nonzero()[:, 0].tolist())
            expected = len(shown & still) - cost[row, t].item()
            assert dreamt.rewards[row, t + 1].item() == pytest.approx(expected, abs=1e-5)
            still -= shown
            assert set(dreamt.task[row, t].nonzero()[:, 0].tolist()) == still
    assert 0 < (dreamt.rewards >= 0.5).float().mean() < 0.5 and (dreamt.rewards < 0).any()
    whole = torch.cat((left, dreamt.task), dim=1)
    anew = stage._recompute_features(model, dreamt, GeneratorNoise(seeded(0)))
    torch.testing.assert_close(anew, dreamt.features, atol=2e-5, rtol=1e-4)
    other = dataclasses.replace(dreamt, task=whole[:, CONTEXT - 1 : -1])  # told a timestep too late
    changed = (whole[:, CONTEXT:] != whole[:, CONTEXT - 1 : -1]).any(dim=2)
    late = (stage._recompute_features(model, other, GeneratorNoise(seeded(0))) - anew)[:, 1:].abs().amax(dim=2)
    assert changed.any() and (late[changed] > 1e-4).all()


def test_a_dream_may_end_with_its_reward(tmp_path: Path) -> None:
    """`c_t (1 - r_t)`: nothing behind a reward of 1 is counted, neither as a state nor in a return."""
    config = dataclasses.replace(CONFIG, agent_objective=dataclasses.replace(BEHAVIOUR, once=True))
    model = WorldAndAgent(make_dynamics(), make_agent())
    stage, batch = ImaginationStage(config, [make_dataset(tmp_path, [9, 9])], "", model), make_batch(64, CONTEXT)
    heads = stage.model.agent.heads
    plain = trajectories(stage.model, batch, seed=4)
    scale = plain.rewards[:, 1:].quantile(0.8).item()
    with torch.no_grad():
        heads.reward_std.fill_(float(heads.reward_std) / scale)  # one in five is 1 or more
    rewarded, dreamt = trajectories(stage.model, batch, seed=4), stage.dream(batch, GeneratorNoise(seeded(4)))
    assert torch.equal(dreamt.rewards, rewarded.rewards)
    left = 1 - rewarded.rewards[:, 1:].clamp(0, 1)
    torch.testing.assert_close(dreamt.continues[:, 1:], rewarded.continues[:, 1:] * left)
    over = (dreamt.continues[:, 1:] <= 0.5).long().cumsum(dim=1)
    assert torch.equal(dreamt.alive[:, 1:], over[:, :-1] == 0) and dreamt.alive[:, 0].all()
    assert dreamt.alive.sum() < rewarded.alive.sum()


@pytest.mark.parametrize("finetune", ["heads", "agent"])
def test_in_bfloat16_the_live_policy_dreams_in_matrices_cast_beforehand(finetune: str, tmp_path: Path) -> None:
    stage, batch = make_stage(tmp_path, finetune=finetune), make_batch(64, CONTEXT)
    found = []
    for more in (0.0, 50.0):  # what a step might do to the policy, and more
        with torch.no_grad():
            stage.model.agent.heads.policy[-1].bias[0] += more
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(stage.dream(batch, GeneratorNoise(seeded(4))))
    first, second = found
    assert stage.dreamer is not None
    assert stage.dreamer.dynamics.trunk.blocks[0].mlp.out.weight.dtype == torch.bfloat16  # type: ignore[union-attr]
    assert stage.model.dynamics.trunk.blocks[0].mlp.out.weight.dtype == torch.float32  # type: ignore[union-attr]
    assert (first.actions[..., 0] != 0).any() and (second.actions[..., 0] == 0).all()
    exact = trajectories(stage.model, batch, seed=4)
    torch.testing.assert_close(second.latents[:, 0], exact.latents[:, 0], atol=0.1, rtol=0.1)


def test_in_bfloat16_the_live_stream_dreams_where_it_learns(tmp_path: Path) -> None:
    stage, batch = make_stage(tmp_path, finetune="agent"), make_batch(4, CONTEXT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stage.dream(batch, GeneratorNoise(seeded(4)))
        with torch.no_grad():
            stage.model.agent.token_MD += 1
        stage.dream(batch, GeneratorNoise(seeded(4)))
    assert stage.dreamer is not None
    assert torch.equal(stage.dreamer.agent.token_MD, stage.model.agent.token_MD)


@pytest.mark.parametrize("finetune", ["heads", "agent"])
def test_a_rollout_serves_several_updates(finetune: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch of contexts is loaded once; the policy that dreams is the one of the step that asks for it."""
    stage = make_stage(tmp_path, updates=2, finetune=finetune)
    stage.steps = 8
    loaded = [make_batch(4, CONTEXT, seed=number) for number in range(4)]
    monkeypatch.setattr(stage, "contexts", lambda start: loaded[start:])
    source, seen = iter(stage.batches(0)), []
    for step in range(5):
        if step == 2:
            with torch.no_grad():
                stage.model.agent.heads.policy[-1].bias[0] += 50
        seen.append(next(source))
    assert [seen[step] is seen[step - 1] for step in range(1, 5)] == [True, False, True, False]
    for dreamt, contexts in zip(seen[::2], loaded[:3], strict=True):
        assert torch.equal(dreamt.contexts.latents, contexts.latents)
    assert (seen[0].actions[..., 0] != 0).any() and (seen[2].actions[..., 0] == 0).all()
    resumed = next(iter(stage.batches(4)))
    assert torch.equal(resumed.contexts.latents, seen[4].contexts.latents)
    assert torch.equal(resumed.latents, seen[4].latents) and torch.equal(resumed.actions, seen[4].actions)
    with pytest.raises(AssertionError, match="only where new dreams begin"):
        next(iter(stage.batches(3)))


def test_dreamt_rows_hang_on_no_other_row(tmp_path: Path) -> None:
    """Latents, sampled actions and rewards of some rows alone are those of the whole batch."""
    stage, batch = make_stage(tmp_path), make_batch(8, CONTEXT)
    rows = range(2, 5)
    some = Batch(**{name: None if field is None else field[2:5] for name, field in vars(batch).items()})
    whole, alone = stage.dream(batch, RowNoise(3, 1)), stage.dream(some, RowNoise(3, 1, rows=rows, total=8))
    assert torch.equal(alone.actions, whole.actions[2:5])
    for name in ("latents", "features", "rewards", "continues"):
        torch.testing.assert_close(getattr(alone, name), getattr(whole, name)[2:5], atol=1e-5, rtol=1e-4)


def test_only_policy_and_value_heads_learn_in_the_dream(tmp_path: Path) -> None:
    stage, batch = make_stage(tmp_path), make_batch(4, CONTEXT)
    before = {name: value.clone() for name, value in stage.model.state_dict().items()}
    prior = {name: value.clone() for name, value in stage.prior.state_dict().items()}
    optimizer = torch.optim.AdamW(stage.parameter_groups(), lr=1e-2, weight_decay=0.1)
    for step in range(3):
        optimizer.zero_grad()
        learnt(stage, batch, step)[0].backward()
        optimizer.step()
    learn = ("agent.heads.policy.", "agent.heads.value.")
    for name, value in stage.model.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith(learn), name
    (group,) = stage.parameter_groups()
    given = {id(parameter) for parameter in group["params"]}
    for name, parameter in stage.model.named_parameters():
        assert parameter.requires_grad == (id(parameter) in given) == name.startswith(learn), name
    assert all(torch.equal(value, prior[name]) for name, value in stage.prior.state_dict().items())
    assert stage.config.length == CONTEXT and stage.config.long_length == 0


@pytest.mark.parametrize("own_weights", [True, False])
def test_the_whole_agent_may_learn_in_the_dream(own_weights: bool, tmp_path: Path) -> None:
    # Histories without noise: seen anew, the dreamt timesteps give the very features that the dream had.
    imagination = dataclasses.replace(CONFIG.imagination, finetune="agent")
    agent = dataclasses.replace(AGENT, own_weights=own_weights)
    config = dataclasses.replace(CONFIG, imagination=imagination, agent=agent)
    model = WorldAndAgent(make_dynamics(dataclasses.replace(DYNAMICS, context_tau=1.0)), make_agent(agent))
    stage, batch = ImaginationStage(config, [make_dataset(tmp_path, [9, 9])], "", model), make_batch(16, CONTEXT)
    dreamt = trajectories(model, batch)
    torch.testing.assert_close(
        stage._recompute_features(model, dreamt, GeneratorNoise(seeded(0))), dreamt.features, atol=2e-5, rtol=1e-4
    )
    seen = stage._seen_by_prior(dreamt, GeneratorNoise(seeded(0)))
    for name in ("features", "rewards", "continues"):
        torch.testing.assert_close(getattr(seen, name), getattr(dreamt, name), atol=2e-5, rtol=1e-4)
    assert torch.equal(seen.alive, dreamt.alive) and seen.alive.any() and not seen.alive.all()

    before = {name: value.clone() for name, value in model.state_dict().items()}
    frozen = {name: value.clone() for name, value in stage.prior.state_dict().items()}
    optimizer = torch.optim.SGD(stage.trained, lr=0.1)
    learnt(stage, batch, 0)[0].backward()
    optimizer.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {"agent.heads.policy.0.weight", "agent.heads.value.4.bias", "agent.task.weight"} <= moved
    assert not any(name.startswith(("agent.heads.reward", "agent.heads.continues")) for name in moved)
    layers = "agent.blocks.0.attention.qkv.weight" if own_weights else "dynamics.trunk.blocks.0.attention.qkv.weight"
    assert layers in moved and any(name.startswith("dynamics.") for name in moved) == (not own_weights)
    assert all(torch.equal(value, frozen[name]) for name, value in stage.prior.state_dict().items())
    learn = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(stage.trained) == len(learn)
    assert not any(name.startswith(("agent.heads.reward", "agent.heads.continues")) for name in learn)
    # The stream has moved. Rewards and ends are still the frozen copy's; the policy reads the live features, the prior
    # those of the copy.
    still = stage._seen_by_prior(dreamt, GeneratorNoise(seeded(0)))
    assert torch.equal(still.features, seen.features) and torch.equal(still.rewards, seen.rewards)
    again = stage.dream(batch, GeneratorNoise(seeded(0)))
    _, metrics = stage.loss(again, StepContext(0, 1, GeneratorNoise(seeded(0))))
    live = stage._recompute_features(model, again, GeneratorNoise(seeded(0)))[:, :-1]
    kl = model.agent.heads.act(live).kl(stage.prior.agent.heads.act(again.features[:, :-1]))[again.alive]
    assert metrics["kl"] > 0
    torch.testing.assert_close(metrics["kl"], kl.mean(), atol=1e-7, rtol=1e-4)


def test_finetuning_reads_no_more_than_the_window() -> None:
    imagination = dataclasses.replace(CONFIG.imagination, finetune="agent", horizon=WINDOW)
    with pytest.raises(ValueError, match="reads 11 frames at once .*more than dynamics.context 8"):
        dataclasses.replace(CONFIG, imagination=imagination)


@pytest.mark.parametrize("finetune", ["heads", "agent"])
def test_the_control_shuffles_rewards_over_the_batch(finetune: str, tmp_path: Path) -> None:
    batch, dreams = make_batch(32, CONTEXT), []
    for number, shuffle in enumerate((False, True, True)):
        stage = make_stage(tmp_path / str(number), shuffle_rewards=shuffle, finetune=finetune)
        torch.manual_seed(number)
        dreams.append(stage.dream(batch, GeneratorNoise(seeded(0))))
    true, shuffled, again = (dreamt.rewards[:, 1:] for dreamt in dreams)
    assert torch.equal(shuffled, again)  # by the step's own noise
    alive = dreams[-1].alive
    assert 0.2 < alive.float().mean() < 0.98
    # Only rewards of dreams that still went on, and all of them, change places.
    torch.testing.assert_close(true[alive].sort().values, shuffled[alive].sort().values, atol=0, rtol=0)
    assert (true != shuffled)[alive].float().mean() > 0.8
    assert torch.equal(true[~alive], shuffled[~alive])
