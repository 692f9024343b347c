"""The training loop of all stages: optimise, average, log, checkpoint, resume.

A step is a pure function of (state, seed, step), because batches are numbered and noise depends on step and row. So a
run that is stopped and resumed equals an uninterrupted one, bit for bit on one CPU.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from embody.config import StageConfig
from embody.interruption import Interrupted, deferred_signals
from embody.logger_manager import LoggerManager
from embody.nn.masked_mean import Reduce, one_process
from embody.nn.noise import Noise, RowNoise
from embody.nn.transformer import Block
from embody.saving.checkpoint import Progress, TrainingState, load_checkpoint, save_checkpoint
from embody.saving.differences import described
from embody.training.ema import MovingAverage
from embody.training.finite import FiniteSteps
from embody.training.loss_scale import LossScale
from embody.training.optimizers import clipped_gradients, learning_rate, make_optimizers, set_rates
from embody.training.throughput import Throughput

__all__ = ["Stage", "StepContext", "train"]


@dataclass(frozen=True)
class StepContext:
    """What a loss needs besides the batch."""

    step: int  # from 0
    steps: int  # of the whole training
    noise: Noise  # the source of all random numbers of the loss, on the model's device
    reduce: Reduce = one_process
    begin: int = 0  # the step from which a finished training continues; 0 if it was never finished

    @property
    def progress(self) -> float:
        """The share of the training done before this step, in [0, 1); 1 if a finished training continues."""
        return 1.0 if self.begin else self.step / self.steps


class StageBatch(Protocol):
    """What a step learns from: recorded clips, or dreams."""

    @property
    def rows(self) -> int: ...

    @property
    def length(self) -> int: ...

    def to(self, device: torch.device) -> "StageBatch": ...


class Stage(Protocol):
    """What a stage gives to the training loop."""

    name: str
    config: StageConfig
    steps: int

    @property
    def losses(self) -> nn.Module:
        """Loss terms, whose running statistics are part of a checkpoint."""
        ...

    @property
    def model(self) -> nn.Module:
        """Trained and averaged; frozen parts have requires_grad False."""
        ...

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Trained parameters; `lr_scale` in a group multiplies its rate."""
        ...

    def batches(self, start: int) -> Iterable[StageBatch]:
        """The batches of steps `start`, `start + 1`, ...; each is requested when its step begins, under autocast."""
        ...

    def loss(self, batch: Any, context: StepContext) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Loss and metrics of this process's rows; averaged over processes they are those of all rows."""
        ...

    def row_flops(self, frames: int, context: StepContext) -> float:
        """FLOPs of a step for each row of `frames` frames; see `embody.cost.flops`."""
        ...


