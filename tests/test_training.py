"""The training loop by hand, resuming bit for bit, what each phase freezes, and that each phase learns."""

import dataclasses
import functools
import math
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from embody.config import Config, StageConfig, TransformerConfig
from embody.data import (
    BatchShapes,
    ClipSpec,
    Dataset,
    EpisodeSelection,
    LatentWriter,
    Mix,
    Placement,
    Relabelling,
    open_dataset,
)
from embody.data.sampling.batch import Batch
from embody.dynamics import Dynamics
from embody.errors import UserError
from embody.logger_manager import LoggerManager, read_metrics
from embody.model import Agent, WorldAndAgent
from embody.nn import transformer
from embody.nn.noise import GeneratorNoise
from embody.nn.running_rms import RunningRms
from embody.nn.transformer import Block
from embody.recording import collect
from embody.saving.tensors import load_tensors
from embody.trainer import Trainer
from embody.training import imagination, precision, throughput
from embody.training.agent import AgentStage
from embody.training.dynamics import DynamicsStage
from embody.training.imagination import ImaginationStage
from embody.training.loop import Stage, StepContext, train
from embody.training.optimizers import learning_rate, make_optimizers
from embody.training.precision import fastest_precision, matrix_rate
from embody.training.tokenizer import TokenizerStage
from tests.conftest import TASK, tiny_config

STAGES = ("tokenizer", "dynamics", "agent", "imagination")


def run(
    stage: Stage,
    folder: Path,
    *,
    recipe: Any = None,
    precision: str = "float32",
    stop: int | None = None,
    recompute: bool = False,
) -> Path:
    """Train `stage` with all of its files in `folder`; the checkpoint's path."""
    logger = LoggerManager(folder, folder, "test")
    path = folder / f"{stage.name}.safetensors"
    train(
        stage,
        checkpoint=path,
        recipe=recipe or {},
        logger=logger,
        precision=precision,
        seed=3,
        recompute=recompute,
        stop_after=stop,
    )
    logger.close()
    return path


def losses(folder: Path, key: str = "loss") -> list[float]:
    return [line[key] for line in read_metrics(folder / "metrics.jsonl")]


# --- the rate -------------------------------------------------------------------------------------------------------


def test_the_rate_warms_up_stays_and_decays() -> None:
    config = StageConfig(warmup=0.1, decay=0.4, final_lr=0.2)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10:61] == [1.0] * 51
    # 0.2 + 0.8 * left / 40, where `left` counts the steps still to take, this one included.
    assert rates[61:] == pytest.approx([0.2 + 0.8 * left / 40 for left in range(39, 0, -1)])


def test_the_rate_of_a_short_training_is_never_0() -> None:
    rates = [learning_rate(StageConfig(warmup=0.02, decay=0.4, final_lr=0.05), step, 3) for step in range(3)]
    assert rates == pytest.approx([1.0, 1.0, 0.05 + 0.95 / 1.2])


# --- the loop, on one number ----------------------------------------------------------------------------------------


class OneNumber:
    """`loss = w * factor`: every gradient is `factor`, infinite or not."""

    name = "one"

    def __init__(self, factors: list[float], **fields: Any) -> None:
        fields = {"lr": 0.1, "warmup": 0.0, "decay": 0.0, "weight_decay": 0.0, "checkpoint_every": 1} | fields
        self.config = StageConfig(log_every=1, **fields)
        self.factors, self.steps = factors, len(factors)
        self.model: nn.Module = nn.Linear(1, 1, bias=False)
        nn.init.ones_(self.model.weight)
        self.losses: nn.Module = RunningRms()

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.model.parameters())}]

    def batches(self, start: int) -> Iterable[Batch]:
        for factor in self.factors[start:]:
            value = torch.full((1, 1), factor)
            nothing = torch.zeros(1, 1, dtype=torch.bool)
            yield Batch(
                nothing[..., None].long(),
                value,
                value,
                nothing,
                nothing,
                ~nothing,
                nothing.long(),
                labelled=~nothing[0],
                is_null=nothing,
                bc=~nothing[0],
                flow=~nothing[0],
            )

    def loss(self, batch: Batch, context: StepContext) -> tuple[Tensor, Mapping[str, Tensor]]:
        return self.model(batch.rewards).sum(), {"progress": torch.tensor(context.progress)}

    def row_flops(self, frames: int, context: StepContext) -> float:
        return 3e9 * frames


