"""Minecraft's presets: the small one as a user runs it, the paper's size as far as a CPU goes."""

import json
import math
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import nn

from embody.cli import main
from embody.config import (
    ActionSpec,
    AgentConfig,
    AgentObjective,
    Config,
    DynamicsConfig,
    DynamicsObjective,
    SamplingConfig,
    TokenizerObjective,
)
from embody.cost.parameters import dynamics_parameters, tokenizer_parameters
from embody.data import DatasetWriter, Episode, Meta, Video
from embody.data.sampling.batch import Batch
from embody.dynamics import Dynamics, ShortcutLoss
from embody.games.minecraft import minerl
from embody.games.minecraft.actions import VPT, minerl_space
from embody.games.minecraft.presets import minecraft, minecraft_small
from embody.games.minecraft.recordings import MinerlSource
from embody.games.minecraft.tasks import VOCABULARY
from embody.logger_manager import read_metrics
from embody.model import load_dynamics, load_world_and_agent
from embody.nn.noise import GeneratorNoise
from embody.recording.importing import import_recordings
from embody.run.provenance import settings_of
from embody.tokenizer import Tokenizer, TokenizerLoss
from embody.trainer import Trainer
from tests.recordings import OBTAIN, TREECHOP, minerl_arrays, write_trajectory

FRAMES = 102  # of a video: more than are encoded whole
# A small tokenizer.
THIN = [
    f"--tokenizer.{half}.{setting}"
    for half in ("encoder", "decoder")
    for setting in ("width=32", "depth=2", "pattern=ST")
]


def make_video(path: Path, seed: int, fps: int = 20) -> Path:
    """128x72: a square wanders over a coloured ground."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    ground, square = rng.integers(0, 256, (2, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 128, 72, "yuv420p"
        for number in range(FRAMES):
            image = np.full((72, 128, 3), ground, np.uint8)
            image[20:50, number : number + 18] = square
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode(None))
    return path


def play(video: Path, seed: int) -> Episode:
    """A contractor's recording of a task that is achieved at the end."""
    rng = np.random.default_rng(seed)
    rewards = np.zeros(FRAMES, np.float32)
    rewards[-1] = 1
    actions = rng.integers(0, VPT.spec.sizes, (FRAMES, len(VPT.spec.sizes)))
    actions[0] = 0
    return Episode(
        frames=Video(video, 0, FRAMES),
        actions=actions,
        rewards=rewards,
        is_terminal=rewards > 0,
        task="mine_log",
        label="mine log",
        source="player",
        noise=0.0,
        seed=seed,
        success=True,
    )


def record(root: Path) -> None:
    """A recording to train on and one that is held out, in `root/data/vpt`."""
    writer = DatasetWriter(root / "data" / "vpt", Meta(("mine_log",), VPT.spec, 72, 128, 20, VOCABULARY))
    for split, seed in (("train", 0), ("validation", 1)):
        writer.write_shard(split, 0, [play(make_video(root / f"{split}.mp4", seed), seed)])
    writer.finish()


def in_folder(config: Config, root: Path) -> Config:
    """One step a stage, of few frames; all files under `root`."""

    def brief(name: str) -> object:
        return replace(getattr(config, name), steps=1, batch=2, length=4, long_length=0, log_every=1)

    folders = {f"{name}_dir": str(root / name) for name in ("data", "models", "runs", "logs")}
    stages = {f"train_{name}": brief(f"train_{name}") for name in ("tokenizer", "dynamics", "agent", "imagination")}
    return replace(
        config,
        **folders,
        **stages,
        precision="float32",
        imagination=replace(config.imagination, context=3, horizon=2),
        evaluation=replace(config.evaluation, rollouts=2, context=3, horizon=2),
    )


# --- the small one ----------------------------------------------------------------------------------------------------


