"""Commands that train: train, run, ablate."""

from collections.abc import Callable
from typing import Annotated

import tyro

from embody.cli.settings import Command, Preset, Settings, with_full
from embody.config import Config
from embody.run.stages import STAGES
from embody.trainer import Trainer

__all__ = ["commands"]

Stage = Annotated[str, tyro.conf.arg(constructor=tyro.extras.literal_type_from_choices(list(STAGES)))]


def commands(base: Config, command: str) -> tuple[Command, ...]:
    """The commands of this group, with the settings of `base` as defaults; results keep `command`, as it was typed."""

    def train(
        stage: tyro.conf.Positional[Stage], preset: Preset = base.preset, config: Settings = base
    ) -> Callable[[], object]:
        """Train one stage on what the stages before left.

        Three stages are controls: `best_demonstrations` trains the agent only on the expert's episodes without random
        actions, `no_world_model` trains it from an untrained dynamics, `shuffled_rewards` is imagination with the
        rewards permuted over the batch.
        """
        return lambda: Trainer(config=config).train(stage)

    def run(preset: Preset = base.preset, config: Settings = base, full: bool = False) -> Callable[[], object]:
        """Everything: collect, train all stages, evaluate, report. Goes on where it was stopped."""
        return lambda: Trainer(config=with_full(config, full)).run(command=command)

    def ablate(
        preset: Preset = base.preset, config: Settings = base, steps: int = 350, seeds: int = 2
    ) -> Callable[[], object]:
        """Train the paper's cascade on the run's latents: what each part of the dynamics adds.

        Args:
            steps: optimiser steps of every row and seed.
            seeds: how many, from the run's on.
        """
        return lambda: Trainer(config=config).ablate(steps, seeds, command=command)

    return train, run, ablate