def test_the_average_by_hand(tmp_path: Path) -> None:
    stage = OneNumber([1.0] * 3, ema=0.3)
    path = run(stage, tmp_path)
    # AdamW steps by its rate when all gradients are equal; the decay is min(ema, (step + 1) / (step + 10)).
    average, weight = 1.0, 1.0
    for decay in (1 / 10, 2 / 11, 3 / 12):
        weight -= 0.1
        average = decay * average + (1 - decay) * weight
    saved = load_tensors(path)[0]
    assert float(saved["model.weight"]) == pytest.approx(0.7)
    assert float(saved["average.weight"]) == pytest.approx(average)
    assert torch.equal(stage.model.weight, saved["average.weight"])  # what the loop leaves is the average
    assert losses(tmp_path, "progress") == pytest.approx([0, 1 / 3, 2 / 3])


def test_speed_is_logged_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A batch of two rows of three frames takes 3 seconds to load, and a step 1 more; it has 18 GFLOP, the machine 6 a
    # second.
    now = [0.0]

    class Slow(OneNumber):
        def batches(self, start: int) -> Iterable[Batch]:
            for batch in super().batches(start):
                now[0] += 3.0
                yield dataclasses.replace(
                    batch, actions=batch.actions.expand(2, 3, 1), rewards=batch.rewards.expand(2, 3)
                )

        def loss(self, batch: Batch, *others: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
            now[0] += 1.0
            return super().loss(dataclasses.replace(batch, rewards=batch.rewards[..., None]), *others)

    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(throughput, "matrix_rate", lambda device, precision: 6e9)
    run(Slow([1.0] * 3), tmp_path)
    assert losses(tmp_path, "frames_per_second") == pytest.approx([6 / 4] * 3)
    assert losses(tmp_path, "mfu") == pytest.approx([18 / (4 * 6)] * 3)
    assert losses(tmp_path, "data_wait") == pytest.approx([3 / 4] * 3)
    assert "1.5 frames/s, MFU 75%" in next(tmp_path.glob("*.log")).read_text()


def test_the_average_keeps_to_its_decay(tmp_path: Path) -> None:
    saved = load_tensors(run(OneNumber([1.0] * 2, ema=0.05), tmp_path))[0]
    first = 0.05 * 1.0 + 0.95 * 0.9
    assert float(saved["average.weight"]) == pytest.approx(0.05 * first + 0.95 * 0.8)


class TwoLayers(OneNumber):
    """As `OneNumber`, with a block's matrix for Muon, and a running RMS that each loss changes."""

    def __init__(self, factors: list[float], **fields: Any) -> None:
        super().__init__(factors, muon_lr=0.1, **fields)
        torch.manual_seed(0)
        self.model = Block(TransformerConfig(width=8, heads=2, mlp_width=12))

    def loss(self, batch: Batch, context: StepContext) -> tuple[Tensor, Mapping[str, Tensor]]:
        total = sum(parameter.sum() for parameter in self.model.parameters())
        return self.losses(total * batch.rewards.sum()), {}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_step_that_is_not_finite_changes_nothing(tmp_path: Path, bad: float) -> None:
    """Weights, average, both optimisers and running RMS: the state is that of the step before, and is counted."""
    make = functools.partial(TwoLayers, weight_decay=0.1)
    before, _ = load_tensors(run(make([1.0, 2.0, bad, 3.0]), tmp_path / "before", stop=2))
    after, progress = load_tensors(run(make([1.0, 2.0, bad, 3.0]), tmp_path / "after", stop=3))
    assert {name.split(".")[0] for name in after} == {"model", "average", "losses", "optimizer0", "optimizer1"}
    assert not [name for name, value in before.items() if not torch.equal(value, after[name])]
    assert (progress["step"], progress["skipped"], progress["in_a_row"]) == (3, 1, 1)
    end, progress = load_tensors(run(make([1.0, 2.0, bad, 3.0]), tmp_path / "after"))
    assert (progress["step"], progress["skipped"], progress["in_a_row"]) == (4, 1, 0)
    assert any(not torch.equal(value, end[name]) for name, value in after.items())
    assert all(value.isfinite().all() for value in end.values())
    assert [line["skipped_steps"] for line in read_metrics(tmp_path / "after" / "metrics.jsonl")] == [0, 0, 1, 1]


def test_twenty_steps_in_a_row_that_are_not_finite_end_the_training(tmp_path: Path) -> None:
    """The checkpoint is the last good one, and what the message advises goes on from there."""
    factors = [1.0] * 3 + [math.nan] * 19 + [1.0] * 2 + [math.nan] * 20
    recipe = {"training": {"lr": 0.1}}
    with pytest.raises(UserError, match=r"one: 20 steps in a row up to step 44 .* goes on from step 24 \(.*one\.saf"):
        run(OneNumber(factors), tmp_path, recipe=recipe)
    saved, progress = load_tensors(tmp_path / "one.safetensors")
    assert progress["step"] == 24 and float(saved["model.weight"]) == pytest.approx(0.5)
    lowered = OneNumber([*factors[:24], *[1.0] * 20], lr=0.01)
    saved, progress = load_tensors(run(lowered, tmp_path, recipe={"training": {"lr": 0.01}}))
    assert float(saved["model.weight"]) == pytest.approx(0.5 - 20 * 0.01)
    assert progress["skipped"] == 19 and progress["changes"] == [{"step": 24, "training.lr": [0.1, 0.01]}]
    logs = "".join(path.read_text() for path in tmp_path.glob("test-*.log"))
    assert "since step 24, training.lr was 0.1, is now 0.01" in logs


def test_without_a_checkpoint_the_training_is_said_to_begin_anew(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="starts again"):
        run(OneNumber([math.nan] * 30, checkpoint_every=100), tmp_path)


def test_a_checkpoint_of_other_settings_is_refused_and_kept(tmp_path: Path) -> None:
    recipe = {"training": {"lr": 1, "length": 8, "muon_lr": 0}, "data": ["a"]}
    path = run(OneNumber([1.0] * 4), tmp_path, recipe=recipe, stop=2)
    before = path.read_bytes()
    other = {"training": {"lr": 1, "length": 16, "muon_lr": 0}, "data": ["b"]}
    with pytest.raises(
        UserError, match=r"\(training\.length was 8, is now 16; data was \['a'\], is now \['b'\]\): del"
    ):
        run(OneNumber([1.0] * 4), tmp_path, recipe=other)
    with pytest.raises(UserError, match="at step 2, beyond the 1 steps of the training"):
        run(OneNumber([1.0]), tmp_path, recipe=recipe)
    with pytest.raises(UserError, match=r"training\.muon_lr was 0, is now 0\.1"):
        run(OneNumber([1.0] * 4), tmp_path, recipe={**recipe, "training": {"lr": 1, "length": 8, "muon_lr": 0.1}})
    assert path.read_bytes() == before
    run(OneNumber([1.0] * 4), tmp_path, recipe=recipe)
    assert load_tensors(path)[1]["step"] == 4


def test_a_finished_training_goes_on_with_a_new_warm_up_and_decay(tmp_path: Path) -> None:
    fields = {"ema": 0.0, "warmup": 0.5, "decay": 0.5, "final_lr": 0.0}
    run(OneNumber([1.0] * 4, **fields), tmp_path)
    saved, progress = load_tensors(run(OneNumber([1.0] * 8, **fields), tmp_path))
    assert (progress["step"], progress["steps"], progress["begin"]) == (8, 8, 4)
    # Equal gradients: each step is as long as its rate; both halves have the same ones.
    assert float(saved["model.weight"]) == pytest.approx(1 - 2 * 0.1 * (1 / 2 + 1 + 1 + 1 / 2))
    assert losses(tmp_path, "progress") == [0, 0.25, 0.5, 0.75, 1, 1, 1, 1]


def test_more_steps_while_under_way_are_one_schedule(tmp_path: Path) -> None:
    run(OneNumber([1.0] * 4), tmp_path, stop=2)
    progress = load_tensors(run(OneNumber([1.0] * 8), tmp_path))[1]
    assert (progress["step"], progress["begin"]) == (8, 0)
    assert losses(tmp_path, "progress") == [0, 0.25, 2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8, 7 / 8]


def test_the_loop_steps_at_the_rate(tmp_path: Path) -> None:
    run(stage := OneNumber([1.0] * 5, ema=0.0, warmup=0.4, decay=0.4, final_lr=0.2), tmp_path)
    # Equal gradients: each step is as long as its rate.
    assert stage.model.weight.item() == pytest.approx(1 - 0.1 * (1 / 2 + 1 + 1 + 1 + 0.6))


def test_gradients_are_clipped(tmp_path: Path) -> None:
    # AdamW hides the size of the first gradient, not that of the second beside it: m / sqrt(v) by hand.
    run(stage := OneNumber([1.0, 100.0], ema=0.0, clip=1.0), tmp_path / "clipped")
    assert stage.model.weight.item() == pytest.approx(0.8)
    run(stage := OneNumber([1.0, 100.0], ema=0.0, clip=1e9), tmp_path / "free")
    m, v = (0.1 * 0.9 + 0.1 * 100) / (1 - 0.9**2), (0.01 * 0.99 + 0.01 * 100**2) / (1 - 0.99**2)
    assert stage.model.weight.item() == pytest.approx(0.9 - 0.1 * m / v**0.5)
    assert losses(tmp_path / "free", "gradient_norm") == pytest.approx([1.0, 100.0])


# --- the four stages ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The tiny run's episodes."""
    root = tmp_path_factory.mktemp("latents")
    shutil.copytree(recorded, root, dirs_exist_ok=True)
    return with_latents(open_dataset(root / "data" / TASK), tiny_config(root))


def with_latents(dataset: Dataset, config: Config) -> Dataset:
    """Latents called "raw": random projections of the pixels, of mean 0 and deviation 1."""
    tokens, channels = config.tokenizer.latents, config.tokenizer.channels
    video = np.concatenate([dataset.frames(row.id, 0, row.length) for row in dataset.episodes()])
    pixels = video.reshape(len(video), -1) / 255.0
    projected = (pixels - pixels.mean(axis=0)) @ np.random.default_rng(0).normal(
        size=(pixels.shape[1], tokens * channels)
    )
    latents = (projected / projected.std(axis=0)).reshape(-1, tokens, channels)
    writer = LatentWriter(dataset, "raw", tokens, channels)
    for shard in writer.pending():
        with writer.filling(shard) as out:
            out[:] = latents[shard.start : shard.stop]
    return dataset


def make(name: str, config: Config, dataset: Dataset) -> Stage:
    """A stage at its start; those that need earlier ones get models that are as good as new."""
    if name == "tokenizer":
        return TokenizerStage(config, [dataset])
    if name == "dynamics":
        return DynamicsStage(config, [dataset], "raw")
    torch.manual_seed(1)
    dynamics = Dynamics(config.dynamics, config.env.actions)
    nn.init.normal_(dynamics.latent_out.weight, std=0.1)  # a world that does something
    if name == "agent":
        return AgentStage(config, [dataset], "raw", dynamics)
    agent = Agent(config.agent, config.dynamics.trunk, config.env.actions)
    for head in (agent.heads.policy, agent.heads.value, agent.heads.reward):
        nn.init.normal_(head[-1].weight, std=0.1)
    return ImaginationStage(config, [dataset], "raw", WorldAndAgent(dynamics, agent))


def with_stage(config: Config, name: str, **fields: Any) -> Config:
    changed = dataclasses.replace(getattr(config, f"train_{name}"), **fields)
    return dataclasses.replace(config, **{f"train_{name}": changed})


@pytest.mark.parametrize("name", STAGES[1:])
def test_every_setting_of_a_stages_clips_reaches_the_loader(
    name: str, config: Config, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(
        config,
        seed=5,
        workers=2,
        data=dataclasses.replace(config.data, weights=(3.0,)),
        dynamics_objective=dataclasses.replace(config.dynamics_objective, uniform_share=0.4),
        agent_objective=dataclasses.replace(
            config.agent_objective, uniform_share=0.6, miss_share=0.1, event_lead=7, once=True
        ),
        imagination=dataclasses.replace(config.imagination, gamma=0.7, uniform_share=0.8, first_timesteps=90),
    )
    handed: list[tuple[ClipSpec, dict[str, int]]] = []
    module = sys.modules[f"embody.training.{name}"]
    monkeypatch.setattr(module, "batches", lambda _, clips, **settings: handed.append((clips, settings)) or ())
    stage = make(name, config, dataset)
    if isinstance(stage, AgentStage):
        stage.episode_filter = bool
    (stage.contexts if isinstance(stage, ImaginationStage) else stage.batches)(11)  # what dreams begin from
    context, words = config.imagination.context, config.agent.words
    shapes = BatchShapes.of(stage.config)
    expected: dict[str, tuple[int, ClipSpec]] = {
        "dynamics": (
            6,
            ClipSpec(
                EpisodeSelection("train", weights=(3.0,)),
                shapes,
                "raw",
                Placement(left_pad=context - 1),
                Mix(0.4),
                Relabelling(words=words),
            ),
        ),
        "agent": (
            7,
            ClipSpec(
                EpisodeSelection("train", True, bool, (3.0,)),
                shapes,
                "raw",
                Placement(left_pad=context - 1),
                Mix(0.6, 0.1, event_lead=7, flow="uniform"),
                Relabelling(0.7, True, "one", words),
            ),
        ),
        "imagination": (
            8,
            ClipSpec(
                EpisodeSelection("train", True, weights=(3.0,)),
                shapes,
                "raw",
                Placement(context - 1, contexts=True, first_timesteps=90),
                Mix(0.8, event_lead=config.imagination.horizon),
                Relabelling(words=words),
            ),
        ),
    }
    seed, clips = expected[name]
    assert handed == [(clips, {"seed": seed, "start": 11, "workers": 2})]


def test_the_seed_is_that_of_the_losses_too(tmp_path: Path) -> None:
    class Drawing(OneNumber):
        def loss(self, batch: Batch, context: StepContext) -> Any:
            return self.model(batch.rewards).sum(), {"drawn": context.noise.uniform(1)[0]}

    drawn = []
    for seed in (3, 3, 4):
        folder = tmp_path / str(len(drawn))
        logger = LoggerManager(folder, folder, "test")
        stage = Drawing([1.0] * 3)
        train(stage, checkpoint=folder / "x.safetensors", recipe={}, logger=logger, precision="float32", seed=seed)
        logger.close()
        drawn.append(losses(folder, "drawn"))
    assert drawn[0] == drawn[1] and not set(drawn[0]) & set(drawn[2]) and len(set(drawn[0])) == 3


def test_muon_steps_the_matrices_of_blocks_and_adamw_the_rest(config: Config, dataset: Dataset) -> None:
    objective = dataclasses.replace(config.agent_objective, world_lr_scale=0.25)
    config = dataclasses.replace(config, agent_objective=objective)
    stage = make("agent", with_stage(config, "agent", lr=2e-3, muon_lr=4e-3), dataset)
    name_of = {parameter: name for name, parameter in stage.model.named_parameters()}
    found = {
        name_of[parameter]: (type(optimizer).__name__, group["full_lr"])
        for optimizer in make_optimizers(stage.config, stage.model, stage.parameter_groups())
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert found.keys() == set(name_of.values())
    for name, (kind, rate) in found.items():
        matrix = "blocks." in name and name.endswith(("qkv.weight", "out.weight", "gate_up.weight"))
        assert kind == ("Muon" if matrix else "AdamW"), name
        assert rate == (4e-3 if matrix else 2e-3) * (0.25 if name.startswith("dynamics.") else 1.0), name


def test_adamw_steps_by_hand(config: Config, dataset: Dataset) -> None:
    stage = make("dynamics", with_stage(config, "dynamics", lr=0.1, muon_lr=0.0, weight_decay=0.2), dataset)
    (optimizer,) = make_optimizers(stage.config, stage.model, stage.parameter_groups())
    weight = stage.model.get_parameter("latent_in.weight")
    expected, m, v = weight.detach().double(), 0.0, 0.0
    for n, seed in enumerate((0, 1, 2), start=1):
        weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
        optimizer.step()
        m, v = 0.9 * m + 0.1 * weight.grad.double(), 0.99 * v + 0.01 * weight.grad.double().square()
        expected = (1 - 0.1 * 0.2) * expected - 0.1 * (m / (1 - 0.9**n)) / ((v / (1 - 0.99**n)).sqrt() + 1e-8)
    torch.testing.assert_close(weight.detach().double(), expected, atol=1e-5, rtol=1e-5)


def test_both_optimisers_step_on_gradients_clipped_together(config: Config, dataset: Dataset, tmp_path: Path) -> None:
    stage = make("dynamics", with_stage(config, "dynamics", clip=1e-3), dataset)
    nn.init.normal_(stage.model.get_submodule("latent_out").weight, std=0.1)  # so that gradients reach all layers
    before = [p.detach().clone() for p in stage.model.parameters()]
    run(stage, tmp_path / "run", stop=1)
    for p, former in zip(stage.model.parameters(), before, strict=True):
        assert p.grad is None or not p.grad.any() or not torch.equal(p, former)
    squares = [p.grad.double().square().sum() for p in stage.model.parameters() if p.grad is not None]
    assert float(sum(squares)) ** 0.5 == pytest.approx(1e-3, rel=1e-3)
    assert losses(tmp_path / "run", "gradient_norm")[0] > 0.1  # what it was before


def test_blocks_are_recomputed_if_asked_for(
    config: Config, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block of each pass that has a gradient, to the same weights."""
    calls: list[Any] = []
    monkeypatch.setattr(transformer, "checkpoint", lambda *a, **kw: calls.append(a[1]) or checkpoint(*a, **kw))
    objective = dataclasses.replace(config.dynamics_objective, image_fraction=0.0, bootstrap_fraction=0.0)
    config = dataclasses.replace(config, dynamics_objective=objective)
    trained = []
    for recompute in (False, True):
        stage = make("dynamics", config, dataset)
        nn.init.normal_(stage.model.get_submodule("latent_out").weight, std=0.1)
        trained.append(load_tensors(run(stage, tmp_path / str(recompute), stop=2, recompute=recompute))[0])
        assert calls == 2 * list(stage.model.get_submodule("trunk.blocks")) * recompute
    for key, value in trained[0].items():
        torch.testing.assert_close(trained[1][key], value, atol=1e-6, rtol=1e-5)
    calls.clear()
    Trainer(config=dataclasses.replace(config, recompute=True)).train_tokenizer()  # the setting of a run
    assert calls


def test_the_bootstrap_begins_after_its_share_of_the_steps(config: Config, dataset: Dataset) -> None:
    objective = dataclasses.replace(
        config.dynamics_objective, bootstrap_fraction=1.0, image_fraction=0.0, bootstrap_start=0.3, step_draw="partial"
    )
    stage = make("dynamics", dataclasses.replace(config, dynamics_objective=objective), dataset)
    batch = next(iter(stage.batches(0)))
    contexts = [StepContext(step, 100, GeneratorNoise(torch.Generator().manual_seed(0))) for step in (0, 29, 30)]
    seen = [stage.loss(batch, context)[1].keys() for context in contexts]
    assert ["bootstrap" in metrics for metrics in seen] == [False, False, True]


def test_the_agents_values_are_discounted_as_the_dream_is(config: Config, dataset: Dataset) -> None:
    config = dataclasses.replace(config, imagination=dataclasses.replace(config.imagination, gamma=0.5))
    seen = 0
    for _, batch in zip(range(8), make("agent", config, dataset).batches(0), strict=False):
        both = batch.mask[:, :-1] & batch.mask[:, 1:]
        expected = batch.rewards[:, 1:] + 0.5 * batch.returns[:, 1:]
        torch.testing.assert_close(batch.returns[:, :-1][both], expected[both])
        seen += int((batch.returns[:, 1:][both] > 0).sum())
    assert seen > 0


@pytest.mark.parametrize("name", STAGES)
def test_stopped_and_resumed_equals_uninterrupted(name: str, config: Config, dataset: Dataset, tmp_path: Path) -> None:
    config = with_stage(config, name, epochs=1.2)
    config = dataclasses.replace(config, imagination=dataclasses.replace(config.imagination, updates=2))
    whole = make(name, config, dataset)
    assert whole.steps >= 8
    at_once = load_tensors(run(whole, tmp_path / "whole"))
    for stop in (2, 4, None):
        torch.manual_seed(99)  # nothing may hang on the global generator
        stopped = make(name, config, dataset)
        path = run(stopped, tmp_path / "stopped", stop=stop)
    in_parts = load_tensors(path)
    assert at_once[1] == in_parts[1] and at_once[1]["step"] == whole.steps
    kinds = {"tokenizer": 2, "dynamics": 2, "agent": 2, "imagination": 1}
    parts = {key.split(".")[0] for key in at_once[0]}
    assert parts >= {"model", "average", *(f"optimizer{i}" for i in range(kinds[name]))}
    assert ("losses" in parts) == (name != "imagination")
    assert at_once[0].keys() == in_parts[0].keys()
    different = [key for key, value in at_once[0].items() if not torch.equal(value, in_parts[0][key])]
    assert not different
    for a, b in zip(whole.model.state_dict().values(), stopped.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert losses(tmp_path / "whole") == losses(tmp_path / "stopped")


def test_a_stage_that_begins_anew_forgets_its_old_metrics(config: Config, dataset: Dataset, tmp_path: Path) -> None:
    run(make("dynamics", config, dataset), tmp_path, stop=4).unlink()
    run(make("dynamics", config, dataset), tmp_path, stop=2)
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]


def test_dreams_are_not_cut_by_a_checkpoint(config: Config) -> None:
    """A dream that serves several steps is not saved: resuming inside of it would dream another."""
    with pytest.raises(ValueError, match="checkpoint_every 2 must be a multiple of imagination.updates 3"):
        dataclasses.replace(config, imagination=dataclasses.replace(config.imagination, updates=3))


def moved(stage: Stage, folder: Path) -> set[str]:
    """Names of the tensors that training changes; unchanged means bit for bit, in the model and in its average."""
    before = {key: value.clone() for key, value in stage.model.state_dict().items()}
    saved = load_tensors(run(stage, folder))[0]
    return {
        key for part in ("model", "average") for key in before if not torch.equal(before[key], saved[f"{part}.{key}"])
    }


def trained_parts(names: set[str]) -> set[str]:
    return {".".join(name.split(".")[: 3 if ".heads." in name else 1]) for name in names}


HEADS = {f"agent.heads.{name}" for name in ("policy", "reward", "value", "continues")}


def test_with_its_own_weights_and_no_dynamics_loss_the_agent_leaves_the_world_alone(
    config: Config, dataset: Dataset, tmp_path: Path
) -> None:
    objective = dataclasses.replace(config.agent_objective, dynamics_weight=0.0)
    config = dataclasses.replace(config, agent_objective=objective)
    names = moved(make("agent", config, dataset), tmp_path / "run")
    assert trained_parts(names) == {"agent", *HEADS}
    assert any(name.startswith("agent.blocks.") for name in names)


def test_the_agent_finetunes_the_world_where_it_should(config: Config, dataset: Dataset, tmp_path: Path) -> None:
    names = moved(make("agent", config, dataset), tmp_path / "both")
    assert trained_parts(names) == {"agent", "dynamics", *HEADS}
    # Sharing the world's layers, the agent's losses alone reach the layers that it reads.
    shared = dataclasses.replace(
        config,
        agent=dataclasses.replace(config.agent, own_weights=False),
        agent_objective=dataclasses.replace(config.agent_objective, dynamics_weight=0.0),
    )
    names = moved(make("agent", shared, dataset), tmp_path / "shared")
    assert trained_parts(names) == {"agent", "dynamics", *HEADS}
    assert not any(name.startswith("agent.blocks.") for name in names)
    assert any(name.startswith("dynamics.trunk.blocks.0.") for name in names)
    assert not any(name.startswith("dynamics.latent_out.") for name in names)


def test_own_weights_keep_the_agents_losses_out_of_the_world(config: Config, dataset: Dataset, tmp_path: Path) -> None:
    """The world moves by its own loss alone: as it would beside an agent that learns something else."""
    stage = make("agent", config, dataset)
    batch = next(iter(stage.batches(0)))
    world = dict(stage.model.get_submodule("dynamics").named_parameters())

    def gradients(scale: float) -> dict[str, Tensor | None]:
        stage.model.zero_grad()
        altered = dataclasses.replace(batch, rewards=batch.rewards + scale, returns=batch.returns + scale)
        stage.loss(altered, StepContext(1, 2, GeneratorNoise(torch.Generator().manual_seed(0))))[0].backward()
        return {name: None if p.grad is None else p.grad.clone() for name, p in world.items()}

    for head in ("policy", "reward", "value", "continues"):  # they start at 0, which stops every gradient
        nn.init.normal_(stage.model.get_submodule(f"agent.heads.{head}")[-1].weight)
    for module in stage.losses.modules():
        module.eval()  # running statistics would differ from one call to the next
    nn.init.ones_(stage.losses.get_buffer("dynamics.flow_rms.mean_square"))
    one, other = gradients(0.0), gradients(0.5)
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in one.values())
    for name, gradient in one.items():
        assert (gradient is None) == (other[name] is None)
        assert gradient is None or torch.equal(gradient, other[name]), name


def test_imagination_trains_policy_and_value_only(config: Config, dataset: Dataset, tmp_path: Path) -> None:
    names = moved(make("imagination", config, dataset), tmp_path / "run")
    assert {".".join(name.split(".")[:3]) for name in names} == {"agent.heads.policy", "agent.heads.value"}


# The loss is divided by its running size: what must fall is the raw term.
LEARNS = {
    "tokenizer": {"mse": 0.15},
    "dynamics": {"flow": 0.2},
    "agent": {"policy": 0.1, "reward": 0.02, "value": 0.1, "continue": 0.01},
}


@pytest.fixture(scope="module")
def four_episodes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Four episodes of the expert alone, each of which it wins."""
    root = tmp_path_factory.mktemp("four")
    config = tiny_config(root)
    quality = {"noise_levels": (0.0,), "random_fraction": 0.0, "train_episodes": 4, "validation_episodes": 1}
    collect(dataclasses.replace(config, collect=dataclasses.replace(config.collect, **quality)))
    return with_latents(open_dataset(config.dataset_dir(TASK)), config)


@pytest.mark.parametrize("name", LEARNS)
def test_losses_fall_on_four_episodes(name: str, four_episodes: Dataset, tmp_path: Path) -> None:
    rates: dict[str, Any] = {"epochs": 80, "lr": 3e-3, "muon_lr": 1e-2}
    if name == "dynamics":
        rates = {"epochs": 160, "lr": 1e-2, "muon_lr": 2e-2}
    config = with_stage(tiny_config(tmp_path), name, batch=8, long_length=0, **rates)
    # Clean frames, and none but the first that nothing foretells: what is learnt here is the data, not the noise.
    told = {"image_fraction": 0.0, "unlabelled_fraction": 0.0, "bootstrap_fraction": 0.0}
    config = dataclasses.replace(
        config,
        tokenizer_objective=dataclasses.replace(config.tokenizer_objective, mask_max=0.0),
        dynamics_objective=dataclasses.replace(config.dynamics_objective, **told),
        agent_objective=dataclasses.replace(config.agent_objective, heads_input="context"),
    )
    stage = make(name, config, four_episodes)
    assert 50 <= stage.steps <= 160
    run(stage, tmp_path / "run")
    for key, share in LEARNS[name].items():
        values = losses(tmp_path / "run", key)
        assert sum(values[-6:]) < share * sum(values[:6]), (key, values[:6], values[-6:])


def test_the_bootstrap_falls_on_four_episodes(four_episodes: Dataset, tmp_path: Path) -> None:
    """From a world whose half steps disagree with its whole ones; one that says 0 everywhere agrees with itself."""
    config = with_stage(tiny_config(tmp_path), "dynamics", batch=8, epochs=80, lr=3e-3, muon_lr=1e-2, long_length=0)
    objective = dataclasses.replace(config.dynamics_objective, bootstrap_start=0.0, bootstrap_fraction=0.5)
    stage = make("dynamics", dataclasses.replace(config, dynamics_objective=objective), four_episodes)
    nn.init.normal_(stage.model.get_submodule("latent_out").weight, std=0.3)
    run(stage, tmp_path / "run")
    values = losses(tmp_path / "run", "bootstrap")
    assert sum(values[-6:]) < 0.2 * sum(values[:6]), (values[:6], values[-6:])


def test_imagination_earns_more_where_the_reward_is_known(
    four_episodes: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reward of a dream is replaced by "action 3 led here": the policy must come to prefer it."""
    honest = imagination.dream_trajectories

    def dreamt(*arguments: Any, **settings: Any) -> imagination.Trajectories:
        found = honest(*arguments, **settings)
        rewards = torch.zeros_like(found.rewards)
        rewards[:, 1:] = (found.actions[..., 0] == 3).float()
        return dataclasses.replace(
            found, rewards=rewards, continues=torch.ones_like(rewards), alive=torch.ones_like(found.alive)
        )

    monkeypatch.setattr(imagination, "dream_trajectories", dreamt)
    config = with_stage(tiny_config(tmp_path), "imagination", batch=16, lr=3e-3, epochs=60, checkpoint_every=1000)
    agent = dataclasses.replace(config.agent, value_range=(0.0, 4.0))
    settings = dataclasses.replace(config.imagination, beta=0.01, gamma=0.5)
    stage = make("imagination", dataclasses.replace(config, agent=agent, imagination=settings), four_episodes)
    assert 20 <= stage.steps <= 60
    run(stage, tmp_path / "run")
    earned = losses(tmp_path / "run", "imagined_reward")
    assert sum(earned[-6:]) > 1.7 * sum(earned[:6]), (earned[:6], earned[-6:])


# --- precision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STAGES)
def test_a_step_in_bfloat16(name: str, config: Config, dataset: Dataset, tmp_path: Path) -> None:
    config = with_stage(config, name, epochs=0.01)
    stage = make(name, config, dataset)
    before = {key: value.clone() for key, value in stage.model.state_dict().items()}
    saved = load_tensors(run(stage, tmp_path / "run", precision="bfloat16"))[0]
    assert all(value.dtype == before[key].dtype for key, value in stage.model.state_dict().items())
    assert any(not torch.equal(before[key], saved[f"model.{key}"]) for key in before)
    (loss,) = losses(tmp_path / "run")
    reference = make(name, config, dataset)
    run(reference, tmp_path / "float32")
    assert loss == pytest.approx(losses(tmp_path / "float32")[0], rel=0.05, abs=0.02)


def test_the_matrix_rate_is_that_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(precision.time, "perf_counter", lambda: now.__setitem__(0, now[0] + 0.05) or now[0])
    found = matrix_rate.__wrapped__(torch.device("cpu"), "float32")
    assert found == pytest.approx(2 * 512**3 / 0.05)


def test_the_fastest_precision_is_one_of_the_two(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fastest_precision(torch.device("cpu")) in ("float32", "bfloat16")
    for seconds, expected in ((0.4, "bfloat16"), (0.6, "float32")):
        monkeypatch.setattr(precision, "_seconds", lambda dtype, s=seconds: s if dtype == torch.bfloat16 else 1.0)
        assert fastest_precision(torch.device("cpu")) == expected
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert fastest_precision(torch.device("cuda")) == "bfloat16"
