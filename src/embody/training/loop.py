"""The training loop, written once: optimise, average, log, checkpoint, resume.

Every step is a pure function of (state, seed, step): the batch is numbered, and noise comes from a generator seeded by
the step. So a run that is stopped and resumed gives, bit for bit on one CPU, what an uninterrupted one gives.
"""

import contextlib
import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from embody.config import StageConfig
from embody.data.sampling.batch import Batch
from embody.errors import UserError
from embody.logger_manager import LoggerManager
from embody.nn.masked_mean import Reduce, one_process
from embody.nn.transformer import Block
from embody.saving.tensors import (
    flatten_optimizer,
    load_tensors,
    load_weights,
    save_tensors,
    unflatten_optimizer,
)
from embody.training.muon import Muon
from embody.training.precision import matrix_rate

__all__ = ["Stage", "StepContext", "learning_rate", "train"]


@dataclass(frozen=True)
class StepContext:
    """What a loss knows of its step besides the batch."""

    step: int  # from 0
    steps: int  # of the whole training
    generator: torch.Generator  # on the model's device, seeded for this step: the only source of noise
    reduce: Reduce = one_process

    @property
    def progress(self) -> float:
        """The share of the training done before this step, in [0, 1)."""
        return self.step / self.steps


class Stage(Protocol):
    """What differs between stages."""

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

    def batches(self, start: int) -> Iterable[Batch]:
        """Batches `start`, `start + 1`, ..."""
        ...

    def loss(self, batch: Batch, context: StepContext) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Loss and metrics of a step, of this process's rows; their means over processes are those of all rows."""
        ...

    def row_flops(self, frames: int, context: StepContext) -> float:
        """FLOPs of a step for each of its rows, of so many frames; see `embody.cost.flops`."""
        ...


def train(
    stage: Stage,
    *,
    checkpoint: Path,
    about: Mapping[str, Any],
    logger: LoggerManager,
    precision: str,
    seed: int,
    recompute: bool = False,
    compile: bool = False,
    stop_after: int | None = None,
    on_checkpoint: Callable[[], None] = lambda: None,
) -> None:
    """Train from `checkpoint` if it exists, else from the stage's own start, to the last step (or `stop_after` more).

    At the end `stage.model` holds the averaged weights. `about` (the stage's config) must equal that in the checkpoint.
    `recompute` and `compile`: see `Config`.
    """
    config = stage.config
    device = next(stage.model.parameters()).device
    optimizers = _optimizers(stage)
    average = copy.deepcopy(stage.model).requires_grad_(False)
    first = _resume(stage, average, optimizers, checkpoint, about) if checkpoint.exists() else 0
    logger.truncate(stage.name, first)
    if first:
        logger.info(f"{stage.name}: going on from step {first} of {stage.steps}")
    last = stage.steps if stop_after is None else min(stage.steps, first + stop_after)
    generator = torch.Generator(device)
    batches = _iterate(stage, first, last)
    clock = _Clock(matrix_rate(device, precision))
    speed = ""
    stage.model.train()
    for block in _blocks(stage.model):
        block.recompute, block.compiled = recompute, compile
    with logger.progress(stage.name, stage.steps, first) as bar:
        for step in range(first, last):
            with clock.waiting():
                batch = next(batches).to(device)
            context = StepContext(step, stage.steps, generator.manual_seed(seed * 1_000_003 + step))
            share = learning_rate(config, step, stage.steps)
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = share * group["full_lr"]
                optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
                loss, metrics = stage.loss(batch, context)
            loss.backward()
            trained = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
            norm = nn.utils.clip_grad_norm_(trained, config.clip)
            if not torch.isfinite(norm):
                raise UserError(f"{stage.name}: the loss is not finite at step {step}: lower its lr, and muon_lr")
            for optimizer in optimizers:
                optimizer.step()
            _average(average, stage.model, min(config.ema, (step + 1) / (step + 10)))
            clock.count(batch, batch.rows * stage.row_flops(batch.length, context))
            done = step + 1
            if done % config.log_every == 0 or done == stage.steps:
                rates = clock.rates()
                speed = f", {rates['frames_per_second']:,.1f} frames/s, MFU {rates['mfu']:.0%}"
                values = {name: float(value) for name, value in metrics.items()}
                values |= {
                    "loss": float(loss.detach()),
                    "gradient_norm": float(norm),
                    "lr": share * config.lr,
                    **rates,
                }
                logger.metrics(stage.name, done, values)
            bar.advance(1, note=f"loss {float(loss.detach()):.3f}{speed}")
            if done % config.checkpoint_every == 0 or done == last:
                _save(stage, average, optimizers, checkpoint, about, done)
                on_checkpoint()
    if last == stage.steps:
        stage.model.load_state_dict(average.state_dict())
    stage.model.eval()


