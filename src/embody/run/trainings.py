"""The trainings that a stage's weights come from, one after the other."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from embody.config import Config
from embody.data import Dataset
from embody.dynamics import Dynamics
from embody.errors import UserError
from embody.logger_manager import LoggerManager
from embody.model import load_dynamics, load_world_and_agent
from embody.run.folder import recorded
from embody.run.provenance import (
    HISTORY,
    check_own_world,
    check_upstream,
    is_finished,
    log_other_sampling,
    log_stale,
    recipe,
    tokenizer_hash,
)
from embody.run.stages import CONTROLS, STAGES, StageSpec
from embody.saving.atomic_write import atomic_write
from embody.saving.checkpoint import steps_done
from embody.saving.tensors import load_tensors, load_weights, save_tensors, tensors_hash
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

    With more steps than finished weights had, training goes on from their end.
    A `UserError` if finished ones were made otherwise, or what they are built on is missing or was.
    """
    check_own_world(config, name)
    check_upstream(config, *STAGES[name].built_on)
    wanted, path = recipe(config, name, datasets), config.weights(name)
    if is_finished(path, wanted):
        logger.info(f"{path} is finished")
        log_other_sampling(config, [name], logger)
        return path
    kept = config.finished_state(name)
    with recorded(config, name) as record:
        trained: list[Stage] = []
        history: dict[str, Any] = {}
        anew = False  # whether this command has trained a step: later trainings then do not go on from older ones
        for stage in _trainings(config, STAGES[name], datasets, device):
            checkpoint = config.checkpoint(stage.name)
            if anew:
                checkpoint.unlink(missing_ok=True)
            elif not trained:
                history = _first_weights(config, name, stage.model, path, checkpoint)
            stage.model.to(device)
            stage.losses.to(device)
            before = steps_done(checkpoint)
            progress = train(
                stage,
                checkpoint=checkpoint,
                recipe=wanted,
                logger=logger,
                precision=config.precision,
                seed=config.seed,
                recompute=config.recompute,
                compile=config.compile,
                on_checkpoint=record,
            )
            anew = anew or progress.step > before
            history |= {stage.name: asdict(progress)} if progress.changes or progress.skipped or progress.begin else {}
            trained.append(stage)
        goes_on = path.exists()
        save_tensors(path, trained[-1].model.state_dict(), wanted | ({HISTORY: history} if history else {}))
        config.checkpoint(trained[0].name).replace(kept)
        for stage in trained[1:]:
            config.checkpoint(stage.name).unlink(missing_ok=True)
    if goes_on:
        log_stale(config, name, logger)
    return path


def _first_weights(config: Config, name: str, model: nn.Module, path: Path, checkpoint: Path) -> dict[str, Any]:
    """Have the stage `name` begin where it is asked to: at its own end, or at other weights. What is to be recorded.

    A stage that has begun goes on from `checkpoint`.
    """
    kept, initial = config.finished_state(name), config.initial_weights(STAGES[name].phase)
    if path.exists() and not checkpoint.exists():
        if not kept.exists():
            raise UserError(
                f"{path} cannot be trained on: the state of its optimiser ({kept}) is gone; a run of another --name can"
                f" begin with its weights: --train-{STAGES[name].phase}.init-from {path}"
            )
        with atomic_write(checkpoint) as temporary:
            shutil.copyfile(kept, temporary)
    if initial is None:
        return {}
    tensors, _ = load_tensors(initial)
    if not checkpoint.exists():
        frozen = {name: value for name, value in model.state_dict().items() if name not in _trained(model)}
        load_weights(model, frozen | {name: tensors[name] for name in _trained(model) if name in tensors}, initial)
    return {"initial_weights": tensors_hash(tensors)}


def _trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


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
