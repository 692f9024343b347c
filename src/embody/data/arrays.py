"""Arrays that users give: converted where their meaning is clear, refused in one line where it is not.

An array may be a numpy array, a tensor, or nested lists. Each function takes `what`, the array's name in messages, and
raises a `UserError` that says which type, shape and range are wanted. The values of a tensor on a GPU are not read,
because the host would have to wait for them.

Shapes: N rows or timesteps, A action factors, H W pixels.
"""

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embody.errors import UserError, one_line

__all__ = [
    "actions_array",
    "actions_tensor",
    "as_path",
    "flag",
    "flags",
    "flags_tensor",
    "frames_array",
    "indices_tensor",
    "integers",
    "latents_tensor",
    "real_number",
    "real_numbers",
    "text",
    "texts",
    "whole_number",
]


def frames_array(
    value: object, what: str, *, axis: str = "N", rows: int | None = None, size: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Frames uint8 `[N, H, W, 3]`, N >= 1, from integers of 0 to 255. `axis` is the name of N in messages.

    N must be `rows` and (H, W) must be `size`, if they are given.
    """
    array = _numbers(value, what)
    pixels = "H, W" if size is None else f"{size[0]}, {size[1]}"
    wanted, shape = f"{what} must be uint8 [{axis}, {pixels}, 3]", list(array.shape)
    if array.ndim != 4 or shape[3] != 3:
        raise UserError(f"{wanted}, got {shape}{_advice(shape)}")
    if array.dtype.kind == "f":
        raise UserError(f"{wanted} from 0 to 255, got {array.dtype}: multiply frames of 0 to 1 by 255 and round them")
    if array.dtype.kind == "b" or (
        array.dtype != np.uint8 and array.size and not 0 <= array.min() <= array.max() <= 255
    ):
        raise UserError(f"{wanted} from 0 to 255, got {_extent(array)}")
    if not array.size:
        raise UserError(f"{wanted} with {axis} >= 1, got {shape}")
    if rows is not None and shape[0] != rows:
        raise UserError(f"{wanted} with {axis} = {rows}, got {shape}")
    if size is not None and tuple(shape[1:3]) != size:
        raise UserError(f"{wanted}, got {shape}: resize them")
    return np.require(array, np.uint8, ["C"])


def actions_array(value: object, what: str, sizes: Sequence[int], *leading: int) -> NDArray[np.int64]:
    """Actions int64 `[*leading, A]`, where factor a is from 0 to `sizes[a]` - 1; with one factor also `[*leading]`."""
    array = integers(value, what)
    if len(sizes) == 1 and array.shape == leading:
        array = array[..., None]
    if array.shape != (*leading, len(sizes)):
        raise UserError(f"{_actions_wanted(what, sizes, leading)}, got {list(array.shape)}")
    wrong = (array < 0) | (array >= np.array(sizes))
    if wrong.any():
        raise UserError(f"{_actions_wanted(what, sizes, leading)}, got {array[wrong][0]}")
    return array


def actions_tensor(value: object, what: str, sizes: Sequence[int], *leading: int, device: torch.device) -> Tensor:
    """As `actions_array`, a tensor on `device`. Of a tensor that is not on the CPU, only shape and type are checked."""
    if not isinstance(value, Tensor) or value.device.type == "cpu":
        return torch.tensor(actions_array(value, what, sizes, *leading), device=device)
    if value.shape != (*leading, len(sizes)) or value.dtype not in _INTEGERS:
        raise UserError(f"{_actions_wanted(what, sizes, leading)}, got {value.dtype} {list(value.shape)}")
    return value.to(device, torch.int64)


def flags_tensor(value: object, what: str, *shape: int, device: torch.device) -> Tensor:
    """As `flags`, of this shape, as a tensor on `device`. The values of a bool tensor are not read."""
    found = value if isinstance(value, Tensor) and value.dtype == torch.bool else torch.tensor(flags(value, what))
    if found.shape != shape:
        raise UserError(f"{what} must be bool {list(shape)}, got {list(found.shape)}")
    return found.to(device)


def latents_tensor(value: object, what: str, axes: str, numbers: int, *leading: int, device: torch.device) -> Tensor:
    """Latents `[*leading, *, *]` as a tensor on `device`; the last two axes hold `numbers` numbers a frame.

    `axes` are the names of the leading axes in messages; any size of at least 1 is right if `leading` is not given. Of
    a tensor, only shape and type are checked.
    """
    found = value if isinstance(value, Tensor) else torch.from_numpy(real_numbers(value, what))
    shape, wanted = tuple(found.shape), ", ".join(map(str, leading)) if leading else ", ".join(axes)
    fits = len(shape) == len(axes) + 2 and shape[: len(leading)] == leading and math.prod(shape[-2:]) == numbers
    if not fits or not all(shape) or not found.is_floating_point():
        raise UserError(
            f"{what} must be float [{wanted}, tokens, channels] with {numbers} numbers a frame, got"
            f" {str(found.dtype).removeprefix('torch.')} {list(shape)}"
        )
    return found.to(device)


def indices_tensor(value: object, what: str, count: int, *, device: torch.device) -> Tensor:
    """Indices int64 `[n]` from 0 to `count` - 1 as a tensor on `device`. Of a tensor on a GPU, values are not read."""
    if isinstance(value, Tensor) and value.device.type != "cpu" and value.dtype == torch.int64 and value.ndim == 1:
        return value.to(device)
    array = integers(value, what) if np.size(_numbers(value, what)) else np.zeros(0, np.int64)
    if array.ndim != 1 or ((array < 0) | (array >= count)).any():
        raise UserError(f"{what} must be a list of indices from 0 to {count - 1}, got {one_line(repr(value), 60)}")
    return torch.tensor(array, device=device)


def integers(value: object, what: str) -> NDArray[np.int64]:
    """Whole numbers of any integer type, as int64."""
    array = _numbers(value, what)
    if array.dtype.kind not in "iu":
        raise UserError(f"{what} must be integers, got {array.dtype}")
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise UserError(f"{what} must be below 2^63, got {array.max()}")
    return np.require(array, np.int64, ["C"])


def real_numbers(value: object, what: str) -> NDArray[np.float32]:
    """Finite numbers as float32."""
    array = _numbers(value, what)
    if array.dtype.kind == "b":
        raise UserError(f"{what} must be numbers, got {array.dtype}")
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused below
        found = np.require(array, np.float32, ["C"])
    if not np.isfinite(found).all():
        raise UserError(f"{what} must be finite, got {array[~np.isfinite(found)].flat[0]}")
    return found


def flags(value: object, what: str) -> NDArray[np.bool_]:
    """Booleans, or integers 0 and 1, as bool."""
    array = _numbers(value, what)
    if array.dtype.kind == "f" or (array.dtype.kind != "b" and array.size and not 0 <= array.min() <= array.max() <= 1):
        raise UserError(f"{what} must be true or false, got {_extent(array)}")
    return np.require(array, np.bool_, ["C"])


def text(value: object, what: str) -> str:
    """A string that can be stored."""
    if not isinstance(value, str):
        raise UserError(f"{what} must be text, got {one_line(repr(value), 60)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{what} must be text, got characters that are not in Unicode") from error
    return str(value)


def texts(value: object, what: str) -> tuple[str, ...]:
    """A list or another sequence of strings."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise UserError(f"{what} must be a list of texts, got {one_line(repr(value), 60)}")
    return tuple(text(item, what) for item in value)


def as_path(value: object, what: str) -> Path:
    """A path, given as a `Path` or as text that is not empty."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise UserError(f"{what} must be a path, got {one_line(repr(value), 60)}")
    return Path(os.fsdecode(value))


def flag(value: object, what: str) -> bool:
    """One boolean, or 0 or 1."""
    return bool(_scalar(flags(value, what), what))


def real_number(value: object, what: str) -> float:
    """One finite number."""
    found = float(_scalar(_numbers(value, what), what))
    if not math.isfinite(found):
        raise UserError(f"{what} must be finite, got {found}")
    return found


def whole_number(value: object, what: str, low: int = -(2**63), high: int = 2**63 - 1) -> int:
    """One integer from `low` to `high`."""
    found = int(_scalar(integers(value, what), what))
    if not low <= found <= high:
        limits = f"at least {low}" if high == 2**63 - 1 else f"from {low} to {high}"
        raise UserError(f"{what} must be {limits}, got {found}")
    return found


def _scalar(array: NDArray[Any], what: str) -> Any:
    if array.ndim:
        raise UserError(f"{what} must be one value, got {list(array.shape)}")
    return array.item()


_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def _numbers(value: object, what: str) -> NDArray[Any]:
    """`value` as a numpy array of booleans, integers or real numbers."""
    try:
        if isinstance(value, Tensor):
            value = value.detach().cpu()
            value = value.float() if value.is_floating_point() else value  # numpy has no bfloat16
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise UserError(f"{what} cannot be read as an array: lists must have equal lengths and hold numbers") from error
    if array.dtype.kind not in "biuf":
        got = one_line(repr(value), 60) if array.ndim == 0 else f"values of type {type(array.flat[0]).__name__}"
        raise UserError(f"{what} must be numbers, got {got}")
    return array


def _actions_wanted(what: str, sizes: Sequence[int], leading: Sequence[int]) -> str:
    limits = " and ".join(f"{size - 1}" for size in sizes[:6]) + (" and so on" if len(sizes) > 6 else "")
    of = f"factors up to {limits}" if len(sizes) > 1 else f"numbers from 0 to {limits}"
    return f"{what} must be int64 {[*leading, len(sizes)]} with {of}"


def _extent(array: NDArray[Any]) -> str:
    """The type and the range of `array`, for messages."""
    return f"{array.dtype}" if array.dtype.kind == "b" else f"{array.dtype} from {array.min()} to {array.max()}"


def _advice(shape: Sequence[int]) -> str:
    """How to bring frames of a common other `shape` into the right one."""
    if len(shape) == 3 and shape[2] == 3:
        return ": for one frame give frames[None]"
    if len(shape) == 4 and shape[1] == 3:
        return ": move the channels to the end, np.moveaxis(frames, 1, -1)"
    if len(shape) == 4 and shape[3] == 4:
        return ": leave out the alpha channel, frames[..., :3]"
    if len(shape) == 4 and shape[3] == 1:
        return ": repeat the gray channel, np.repeat(frames, 3, axis=-1)"
    if len(shape) == 3:
        return ": repeat gray frames as three channels, np.stack([frames] * 3, axis=-1)"
    return ""
