"""Checkpoints and weights that others changed are refused before they are used."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from embody.config import StageConfig, TransformerConfig
from embody.errors import UserError
from embody.imagination import Player
from embody.model import load_tokenizer
from embody.nn.transformer import Block
from embody.saving.checkpoint import Progress, TrainingState, load_checkpoint, save_checkpoint
from embody.saving.tensors import load_tensors, save_tensors
from embody.training.optimizers import make_optimizers

WEIGHTS = Path(__file__).parents[1] / "weights" / "minigrid"
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


# --- finished weights -----------------------------------------------------------------------------------------------


def set_at(values: Any, path: str, value: Any) -> None:
    """Set the value at a dotted path of nested dictionaries, or remove it if `value` is `...`."""
    *parents, name = path.split(".")
    for parent in parents:
        values = values[parent]
    if value is ...:
        del values[name]
    else:
        values[name] = value


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("models", []),
        ("models", ...),
        ("models.tokenizer", None),
        ("models.tokenizer.zzz", 1),
        ("models.tokenizer.patch", 0),
        ("models.tokenizer.patch", -8),
        ("models.tokenizer.latents", 0),
        ("models.tokenizer.latents", 10**9),
        ("models.tokenizer.latents", True),
        ("models.tokenizer.channels", -4),
        ("models.tokenizer.context", 0),
        ("models.tokenizer.context", 10**12),
        ("models.tokenizer.padded", [48]),
        ("models.tokenizer.padded", "ab"),
        ("models.tokenizer.padded", [8 * 10**9] * 2),
        ("models.tokenizer.padded", [65536, 65536]),
        ("models.tokenizer.encoder", []),
        ("models.tokenizer.encoder.depth", -1),
        ("models.tokenizer.encoder.depth", 10**5),
        ("models.tokenizer.encoder.depth", 10**10),
        ("models.tokenizer.encoder.width", 65536),
        ("models.tokenizer.encoder.width", 130),
        ("models.tokenizer.encoder.mlp_width", 10**9),
        ("models.tokenizer.encoder.heads", 0),
        ("models.tokenizer.encoder.kv_heads", 3),
        ("models.tokenizer.encoder.pattern", "SX"),
        ("models.tokenizer.encoder.pattern", ""),
        ("models.tokenizer.encoder.rope_base", 0.0),
        ("models.tokenizer.encoder.time_rope", [1.0]),
        ("models.tokenizer.encoder.time_rope", [1.0, 2.0, 3.0]),
        ("models.frame", [48, 48, 3]),
        ("models.frame", [0, 48]),
        ("models.frame", [-48, 48]),
        ("models.frame", [10**6, 10**6]),
        ("models.frame", [96, 96]),
    ],
)
def test_the_numbers_of_a_model_are_checked_before_it_is_built(tmp_path: Path, path: str, value: Any) -> None:
    tensors, about = load_tensors(WEIGHTS / "tokenizer.safetensors")
    set_at(about, path, value)
    save_tensors(tmp_path / "t.safetensors", tensors, about)
    with pytest.raises(UserError, match="t.safetensors"):
        load_tokenizer(tmp_path / "t.safetensors")


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda t: drop(t, "weight"), "lacks"),
        (lambda t: t.update({"../../x": torch.zeros(3)}), "unknown tensor"),
        (lambda t: change(t, "weight", lambda x: x[:1].clone()), "has shape"),
        (lambda t: change(t, "weight", lambda x: x * torch.nan), "NaN or infinity"),
        (lambda t: change(t, "weight", lambda x: x.fill_(-torch.inf)), "NaN or infinity"),
        (lambda t: change(t, "weight", Tensor.long), "int64"),
        (lambda t: change(t, "weight", Tensor.half), "float16"),
    ],
)
def test_the_tensors_of_weights_are_checked(tmp_path: Path, edit: Callable[[Tensors], Any], says: str) -> None:
    tensors, about = load_tensors(WEIGHTS / "tokenizer.safetensors")
    edit(tensors)
    save_tensors(tmp_path / "t.safetensors", tensors, about)
    with pytest.raises(UserError, match=says):
        load_tokenizer(tmp_path / "t.safetensors")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("imagination", ...),
        ("imagination", None),
        ("imagination.context", "x"),
        ("imagination.context", 0),
        ("imagination.context", 3 * 10**8),
        ("vocabulary", ...),
        ("vocabulary", None),
        ("vocabulary", [[], []]),
        ("vocabulary", ["word"] * 10**5),
        ("labels", [[1]]),
        ("labels", ["label"] * 10**5),
        ("sampling.k_sample", 0),
        ("sampling.k_sample", 2**40),
        ("models.dynamics.k_max", 3),
        ("models.actions.sizes", [True, True]),
        ("models.actions.sizes", [10**10]),
        ("models.actions.sizes", [2] * 10**5),
        ("models.agent.distances", 10**9),
        ("models.agent.bins", 1),
        ("models.agent.reward_range", [0.0]),
    ],
)
def test_an_agent_that_cannot_be_played_is_refused_when_it_is_loaded(tmp_path: Path, path: str, value: Any) -> None:
    (tmp_path / "tokenizer.safetensors").symlink_to(WEIGHTS / "tokenizer.safetensors")
    tensors, about = load_tensors(WEIGHTS / "imagination.safetensors")
    set_at(about, path, value)
    save_tensors(tmp_path / "imagination.safetensors", tensors, about)
    with pytest.raises(UserError, match="imagination.safetensors"):
        Player.load(tmp_path)