def learning_rate(config: StageConfig, step: int, steps: int) -> float:
    """The share of the full rate at `step`: warm-up, stable, linear decay to `final_lr`."""
    warmup = max(1.0, config.warmup * steps)
    left = (steps - step) / max(1.0, config.decay * steps)
    return min(1.0, (step + 1) / warmup, config.final_lr + (1 - config.final_lr) * left)


def _optimizers(stage: Stage) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon for the matrices of transformer blocks if it has a rate."""
    config = stage.config
    blocks = _blocks(stage.model) if config.muon_lr else []
    matrices = {p for block in blocks for p in block.parameters() if p.ndim == 2}
    rest, muon = [], []
    for group in stage.parameter_groups():
        scale = group.get("lr_scale", 1.0)
        rest.append({"params": [p for p in group["params"] if p not in matrices], "full_lr": scale * config.lr})
        muon.append({"params": [p for p in group["params"] if p in matrices], "full_lr": scale * config.muon_lr})
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=config.lr, betas=(0.9, 0.99), weight_decay=config.weight_decay, fused=True)
    ]
    if any(group["params"] for group in muon):
        optimizers.append(Muon([group for group in muon if group["params"]], lr=config.muon_lr))
    return optimizers


def _blocks(model: nn.Module) -> list[Block]:
    return [module for module in model.modules() if isinstance(module, Block)]


class _Clock:
    """What a second of training held since the last `rates`."""

    def __init__(self, matrix_rate: float) -> None:
        self.matrix_rate = matrix_rate
        self._begin()

    def _begin(self) -> None:
        self.frames, self.flops, self.waited, self.since = 0, 0.0, 0.0, time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.waited += time.perf_counter() - began

    def count(self, batch: Batch, flops: float) -> None:
        self.frames += batch.rows * batch.length
        self.flops += flops

    def rates(self) -> dict[str, float]:
        """`mfu` is the share of the measured matrix rate, `data_wait` that of the time spent waiting for batches."""
        seconds = max(time.perf_counter() - self.since, 1e-9)
        rates = {
            "frames_per_second": self.frames / seconds,
            "mfu": self.flops / seconds / self.matrix_rate,
            "data_wait": self.waited / seconds,
        }
        self._begin()
        return rates


def _iterate(stage: Stage, first: int, last: int) -> Iterator[Batch]:
    # No batch is asked for when nothing is left to train: loading could be slow or fail.
    return iter(stage.batches(first)) if first < last else iter(())


@torch.no_grad()
def _average(average: nn.Module, model: nn.Module, decay: float) -> None:
    """`average <- decay average + (1 - decay) model` for parameters; buffers are copied."""
    trained = [(a, m) for a, m in zip(average.parameters(), model.parameters(), strict=True) if m.requires_grad]
    if trained:
        torch._foreach_lerp_([a for a, _ in trained], [m for _, m in trained], 1 - decay)
    for a, m in zip(average.buffers(), model.buffers(), strict=True):
        a.copy_(m)


def _save(
    stage: Stage,
    average: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    path: Path,
    about: Mapping[str, Any],
    step: int,
) -> None:
    parts = {
        "model": stage.model.state_dict(),
        "average": average.state_dict(),
        "losses": stage.losses.state_dict(),
        **{f"optimizer{i}": flatten_optimizer(optimizer) for i, optimizer in enumerate(optimizers)},
    }
    tensors = {f"{part}.{name}": t for part, values in parts.items() for name, t in values.items()}
    save_tensors(path, tensors, {"step": step, "steps": stage.steps, "config": about})


def _resume(
    stage: Stage,
    average: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    path: Path,
    about: Mapping[str, Any],
) -> int:
    tensors, saved = load_tensors(path)
    if saved.get("config") != about or saved.get("steps") != stage.steps:
        raise UserError(
            f"{path} was made with another config or data: delete it to train {stage.name} anew, or use another --name"
        )

    def part(name: str) -> dict[str, Tensor]:
        return {key[len(name) + 1 :]: t for key, t in tensors.items() if key.startswith(f"{name}.")}

    load_weights(stage.model, part("model"), path)
    load_weights(average, part("average"), path)
    load_weights(stage.losses, part("losses"), path)
    for i, optimizer in enumerate(optimizers):
        unflatten_optimizer(optimizer, part(f"optimizer{i}"))
    return int(saved["step"])