def test_the_small_preset_is_small_and_the_papers_otherwise() -> None:
    config, whole = minecraft_small(), minecraft()
    assert tokenizer_parameters(config.tokenizer, config.env.frame) == pytest.approx(6e6, rel=0.05)
    assert dynamics_parameters(config.dynamics, config.env.actions) == pytest.approx(6e6, rel=0.05)
    assert (config.env.height, config.env.width, config.env.fps, config.env.actions) == (64, 64, 20, VPT.spec)
    assert len(VOCABULARY) <= config.agent.vocabulary
    sizes = ("tokens", "channels", "context", "trunk")
    as_paper = DynamicsConfig(**{name: getattr(config.dynamics, name) for name in sizes})
    flow = config.dynamics_objective
    assert config.dynamics == as_paper and flow == DynamicsObjective() and flow.ramp and flow.contexts == "noised"
    assert config.sampling == SamplingConfig() and config.sampling.k_sample == 4
    assert config.tokenizer_objective.mask_max == TokenizerObjective().mask_max == 0.9
    assert config.agent == replace(whole.agent, hidden=256) != AgentConfig()
    assert config.agent_objective == whole.agent_objective != AgentObjective()
    for stage in (config.train_dynamics, config.train_agent):  # alternating lengths [P], inside the context
        assert (stage.length, stage.long_length) == (16, config.dynamics.context) == (16, 64)


def test_every_phase_of_the_small_preset_trains(tmp_path: Path) -> None:
    config = in_folder(minecraft_small(), tmp_path)
    record(tmp_path)
    trainer = Trainer(config=config)
    trainer.train_tokenizer()
    trainer.encode()
    dynamics = trainer.train_dynamics()
    agent = trainer.train_agent()
    dreamt = trainer.train_imagination()
    lines = [line for line in read_metrics(config.run_dir / "metrics.jsonl") if "loss" in line]
    assert [(line["stage"], line["step"]) for line in lines] == [
        (stage, 1) for stage in ("tokenizer", "dynamics", "agent", "imagination")
    ]
    assert all(math.isfinite(line["loss"]) and line["gradient_norm"] > 0 for line in lines)
    assert dynamics.latent_out.weight.any()  # zero before its first step
    policy, before = (model.agent.heads.policy[-1].weight for model in (dreamt, agent))
    assert before.any() and not torch.equal(policy, before)


def thin(config: Config) -> Config:
    """With a small tokenizer and a small world, of few passes a frame."""
    trunk = replace(config.dynamics.trunk, width=32, depth=2, pattern="ST")
    dynamics, sampling = replace(config.dynamics, trunk=trunk, k_max=8), replace(config.sampling, k_sample=2)
    tokenizer = replace(config.tokenizer, encoder=trunk, decoder=trunk)
    return replace(config, tokenizer=tokenizer, dynamics=dynamics, sampling=sampling)


def test_minecraft_is_evaluated_without_cells_and_without_a_game(tmp_path: Path) -> None:
    config = thin(in_folder(minecraft_small(), tmp_path))
    record(tmp_path)
    trainer = Trainer(config=config)
    trainer.train_tokenizer()
    trainer.encode()
    trainer.train_dynamics()
    results = trainer.evaluate()
    assert "success" not in results  # the game is played in a simulator
    assert results["tokenizer"]["frames"] == 100 and "cell_accuracy" not in results["tokenizer"]  # five clips of 20
    assert len(results["dynamics"]["horizon"]["psnr_db"]) == 2 and "changed_cell_accuracy" not in results["dynamics"]
    page, report = (config.run_dir / "results.md").read_text(), trainer.report().read_text()
    assert "Originals and reconstructions" in report and "Target " not in report and "targets are set" not in report
    assert "| Tokenizer: PSNR |" in page and "at least" not in page and "**no**" not in page  # MiniGrid's are no target
    table = trainer.ablate(1, 1).read_text()
    kept = json.loads((config.run_dir / "ablation.json").read_text())["results"]
    assert len(kept) == 10 and not any("changed_cell_accuracy_h10" in row["0"] for row in kept.values())
    assert all(row["0"]["psnr_db"] > 0 for row in kept.values()) and "| + ramp weight |" in table


