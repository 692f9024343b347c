"""A tiny complete run on real episodes, made once in a test session."""

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from embody.config import (
    AgentConfig,
    AgentObjective,
    Config,
    DynamicsConfig,
    EvaluationConfig,
    ImaginationConfig,
    SamplingConfig,
    StageConfig,
    TokenizerConfig,
    TokenizerObjective,
    TransformerConfig,
)
from embody.evaluation.run import FinishedParts
from embody.games.minigrid.presets import minigrid
from embody.recording import collect
from embody.trainer import Trainer

TASK = "MiniGrid-Fetch-5x5-N2-v0"


def killed_at(part: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts that evaluations measure, in order; the evaluation is killed when `part` comes for the first time."""
    measured: list[str] = []
    whole = FinishedParts.part

    def counted(self: FinishedParts, model: str, name: str, measure: Any) -> Any:
        def measure_unless_killed() -> Any:
            measured.append(f"{model} {name}".strip())
            if measured[-1] == part and not killed:
                killed.append(part)
                raise KeyboardInterrupt
            return measure()

        return whole(self, model, name, measure_unless_killed)

    killed: list[str] = []
    monkeypatch.setattr(FinishedParts, "part", counted)
    return measured


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Threads only slow tiny tensors down; processes that tests start read the variable."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


def tiny_config(root: Path) -> Config:
    """One task, models of a few thousand parameters, stages of a few steps; all files under `root`."""
    preset = minigrid()
    trunk = TransformerConfig(width=32, depth=2, heads=2, kv_heads=1, pattern="ST", mlp_width=48)
    stage = StageConfig(epochs=0.5, batch=4, length=4, lr=2e-3, muon_lr=4e-3, checkpoint_every=2, log_every=1)
    return Config(
        name="tiny",
        data_dir=str(root / "data"),
        models_dir=str(root / "models"),
        runs_dir=str(root / "runs"),
        logs_dir=str(root / "logs"),
        device="cpu",  # also where there is a GPU: many tests compare bits
        precision="float32",
        env=dataclasses.replace(preset.env, tasks=(TASK,), max_steps=(12,)),
        collect=dataclasses.replace(preset.collect, train_episodes=24, validation_episodes=8, workers=1),
        tokenizer=TokenizerConfig(patch=8, latents=5, channels=4, context=3, encoder=trunk, decoder=trunk),
        tokenizer_objective=TokenizerObjective(lpips="none"),
        dynamics=DynamicsConfig(tokens=5, channels=4, registers=2, context=16, trunk=trunk, k_max=8),
        agent=AgentConfig(tokens=2, hidden=32, distances=3, bins=11),
        agent_objective=AgentObjective(event_steps=3, event_rows=4, risk_steps=3),
        sampling=SamplingConfig(k_sample=2),
        imagination=ImaginationConfig(context=4, horizon=4),
        train_tokenizer=stage,
        train_dynamics=dataclasses.replace(stage, long_length=8),
        train_agent=dataclasses.replace(stage, epochs=0.25),
        train_imagination=dataclasses.replace(stage, epochs=0.25, muon_lr=0.0),
        evaluation=EvaluationConfig(episodes=3, full_episodes=4, batch=2, rollouts=6, context=4, horizon=11),
    )


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny run's datasets; not to be written to."""
    root = tmp_path_factory.mktemp("recorded")
    collect(tiny_config(root))
    return root


@pytest.fixture(scope="session")
def finished(recorded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny run, from the datasets to the report; not to be written to."""
    root = tmp_path_factory.mktemp("finished")
    shutil.copytree(recorded, root, dirs_exist_ok=True)
    Trainer(config=tiny_config(root)).run(command="embody run tiny")
    return root


@pytest.fixture
def config(recorded: Path, tmp_path: Path) -> Config:
    """The tiny run's config in a folder of the test's own, which holds only the datasets."""
    shutil.copytree(recorded, tmp_path, dirs_exist_ok=True)
    return tiny_config(tmp_path)


@pytest.fixture
def finished_config(finished: Path, tmp_path: Path) -> Config:
    """The config of a copy of the finished run, which the test may change."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tiny_config(tmp_path)
