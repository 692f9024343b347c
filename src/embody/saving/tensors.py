"""Tensors and JSON in one safetensors file, written atomically; nothing is unpickled."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from embody.errors import UserError
from embody.saving.atomic_write import atomic_write

__all__ = ["load_metadata", "load_tensors", "load_weights", "save_tensors", "tensors_hash"]


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write `tensors` and JSON-ready `metadata` to `path`. If the process is killed, the old file stays intact."""
    contiguous = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    with atomic_write(path) as temporary:
        try:
            save_file(contiguous, str(temporary), metadata={"about": json.dumps(metadata, sort_keys=True)})
        except SafetensorError as error:  # the number of the system's error is only in its text
            if found := re.search(r"os error (\d+)", str(error)):
                number = int(found[1])
                raise OSError(number, os.strerror(number), str(path)) from error
            raise


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and metadata that `save_tensors` wrote; a `UserError` if the file is missing or damaged."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _metadata(file)  # noqa: SIM118 (not a mapping)


def load_metadata(path: Path) -> dict[str, Any]:
    """The metadata that `save_tensors` wrote, without reading the tensors; errors as `load_tensors`."""
    with _opened(path) as file:
        return _metadata(file)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.exists():
        raise UserError(f"no weights at {path}: run `embody train {path.stem}` first, or use another --name")
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except (SafetensorError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}): delete it and run `embody train {path.stem}` again") from error


def _metadata(file: Any) -> dict[str, Any]:
    return json.loads((file.metadata() or {}).get("about", "{}"))


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Load all of `module`'s state. A `UserError` names the first tensor that is missing, unknown or misshapen."""
    own = module.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        if name not in tensors:
            raise UserError(
                f"{where} lacks {name}: it was trained with another config; use that config, or another --name"
            )
        if name not in own:
            raise UserError(
                f"{where} has an unknown tensor {name}: it was trained with another config; use that config, or"
                " another --name"
            )
        if own[name].shape != tensors[name].shape:
            raise UserError(
                f"{where}: {name} has shape {list(tensors[name].shape)}, the config asks for {list(own[name].shape)}:"
                " use the config it was trained with, or another --name"
            )
    module.load_state_dict(dict(tensors))


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """Twelve hex digits, a hash of all names and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()[:12]