def test_plain_videos_alone_are_enough_for_the_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over the command line: imported, tokenizer, latents, dynamics, evaluation."""
    monkeypatch.chdir(tmp_path)
    for seed in range(2):
        make_video(tmp_path / "films" / f"{seed}.mp4", seed)
    main(["import", "videos", "films", "--workers", "1"])
    brief = ["--precision", "float32", "--imagination.context", "3", "--evaluation.context", "3", *THIN]
    for stage in ("tokenizer", "dynamics"):
        brief += [f"--train-{stage}.{name}" for name in ("steps=2", "batch=2", "length=4", "long-length=0")]
    main(["train", "tokenizer", "minecraft_small", "--data.sources", "videos", *brief])
    main(["encode", "minecraft_small"])
    main(["train", "dynamics", "minecraft_small"])
    dynamics = load_dynamics(Path("models/minecraft_small/dynamics.safetensors"))[0]
    preset = minecraft_small()
    table, untrained = dynamics.action.table.weight, Dynamics(preset.dynamics, preset.env.actions).action.table.weight
    assert table.shape == untrained.shape == (23 * 2 + 121 + 1, 256)  # there for recordings with actions
    main(["evaluate", "minecraft_small"])
    results = json.loads(Path("runs/minecraft_small/results.json").read_text())
    assert results["tokenizer"]["frames"] == 100 and "dynamics" not in results
    assert "dreams are not measured: no held-out episode has actions" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", "agent", "minecraft_small"])
    assert "\n" not in capsys.readouterr().err.strip()
    with pytest.raises(SystemExit):
        main(["ablate", "minecraft_small"])
    assert "ablate: all datasets are plain videos" in capsys.readouterr().err


def write_minerl(root: Path, environment: str) -> None:
    """Two sessions of a player."""
    for seed in range(2):
        arrays = minerl_arrays(environment, FRAMES - 1, seed)
        arrays["reward"][50] = 1
        if "Obtain" in environment:
            arrays["observation$inventory$log"][51:] = 1
        video = make_video(root / f"{seed}.mp4", seed)
        write_trajectory(root, environment, f"player{seed}-1_0-{FRAMES}", arrays, video, frames=FRAMES)


def test_minerl_recordings_train_the_presets_over_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their actions are not VPT's: the run takes them over, keeps them, and refuses others from then on."""
    monkeypatch.chdir(tmp_path)
    write_minerl(tmp_path / "raw", OBTAIN)
    main(["import", "minerl", "raw", "--workers", "1"])
    brief = ["--precision", "float32", "--imagination.context", "3", "--evaluation.context", "3", *THIN]
    for stage in ("tokenizer", "dynamics", "agent"):
        brief += [f"--train-{stage}.{name}" for name in ("steps=2", "batch=2", "length=4", "long-length=0")]
    main(["train", "tokenizer", "minecraft_small", "--data.sources", OBTAIN, *brief])
    main(["encode", "minecraft_small"])
    main(["train", "dynamics", "minecraft_small"])
    main(["train", "agent", "minecraft_small"])
    spec = minerl_space(OBTAIN).spec
    stored = json.loads(Path("runs/minecraft_small/config.json").read_text())
    assert stored["env"]["actions"]["sizes"] == list(spec.sizes)
    models = Path("models/minecraft_small")
    dynamics, agent = (
        load_dynamics(models / "dynamics.safetensors")[0],
        load_world_and_agent(models / "agent.safetensors")[0],
    )
    assert dynamics.action.table.weight.shape == (sum(spec.sizes) + 1, 256)
    assert dynamics.actions == agent.dynamics.actions == agent.agent.heads.actions == spec
    lines = [line for line in read_metrics(Path("runs/minecraft_small/metrics.jsonl")) if "loss" in line]
    assert {line["stage"] for line in lines} == {"tokenizer", "dynamics", "agent"}
    record(tmp_path)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["train", "tokenizer", "minecraft_small", "--data.sources", "vpt"])
    error = capsys.readouterr().err
    assert "the datasets have actions" in error and error.count("\n") == 1
    with pytest.raises(SystemExit):
        main(["train", "tokenizer", "minecraft_small", "--name", "both", "--data.sources", OBTAIN, "vpt"])
    assert "have different actions: train on one of them (plain videos" in capsys.readouterr().err
    assert not Path("runs/both/config.json").exists()