def train(
    stage: Stage,
    *,
    checkpoint: Path,
    recipe: Mapping[str, Any],
    logger: LoggerManager,
    precision: str,
    seed: int,
    recompute: bool = False,
    compile: bool = False,
    stop_after: int | None = None,
    on_checkpoint: Callable[[], None] = lambda: None,
) -> Progress:
    """Train from `checkpoint` if it exists, else from the stage's own start, to the last step (or `stop_after` more).

    At the end `stage.model` holds the averaged weights. `recipe` is what the stage's weights depend on; that of the
    checkpoint may differ in what `load_checkpoint` allows. `recompute` and `compile`: see `Config`. Returns how far the
    training has come.

    A step that is not finite is left out; a `UserError` ends the training after too many of them in a row
    (`FiniteSteps`). In float16 the loss is scaled (`LossScale`). After a signal, the current step is finished and
    saved, then `Interrupted` is raised.
    """
    config, model, steps = stage.config, stage.model, stage.steps
    device = next(model.parameters()).device
    optimizers = make_optimizers(config, model, stage.parameter_groups())
    average = MovingAverage(model, config.ema)
    state = TrainingState(model, average.model, stage.losses, optimizers)
    progress = load_checkpoint(checkpoint, state, steps=steps, recipe=recipe) if checkpoint.exists() else Progress()
    first, begin, kept = progress.step, progress.begin, progress.step
    last = steps if stop_after is None else min(steps, first + stop_after)
    logger.truncate(stage.name, first)
    if first:
        logger.info(f"{stage.name}: going on from step {first} of {steps}")
    for change in progress.changes:
        logger.info(f"{stage.name}: since step {change['step']}, {_changed(change)}")
    finite = FiniteSteps(stage.losses, device, progress.skipped, progress.in_a_row)
    scale = LossScale(device, progress.loss_scale, progress.steps_at_scale) if precision == "float16" else None
    throughput, note = Throughput(device, precision), ""
    dtype = torch.float16 if precision == "float16" else torch.bfloat16
    autocast = functools.partial(torch.autocast, device.type, dtype, precision != "float32")
    batches = _batches(stage, first, last)
    model.train()
    for block in [module for module in model.modules() if isinstance(module, Block)]:
        block.recompute, block.compiled = recompute, compile
    with deferred_signals() as signalled, logger.progress(stage.name, steps, first) as bar:
        for step in range(first, last):
            with throughput.waiting(), autocast():
                batch = next(batches).to(device)
            context = StepContext(step, steps, RowNoise(seed, step, device=device), begin=begin)
            share = learning_rate(config, step - begin, steps - begin)
            set_rates(optimizers, share)
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            finite.begin()
            with autocast():
                loss, metrics = stage.loss(batch, context)
            norm = clipped_gradients(loss, optimizers, config.clip, None if scale is None else scale.value)
            counts = finite.decide(loss, norm, optimizers, scale)
            for optimizer in optimizers:
                optimizer.step()
            average.update(model, step, counts)
            throughput.count(batch.rows * batch.length, batch.rows * stage.row_flops(batch.length, context))
            done = step + 1
            logged, saved = done % config.log_every == 0 or done == steps, done % config.checkpoint_every == 0
            if logged or done == last:
                finite.check(stage.name, done, checkpoint, kept)
            if logged:
                rates = throughput.rates()
                tensors = {**metrics, "loss": loss.detach(), "gradient_norm": norm, "skipped_steps": finite.skipped}
                tensors |= {} if scale is None else {"loss_scale": scale.value}
                values = {name: float(tensor) for name, tensor in tensors.items()}
                note = f"loss {values['loss']:.3f}, {rates['frames_per_second']:,.1f} frames/s, MFU {rates['mfu']:.0%}"
                logger.metrics(stage.name, done, values | {"lr": share * config.lr} | rates)
            bar.advance(1, note=note)
            ending = signalled()
            if saved or done == last or ending is not None:
                progress = replace(progress, step=done, skipped=int(finite.skipped), in_a_row=int(finite.in_a_row))
                if scale is not None:
                    progress = replace(progress, loss_scale=float(scale.value), steps_at_scale=int(scale.steps))
                # While steps are not finite, the last good checkpoint is kept.
                if not progress.in_a_row or done == last:
                    save_checkpoint(checkpoint, state, progress, steps=steps, recipe=recipe)
                    kept = done
                on_checkpoint()
            if ending is not None:
                raise Interrupted(ending)
    if progress.skipped:
        logger.warning(f"{stage.name}: {progress.skipped} of {last} steps were not finite and left out")
    if last == steps:
        model.load_state_dict(average.model.state_dict())
    model.eval()
    return progress


def _changed(change: Mapping[str, Any]) -> str:
    """One of `Progress.changes` in words."""
    changed = {name: values for name, values in change.items() if name != "step"}
    return described({name: (old, new) for name, (old, new) in changed.items()})


def _batches(stage: Stage, first: int, last: int) -> Iterator[StageBatch]:
    # If nothing is left to train, no batch is loaded: that could be slow or fail.
    return iter(stage.batches(first)) if first < last else iter(())
