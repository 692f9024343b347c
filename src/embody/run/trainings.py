"""Training the weights of one stage."""

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
from embody.run.folder import record_stage
from embody.run.provenance import (
    HISTORY,
    check_trained_here,
    check_upstream,
    is_finished,
    log_sampling_differences,
    log_stale,
    recipe,
    tokenizer_hash,
)
from embody.run.stages import CONTROLS, STAGES, StageSpec
from embody.saving.atomic_write import atomic_write, check_writable
from embody.saving.checkpoint import steps_done
from embody.saving.tensors import load_tensors, save_tensors, tensors_hash
from embody.training.agent import AgentStage, EventsStage, RiskStage
from embody.training.dynamics import DynamicsStage
from embody.training.imagination import ImaginationStage
from embody.training.loop import Stage, train
from embody.training.tokenizer import DecoderStage, TokenizerStage

__all__ = ["make_weights"]


def make_weights(
    config: Config, name: str, datasets: Sequence[Dataset], device: torch.device, logger: LoggerManager
) -> Path:
    """Train the weights of the stage `name` on `datasets`, unless they are finished; returns their path.

    If the config has more steps than finished weights were trained for, training continues from their end. A
    `UserError` if finished weights have another recipe, or if upstream weights are missing or have other settings.
    """
    check_trained_here(config, name)
    check_upstream(config, *STAGES[name].upstream)
    wanted, path = recipe(config, name, datasets), config.weights(name)
    if is_finished(path, wanted):
        logger.info(f"{path} is finished: nothing to train")
        log_sampling_differences(config, [name], logger)
        return path
    kept = config.finished_state(name)
    for folder in (path.parent, kept.parent):
        check_writable(folder)
    with record_stage(config, name) as record:
        trained: list[Stage] = []
        history: dict[str, Any] = {}
        has_trained = False  # whether this call has trained a step; then checkpoints of later trainings are outdated
        for stage in _training_stages(config, STAGES[name], datasets, device):
            checkpoint = config.checkpoint(stage.name)
            if has_trained:
                checkpoint.unlink(missing_ok=True)
            elif not trained:
                history = _load_initial_state(config, name, stage.model, path, checkpoint)
            stage.model.to(device)
            stage.losses.to(device)
            steps_before = steps_done(checkpoint)
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
            has_trained = has_trained or progress.step > steps_before
            history |= {stage.name: asdict(progress)} if progress.changes or progress.skipped or progress.begin else {}
            trained.append(stage)
        continued = path.exists()
        save_tensors(path, trained[-1].model.state_dict(), wanted | ({HISTORY: history} if history else {}))
        config.checkpoint(trained[0].name).replace(kept)
        for stage in trained[1:]:
            config.checkpoint(stage.name).unlink(missing_ok=True)
    if continued:
        log_stale(config, name, logger)
    return path


def _load_initial_state(config: Config, name: str, model: nn.Module, path: Path, checkpoint: Path) -> dict[str, Any]:
    """Prepare the start of the stage `name`: its own finished state, or `init_from` weights; returns its history.

    If `checkpoint` exists, the stage resumes from it instead.
    """
    kept, initial = config.finished_state(name), config.initial_weights(STAGES[name].phase)
    if path.exists() and not checkpoint.exists():
        if not kept.exists():
            raise UserError(
                f"{path} cannot be trained further: its optimiser state ({kept}) is missing; start a run with another"
                f" --name from these weights: --train-{STAGES[name].phase}.init-from {path}"
            )
        with atomic_write(checkpoint, kept.stat().st_size) as temporary:
            shutil.copyfile(kept, temporary)
    if initial is None:
        return {}
    if not checkpoint.exists():
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        model.load_state_dict(load_tensors(initial, trained, ignore_others=True)[0], strict=False)
    return {"initial_weights": tensors_hash(load_tensors(initial)[0])}


def _training_stages(
    config: Config, spec: StageSpec, datasets: Sequence[Dataset], device: torch.device
) -> Iterator[Stage]:
    """The trainings of one model. The next one is built from the previous one's result, so each must end first."""
    config = spec.change(config)
    match spec.phase:
        case "tokenizer":
            tokenizer = TokenizerStage(config, datasets)
            yield tokenizer
            tokenizer.model.set_latent_statistics(tokenizer.sample_frames().to(device))
            if tokenizer.decoder_steps:
                yield DecoderStage(tokenizer)
        case "dynamics":
            yield DynamicsStage(config, datasets, tokenizer_hash(config))
        case "agent":
            world = _world(config, spec)
            agent = AgentStage(config, datasets, tokenizer_hash(config), world, spec.episodes, name=spec.name)
            yield agent
            if agent.model.outcome_models and spec.name not in CONTROLS:  # controls are not trained in imagination
                yield EventsStage(agent)
                yield RiskStage(agent)
        case "imagination":
            model = load_world_and_agent(config.weights("agent"))[0].to(device)
            yield ImaginationStage(config, datasets, tokenizer_hash(config), model, name=spec.name)


def _world(config: Config, spec: StageSpec) -> Dynamics:
    """The trained dynamics; an untrained one if the agent has no dynamics upstream (`no_world_model`)."""
    if "dynamics" in spec.upstream:
        return load_dynamics(config.weights("dynamics"))[0]
    torch.manual_seed(config.seed + 1)
    return Dynamics(config.dynamics, config.env.actions)