def test_actions_that_were_set_are_not_replaced(tmp_path: Path) -> None:
    write_minerl(tmp_path / "raw", TREECHOP)
    dataset = import_recordings(MinerlSource(tmp_path / "raw", TREECHOP), tmp_path / "data" / TREECHOP)
    config = in_folder(minecraft_small(), tmp_path).with_actions(ActionSpec((2, 121)))
    with pytest.raises(ValueError, match=r"datasets have actions of sizes \(2.*, run minecraft_small has \(2, 121\)"):
        Trainer(config=config).train_tokenizer(dataset)
    assert minecraft_small().with_actions(VPT.spec) == minecraft_small()


def test_a_pipeline_brings_its_actions_along(tmp_path: Path) -> None:
    write_minerl(tmp_path / "raw", TREECHOP)
    config = thin(in_folder(minecraft_small(), tmp_path))
    trainer = Trainer(config=config)
    pipeline = minerl.data.make(TREECHOP, data_dir=tmp_path / "raw", num_workers=1)
    trainer.train_tokenizer(pipeline)
    trainer.encode(pipeline)
    trainer.train_dynamics(pipeline)
    assert trainer.config.env.actions == minerl_space(TREECHOP).spec
    again = Trainer(config=config)  # of the preset, as a script would make it
    again.train_agent(pipeline)
    assert (again.config.weights("agent")).exists()


def test_rates_are_not_mixed_and_another_one_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    record(tmp_path)
    for seed in range(2):
        make_video(tmp_path / "films" / f"{seed}.mp4", seed, fps=30)
    main(["import", "videos", "films", "--workers", "1"])
    brief = [f"--train-tokenizer.{name}" for name in ("steps=1", "batch=1", "length=2", "long-length=0")]
    begin = ["train", "tokenizer", "minecraft_small", "--precision", "float32", *brief, *THIN]
    main([*begin, "--name", "quick", "--data.sources", "videos"])
    assert "videos has 30 frames a second, the run 20" in " ".join(capsys.readouterr().out.split())
    main([*begin, "--name", "said", "--data.sources", "videos", "--env.fps", "30"])
    assert "frames a second" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*begin, "--name", "mixed", "--data.sources", "vpt", "videos"])
    error = capsys.readouterr().err
    assert "20 and 30 frames a second: convert the videos to one rate" in error and "fps=20" in error


def test_steps_are_what_weights_depend_on_where_they_are_asked_for() -> None:
    """Weights from before there were steps to ask for are still taken for finished."""
    config = minecraft_small()
    for steps, said, unsaid in ((0, "epochs", "steps"), (7, "steps", "epochs")):
        asked = replace(config, train_tokenizer=replace(config.train_tokenizer, steps=steps))
        training = settings_of(asked, "tokenizer")["training"]
        assert said in training and unsaid not in training


# --- the paper's size -------------------------------------------------------------------------------------------------


