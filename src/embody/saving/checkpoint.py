"""Checkpoints: all that a training changes as it goes, in one file, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from embody.errors import UserError
from embody.saving.tensors import load_tensors, load_weights, save_tensors

__all__ = ["TrainingState", "load_checkpoint", "save_checkpoint"]


@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint holds; loading one changes these modules and optimisers in place."""

    model: nn.Module
    average: nn.Module  # of the model's weights
    losses: nn.Module  # running statistics of the loss terms
    optimizers: Sequence[torch.optim.Optimizer]

    @property
    def modules(self) -> dict[str, nn.Module]:
        """By their names in the file."""
        return {"model": self.model, "average": self.average, "losses": self.losses}


def save_checkpoint(path: Path, state: TrainingState, *, step: int, steps: int, recipe: Mapping[str, Any]) -> None:
    """Write `state` after `step` of `steps`; `recipe` (JSON-ready) is all that the training depends on."""
    parts = {name: module.state_dict() for name, module in state.modules.items()}
    parts |= {f"optimizer{i}": _flatten(optimizer) for i, optimizer in enumerate(state.optimizers)}
    tensors = {f"{part}.{name}": t for part, values in parts.items() for name, t in values.items()}
    save_tensors(path, tensors, {"step": step, "steps": steps, "config": recipe})


def load_checkpoint(path: Path, state: TrainingState, *, steps: int, recipe: Mapping[str, Any]) -> int:
    """Put what `save_checkpoint` wrote into `state`; returns how many steps are done.

    A `UserError` if it is damaged, or of a training with another `recipe` or number of steps.
    """
    tensors, saved = load_tensors(path)
    if saved.get("config") != recipe or saved.get("steps") != steps:
        raise UserError(f"{path} was made with another config or data: delete it to train anew, or use another --name")

    def part(name: str) -> dict[str, Tensor]:
        return {key[len(name) + 1 :]: t for key, t in tensors.items() if key.startswith(f"{name}.")}

    for name, module in state.modules.items():
        load_weights(module, part(name), path)
    for i, optimizer in enumerate(state.optimizers):
        _unflatten(optimizer, part(f"optimizer{i}"))
    return int(saved["step"])


def _flatten(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's tensors by parameter number and name, e.g. `3.exp_avg`."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": torch.as_tensor(t) for i, values in state.items() for name, t in values.items()}


def _unflatten(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
