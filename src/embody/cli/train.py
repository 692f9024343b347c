"""Commands that train: run, train, ablate."""

from dataclasses import dataclass
from typing import Annotated

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from embody.cli.settings import Preset, Settings, trainer, with_full
from embody.config import Config
from embody.errors import UserError, did_you_mean
from embody.run.stages import STAGES

__all__ = ["Ablate", "Run", "Train", "stage_named"]


def stage_named(name: str) -> str:
    """`name`, if a stage has it; otherwise a `UserError` names the nearest stage."""
    if name not in STAGES:
        raise UserError(f"unknown stage {name!r}{did_you_mean(name, STAGES)}: choose one of {', '.join(STAGES)}")
    return name


Stage = Annotated[
    str,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="STAGE",
        instance_from_str=lambda words: stage_named(words[0]),
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda value: [value],
    ),
]


@dataclass(frozen=True)
class Run:
    """Run the whole pipeline: collect, train every stage, evaluate, report.

    What is finished is skipped, and an interrupted run goes on with the same command.
    """

    preset: Preset = Config.preset
    config: Settings = Config()
    full: bool = False
    """Train the controls too, and evaluate everything on more episodes (--evaluation.full-episodes)."""

    def start(self, typed: str) -> None:
        trainer(with_full(self.config, self.full)).run(command=typed)


@dataclass(frozen=True)
class Train:
    """Train one stage on the weights and latents of the stages before it.

    A finished stage is skipped, and an interrupted one goes on with the same command.
    """

    stage: tyro.conf.Positional[Stage]
    preset: Preset = Config.preset
    config: Settings = Config()

    def start(self, typed: str) -> None:
        trainer(self.config).train(self.stage)


@dataclass(frozen=True)
class Ablate:
    """Train the paper's cascade of ablations of the dynamics on the run's latents.

    Each row of its table adds one part of the dynamics to the row before. The table goes to the run's folder.
    """

    preset: Preset = Config.preset
    config: Settings = Config()
    steps: int = 350
    """Number of optimiser steps of each row and training seed, at least 1."""
    seeds: int = 2
    """Number of training seeds of each row, at least 1; the first is the run's --seed."""

    def start(self, typed: str) -> None:
        trainer(self.config).ablate(self.steps, self.seeds, command=typed)
