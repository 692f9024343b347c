"""Checkpoints: the complete state of a training, saved to one file and loaded from it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from embody.errors import UserError
from embody.saving.differences import described, differences
from embody.saving.tensors import load_metadata, load_tensors, save_tensors

__all__ = ["MAY_CHANGE", "Progress", "TrainingState", "load_checkpoint", "save_checkpoint", "steps_done"]

# Settings that may differ when a training resumes from a checkpoint.
MAY_CHANGE = frozenset(
    {
        *(f"training.{name}" for name in ("lr", "muon_lr", "final_lr", "warmup", "decay", "steps", "epochs", "batch")),
        "precision",
    }
)

# By kind of optimiser: the tensors that it keeps in the shape of each parameter, and whether it counts steps.
_MOMENTS = {"AdamW": (("exp_avg", "exp_avg_sq"), True), "Muon": (("momentum",), False)}
_REMEDY = "delete it to start again, or use another --name"


@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint holds; loading one changes these modules and optimisers in place."""

    model: nn.Module
    average: nn.Module  # the moving average of the model's weights
    losses: nn.Module  # running statistics of the loss terms
    optimizers: Sequence[torch.optim.Optimizer]

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The modules, by their names in the file."""
        return {"model": self.model, "average": self.average, "losses": self.losses}


@dataclass(frozen=True)
class Progress:
    """The progress of the training in a checkpoint."""

    step: int = 0  # number of steps done
    begin: int = 0  # the step at which warm-up began: 0, or the end of a finished training that was continued
    skipped: int = 0  # steps that were skipped because their loss or gradient was not finite
    in_a_row: int = 0  # how many of these were the last ones before `step`
    loss_scale: float = 2.0**16  # the factor of the loss in float16 (`LossScale`)
    steps_at_scale: int = 0  # finite steps in a row since it last changed
    changes: tuple[Mapping[str, Any], ...] = ()  # changed settings, as {"step": ..., NAME: [old, new]}


_METADATA = {*(field.name for field in fields(Progress)), "steps", "config"}


def save_checkpoint(
    path: Path, state: TrainingState, progress: Progress, *, steps: int, recipe: Mapping[str, Any]
) -> None:
    """Write `state` and `progress` of a training of `steps` steps; `recipe` (JSON-ready) is all that it depends on."""
    parts = {name: module.state_dict() for name, module in state.modules.items()}
    parts |= {f"optimizer{i}": _flatten(optimizer) for i, optimizer in enumerate(state.optimizers)}
    tensors = {f"{part}.{name}": t for part, values in parts.items() for name, t in values.items()}
    save_tensors(path, tensors, {**asdict(progress), "steps": steps, "config": recipe})


def load_checkpoint(path: Path, state: TrainingState, *, steps: int, recipe: Mapping[str, Any]) -> Progress:
    """Load what `save_checkpoint` wrote into `state`; returns the training's progress.

    Settings of `MAY_CHANGE` may differ from the checkpoint's; `Progress.changes` then lists them. If the training was
    finished and now has more `steps`, warm-up begins again at its end. A `UserError` if the file is damaged, another
    setting differs, or the checkpoint is beyond `steps`.
    """
    saved = load_metadata(path)
    progress = _progress(path, saved)
    different = differences(saved["config"], recipe)
    if fixed := {name: values for name, values in different.items() if not _may_change(name, values)}:
        raise UserError(
            f"{path} was trained with other settings or data ({described(fixed)}): delete it to start again, restore"
            " those settings, or use another --name"
        )
    if progress.step > steps:
        raise UserError(f"{path} is at step {progress.step}, beyond the {steps} steps of the training: set more steps")

    expected = {
        f"{part}.{name}": t for part, module in state.modules.items() for name, t in module.state_dict().items()
    }
    moments = [_moments(optimizer) for optimizer in state.optimizers]
    optional = {
        f"optimizer{i}.{name}": t for i, listed in enumerate(moments) for names in listed for name, t in names.items()
    }
    tensors, _ = load_tensors(path, expected | optional, optional)

    def part(name: str) -> dict[str, Tensor]:
        return {key[len(name) + 1 :]: t for key, t in tensors.items() if key.startswith(f"{name}.")}

    for i, listed in enumerate(moments):
        _check_moments(path, listed, part(f"optimizer{i}"), progress.step)
    for name, module in state.modules.items():
        module.load_state_dict(part(name))
    for i, optimizer in enumerate(state.optimizers):
        _unflatten(optimizer, part(f"optimizer{i}"))
    if different:
        change = {"step": progress.step, **{name: list(values) for name, values in different.items()}}
        progress = replace(progress, changes=(*progress.changes, change))
    if progress.step == saved["steps"] < steps:
        progress = replace(progress, begin=progress.step)
    return progress


def steps_done(path: Path) -> int:
    """The number of steps done in the checkpoint at `path`; 0 if there is no file."""
    return _progress(path, load_metadata(path)).step if path.exists() else 0


def _progress(path: Path, saved: Mapping[str, Any]) -> Progress:
    """The progress in a checkpoint's metadata; a `UserError` if `save_checkpoint` did not write them."""
    names = ("in_a_row", "skipped", "step", "steps", "begin", "steps_at_scale")
    counts: list[Any] = [saved.get(name) for name in names]
    scale: Any = saved.get("loss_scale")
    changes, recipe = saved.get("changes"), saved.get("config")
    valid = saved.keys() == _METADATA and all(type(count) is int and 0 <= count < 2**53 for count in counts)
    valid = valid and isinstance(scale, float) and 1 <= scale < math.inf
    if not (valid and isinstance(changes, list) and isinstance(recipe, Mapping)):
        raise UserError(f"{path} is not a checkpoint of this version: {_REMEDY}")
    in_a_row, skipped, step, steps, begin, steps_at_scale = counts
    in_order = in_a_row <= skipped <= step <= steps and begin <= step and steps_at_scale <= step
    if not (in_order and all(_is_change(change, step) for change in changes)):
        raise UserError(f"{path} holds numbers of steps that no training has: {_REMEDY}")
    return Progress(step, begin, skipped, in_a_row, scale, steps_at_scale, tuple(changes))


