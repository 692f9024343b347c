"""Checkpoints and weights that others changed are refused before they are used."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from embody.config import StageConfig, TransformerConfig
from embody.errors import UserError
from embody.nn.transformer import Block
from embody.saving.checkpoint import Progress, TrainingState, load_checkpoint, save_checkpoint
from embody.saving.tensors import load_tensors, save_tensors
from embody.training.optimizers import make_optimizers

RECIPE = {"training": {"lr": 0.1}}
Tensors = dict[str, Tensor]


def fresh_state() -> TrainingState:
    """The state of a training whose AdamW has vectors, and whose Muon has the matrices of a block."""
    torch.manual_seed(0)
    model, average = (Block(TransformerConfig(width=8, heads=2, mlp_width=12)) for _ in range(2))
    groups = [{"params": list(model.parameters())}]
    return TrainingState(model, average, nn.Module(), make_optimizers(StageConfig(muon_lr=0.1), model, groups))


def take_step(state: TrainingState) -> None:
    for parameter in state.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    for optimizer in state.optimizers:
        optimizer.step()


def resumed(path: Path) -> Progress:
    return load_checkpoint(path, fresh_state(), steps=9, recipe=RECIPE)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    state = fresh_state()
    take_step(state)
    save_checkpoint(tmp_path / "c.safetensors", state, Progress(step=1), steps=9, recipe=RECIPE)
    return tmp_path / "c.safetensors"


def change(tensors: Tensors, end: str, make: Callable[[Tensor], Tensor]) -> None:
    """Replace the first tensor whose name ends so."""
    name = next(name for name in tensors if name.endswith(end))
    tensors[name] = make(tensors[name])


def drop(tensors: Tensors, end: str) -> None:
    del tensors[next(name for name in tensors if name.endswith(end))]


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda t: change(t, ".exp_avg", lambda x: x[:1].clone()), "has shape"),
        (lambda t: change(t, ".exp_avg_sq", lambda x: x[:0].clone()), "has shape"),
        (lambda t: change(t, ".momentum", lambda x: x[:1].clone()), "has shape"),
        (lambda t: change(t, ".exp_avg", Tensor.double), "float64"),
        (lambda t: change(t, ".exp_avg", lambda x: x * torch.nan), "NaN or infinity"),
        (lambda t: change(t, ".exp_avg_sq", lambda x: x - 1e9), "negative"),
        (lambda t: drop(t, ".exp_avg"), "lacks the optimiser's"),
        (lambda t: drop(t, ".step"), "lacks the optimiser's"),
        (lambda t: t.update({"optimizer0.99.exp_avg": torch.zeros(1)}), "unknown tensor"),
        (lambda t: t.update({"optimizer0.x.exp_avg": torch.zeros(1)}), "unknown tensor"),
        (lambda t: t.update({"optimizer2.0.step": torch.zeros(())}), "unknown tensor"),
        (lambda t: change(t, ".step", lambda x: x + 0.5), "whole number"),
        (lambda t: change(t, ".step", lambda x: x - 2), "whole number"),
        (lambda t: change(t, ".step", lambda x: x + 1), "whole number"),
        (lambda t: change(t, ".step", lambda x: x * torch.inf), "NaN or infinity"),
        (lambda t: change(t, ".step", lambda x: x.expand(3).clone()), "has shape"),
        (lambda t: change(t, "weight", lambda x: x * torch.nan), "NaN or infinity"),
    ],
)
def test_an_optimisers_state_must_fit_its_parameters(
    checkpoint: Path, edit: Callable[[Tensors], Any], says: str
) -> None:
    """Fused AdamW does not look at shapes: it would write beyond moments that are smaller than their weight."""
    tensors, metadata = load_tensors(checkpoint)
    assert resumed(checkpoint).step == 1
    edit(tensors)
    save_tensors(checkpoint, tensors, metadata)
    with pytest.raises(UserError, match=says):
        resumed(checkpoint)


@pytest.mark.parametrize(
    "changed",
    [
        {"step": 1.0},
        {"step": True},
        {"step": -1},
        {"step": 10},
        {"begin": 2},
        {"skipped": 2},
        {"in_a_row": 1},
        {"steps": 2**60},
        {"changes": {}},
        {"changes": [1]},
        {"changes": [{"step": 2}]},
        {"changes": [{"step": 1, "training.lr": 3}]},
        {"config": []},
        {"more": 1},
    ],
)
def test_a_checkpoints_metadata_must_be_what_a_training_writes(checkpoint: Path, changed: Mapping[str, Any]) -> None:
    tensors, metadata = load_tensors(checkpoint)
    save_tensors(checkpoint, tensors, {**metadata, **changed})
    with pytest.raises(UserError):
        resumed(checkpoint)
