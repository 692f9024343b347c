"""Tensors and JSON in one safetensors file, written atomically; nothing is unpickled."""

import contextlib
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from embody.errors import UserError
from embody.saving.atomic_write import atomic_write
from embody.saving.json_files import MOST_BYTES, open_regular, parse_json

__all__ = ["load_metadata", "load_tensors", "save_tensors", "tensor_names", "tensors_hash"]

_REMEDY = "it was trained with another config; use that config, or another --name"
_SHOWN = 100  # characters of a name from a file that an error message shows

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write `tensors` and JSON-ready `metadata` to `path`, atomically; a `WriteError` if that is not possible.

    The format is that of safetensors. Its own `save_file` copies all tensors, writes to a private temporary file, which
    a killed process leaves behind, and takes away the group's right to read.
    """
    # Larger elements come first, so that each tensor is aligned.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, Any] = {"__metadata__": {"about": json.dumps(metadata, sort_keys=True)}}
    end = 0
    for name, t in ordered:
        begin, end = end, end + t.numel() * t.element_size()
        header[name] = {"dtype": _DTYPES[t.dtype], "shape": list(t.shape), "data_offsets": [begin, end]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with atomic_write(path, 8 + len(head) + end) as temporary, temporary.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for _, t in ordered:
            file.write(_bytes(t).data)


def load_tensors(
    path: Path,
    expected: Mapping[str, Tensor] | None = None,
    optional: Collection[str] = (),
    *,
    ignore_others: bool = False,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and metadata that `save_tensors` wrote; a `UserError` if the file is missing or damaged.

    With `expected`, which may be on the meta device, the file must hold tensors of these names, shapes and dtypes (it
    may lack those of the names in `optional`) and no others, unless they are ignored. Names and shapes are compared
    before a tensor is read. All numbers must be finite.
    """
    with _opened(path) as file:
        names = set(file.keys())
        if expected is not None:
            names = names & expected.keys() if ignore_others else names
            _check_names_and_shapes(path, file, names, expected, optional)
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in sorted(names)}
        metadata = _metadata(path, file)
    for name, wanted in (expected or {}).items():
        if name in tensors and tensors[name].dtype != wanted.dtype:
            raise UserError(f"{path}: {name} has {tensors[name].dtype}, the config asks for {wanted.dtype}: {_REMEDY}")
        if name in tensors and not tensors[name].isfinite().all():
            raise UserError(f"{path}: {name} holds NaN or infinity: train it again")
    return tensors, metadata


def _check_names_and_shapes(
    path: Path, file: Any, names: Collection[str], expected: Mapping[str, Tensor], optional: Collection[str]
) -> None:
    """A `UserError` names the first tensor of `file` that is unknown, misshapen or missing. The file has `names`."""
    for name in sorted({*expected, *names}):
        if name not in expected:
            raise UserError(f"{path} has an unknown tensor {name[:_SHOWN]!r}: {_REMEDY}")
        if name in names:
            shape, wanted = list(file.get_slice(name).get_shape()), list(expected[name].shape)
            if shape != wanted:
                raise UserError(f"{path}: {name} has shape {shape}, the config asks for {wanted}: {_REMEDY}")
        elif name not in optional:
            raise UserError(f"{path} lacks {name}: {_REMEDY}")


def load_metadata(path: Path) -> dict[str, Any]:
    """The metadata that `save_tensors` wrote, without reading the tensors; errors as `load_tensors`."""
    with _opened(path) as file:
        return _metadata(path, file)


def tensor_names(path: Path) -> list[str]:
    """The names of the tensors in a file that `save_tensors` wrote; errors as `load_tensors`."""
    with _opened(path) as file:
        return list(file.keys())


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.exists():
        raise UserError(f"no weights at {path}: run `embody train {path.stem}` first, or use another --name")
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file of weights in it, such as {path / 'tokenizer.safetensors'}")
    try:
        with open_regular(path) as bare:
            if int.from_bytes(bare.read(8), "little") > MOST_BYTES:
                raise ValueError(f"its header has more than {MOST_BYTES // 2**20} MiB")
        opened = safe_open(str(path), framework="pt")
    except (SafetensorError, ValueError) as error:
        raise _damaged(path, error) from error
    with opened as file:
        yield file


def _metadata(path: Path, file: Any) -> dict[str, Any]:
    try:
        values = parse_json((file.metadata() or {}).get("about", "{}"))
    except ValueError as error:
        raise _damaged(path, error) from error
    return values if isinstance(values, dict) else {}


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is damaged ({error}): delete it and run `embody train {path.stem}` again")


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """Twelve hex digits, a hash of all names and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + _bytes(tensors[name]).tobytes())
    return digest.hexdigest()[:12]


def _bytes(t: Tensor) -> NDArray[np.uint8]:
    return t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