def _is_change(change: Any, step: int) -> bool:
    """Whether `change` can be one of `Progress.changes` of a training that has done `step` steps."""
    if not isinstance(change, Mapping) or type(change.get("step")) is not int or not 0 <= change["step"] <= step:
        return False
    return all(isinstance(values, list) and len(values) == 2 for name, values in change.items() if name != "step")


def _may_change(name: str, values: tuple[Any, Any]) -> bool:
    """Whether a training may resume with another value of this setting."""
    if name == "training.muon_lr":
        return all(values)  # 0 selects another optimiser, whose state is not in the checkpoint
    return name in MAY_CHANGE


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


def _moments(optimizer: torch.optim.Optimizer) -> list[dict[str, Tensor]]:
    """For each parameter, tensors with the names, shapes and dtypes of those that `_flatten` gives.

    An optimiser has those of a parameter from its first gradient on.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments, counts_steps = _MOMENTS[type(optimizer).__name__]
    found = []
    for i, parameter in enumerate(parameters):
        step = {f"{i}.step": torch.zeros(())} if counts_steps else {}
        found.append({f"{i}.{name}": parameter for name in moments} | step)
    return found


def _check_moments(
    path: Path, moments: Sequence[Mapping[str, Tensor]], tensors: Mapping[str, Tensor], step: int
) -> None:
    """A `UserError` if an optimiser after `step` steps cannot have these `tensors`; shapes and dtypes are checked."""
    for names in moments:
        missing = sorted(names.keys() - tensors.keys())
        if 0 < len(missing) < len(names):
            raise UserError(f"{path} lacks the optimiser's {missing[0]}: {_REMEDY}")
    for name, value in tensors.items():
        if name.endswith(".step") and not (float(value).is_integer() and 0 <= value <= step):
            raise UserError(
                f"{path}: the optimiser's {name} is {float(value):g}, not a whole number up to {step}: {_REMEDY}"
            )
        if name.endswith(".exp_avg_sq") and value.lt(0).any():
            raise UserError(f"{path}: the optimiser's {name} holds negative numbers: {_REMEDY}")
