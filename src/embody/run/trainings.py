"""The trainings that a stage's weights come from, one after the other."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from embody.config import Config
from embody.data import Dataset
from embody.dynamics import Dynamics
from embody.logger_manager import LoggerManager
from embody.model import load_dynamics, load_world_and_agent
from embody.run.folder import recorded
from embody.run.provenance import (
    check_own_world,
    check_upstream,
    is_finished,
    log_other_sampling,
    recipe,
    tokenizer_hash,
)
from embody.run.stages import CONTROLS, STAGES, StageSpec
from embody.saving.tensors import save_tensors
from embody.training.agent import AgentStage, EventsStage, RiskStage
from embody.training.dynamics import DynamicsStage
from embody.training.imagination import ImaginationStage
from embody.training.loop import Stage, train
from embody.training.tokenizer import DecoderStage, TokenizerStage

__all__ = ["make_weights"]


def make_weights(
    config: Config, name: str, datasets: Sequence[Dataset], device: torch.device, logger: LoggerManager
) -> Path:
    """The weights of the stage `name`, trained on `datasets` unless they are finished.

    A `UserError` if finished ones were made otherwise, or what they are built on is missing or was.
    """
    check_own_world(config, name)
    check_upstream(config, *STAGES[name].built_on)
    wanted, path = recipe(config, name, datasets), config.weights(name)
    if is_finished(path, wanted):
        logger.info(f"{path} is finished")
        log_other_sampling(config, [name], logger)
        return path
    with recorded(config, name) as record:
        trained: list[Stage] = []
        for stage in _trainings(config, STAGES[name], datasets, device):
            stage.model.to(device)
            stage.losses.to(device)
            train(
                stage,
                checkpoint=config.checkpoint(stage.name),
                recipe=wanted,
                logger=logger,
                precision=config.precision,
                seed=config.seed,
                recompute=config.recompute,
                compile=config.compile,
                on_checkpoint=record,
            )
            trained.append(stage)
        save_tensors(path, trained[-1].model.state_dict(), wanted)
        for stage in trained:
            config.checkpoint(stage.name).unlink(missing_ok=True)
    return path


def _trainings(config: Config, spec: StageSpec, datasets: Sequence[Dataset], device: torch.device) -> Iterator[Stage]:
    """All of one model; each is asked for when the one before is done."""
    config = spec.change(config)
    match spec.phase:
        case "tokenizer":
            tokenizer = TokenizerStage(config, datasets)
            yield tokenizer
            tokenizer.model.set_latent_statistics(tokenizer.some_frames().to(device))
            if tokenizer.decoder_steps:
                yield DecoderStage(tokenizer)
        case "dynamics":
            yield DynamicsStage(config, datasets, tokenizer_hash(config))
        case "agent":
            world = _world(config, spec)
            agent = AgentStage(config, datasets, tokenizer_hash(config), world, spec.episodes, name=spec.name)
            yield agent
            if agent.model.judges and spec.name not in CONTROLS:  # the controls do not dream
                yield EventsStage(agent)
                yield RiskStage(agent)
        case "imagination":
            model = load_world_and_agent(config.weights("agent"))[0].to(device)
            yield ImaginationStage(config, datasets, tokenizer_hash(config), model, name=spec.name)


def _world(config: Config, spec: StageSpec) -> Dynamics:
    """The trained dynamics, or for an agent that is not built on it one that was never trained."""
    if "dynamics" in spec.built_on:
        return load_dynamics(config.weights("dynamics"))[0]
    torch.manual_seed(config.seed + 1)
    return Dynamics(config.dynamics, config.env.actions)