def test_the_papers_dynamics_with_two_layers_learns_on_a_cpu() -> None:
    config = minecraft()
    world = replace(config.dynamics, trunk=replace(config.dynamics.trunk, depth=2, pattern="ST"))
    objective = replace(config.dynamics_objective, image_fraction=0.0, bootstrap_fraction=0.5)
    torch.manual_seed(0)
    dynamics, generator = Dynamics(world, config.env.actions), torch.Generator().manual_seed(0)
    nn.init.normal_(dynamics.latent_out.weight, std=0.02)  # zero at first: nothing before it would have a gradient
    rows, frames = 2, 2
    batch = _batch(torch.randn(rows, frames, 512, 16, generator=generator))
    key = torch.tensor([0, 1])[:, None].expand(rows, frames)  # the bootstrap's row and the flow's differ in one key
    batch = replace(batch, actions=torch.cat((key[..., None], batch.actions[..., 1:]), dim=-1))
    loss, metrics = ShortcutLoss(objective)(dynamics, batch, GeneratorNoise(generator), bootstrap=True)
    loss.backward()
    assert set(metrics) == {"flow", "bootstrap"} and all(float(value) > 0 for value in metrics.values())
    for block in dynamics.trunk.blocks:
        for weight in (block.attention.out.weight, block.mlp.out.weight):
            assert weight.grad is not None and torch.isfinite(weight.grad).all() and weight.grad.any()
    assert dynamics.action.table.weight.grad is not None and dynamics.action.table.weight.grad[:2].any(dim=1).all()


def test_the_papers_dynamics_runs_whole_on_the_meta_device() -> None:
    config = minecraft()
    with torch.device("meta"):
        dynamics = Dynamics(config.dynamics, config.env.actions)
        batch = _batch(torch.empty(1, config.dynamics.context, 512, 16))
        level = torch.zeros(batch.mask.shape)
        clean = dynamics(dynamics.pack(batch.latents), level, level, batch.actions, batch.is_first).clean
    assert clean.shape == (1, 192, 256, 32) and clean.is_meta
    clean.sum().backward()
    assert len(dynamics.trunk.blocks) == 36
    assert all(weight.grad is not None for weight in dynamics.trunk.parameters())


def test_the_papers_tokenizer_learns_at_its_frame_size() -> None:
    """One layer each for sixteen: an encoded frame is 960 patches and 512 latents all the same."""
    config = minecraft()
    thin = {name: replace(getattr(config.tokenizer, name), depth=1) for name in ("encoder", "decoder")}
    torch.manual_seed(0)
    tokenizer = Tokenizer(replace(config.tokenizer, **thin), config.env.frame)
    image = (
        torch.linspace(0, 255, 360)[:, None] * torch.linspace(0, 1, 640) * torch.tensor([1, 0.5, 0.2])[:, None, None]
    )
    frames, mask = image.to(torch.uint8)[None, None], torch.ones(1, 1)
    tokenizer.set_pixel_statistics(frames)
    optimiser, errors = torch.optim.AdamW(tokenizer.parameters(), lr=1e-3), []
    losses = TokenizerLoss(config.tokenizer_objective)
    for _ in range(2):
        noise = GeneratorNoise(torch.Generator().manual_seed(0))  # the same patches dropped
        loss, metrics = losses(tokenizer, frames, mask, noise)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        errors.append(float(metrics["mse"]))
    assert tokenizer.grid == (24, 40) and errors[1] < errors[0]
    assert tokenizer.patch_in.weight.grad is not None and tokenizer.patch_in.weight.grad.any()  # by way of the latents


def _batch(latents: torch.Tensor) -> Batch:
    """Clips from the middle of episodes, of no action but standing still."""
    rows, frames = latents.shape[:2]
    no, zero = torch.zeros(rows, frames, dtype=torch.bool), torch.zeros(rows, frames)
    return Batch(
        latents=latents,
        actions=torch.as_tensor(VPT.nothing, device=latents.device).expand(rows, frames, -1),
        rewards=zero,
        returns=zero,
        is_first=no,
        is_terminal=no,
        mask=~no,
        task=torch.zeros(rows, 1, dtype=torch.int64),
        labelled=torch.ones(rows, dtype=torch.bool),
        is_null=no,
        bc=torch.ones(rows, dtype=torch.bool),
        flow=torch.ones(rows, dtype=torch.bool),
    )
