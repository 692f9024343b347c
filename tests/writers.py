"""Everything that embody writes, each as a function that writes a file into a folder, small or large."""

import types
from collections.abc import Callable, Mapping
from pathlib import Path

import av
import numpy as np
import torch

from embody.config import ActionSpec, Config
from embody.data import DatasetWriter, Episode, LatentWriter, Meta, Shard, Video, reencode
from embody.evaluation.results import write_results_page
from embody.logger_manager import LoggerManager
from embody.metrics.pictures import dream_gif, write_pairs
from embody.metrics.results_file import write_results
from embody.run.folder import write_config
from embody.saving.tensors import save_tensors

__all__ = ["LARGE", "SMALL", "WRITERS"]

SMALL, LARGE = 1, 40  # in units of about 10 kB
_UNIT = 10_000
_RANDOM = np.random.default_rng(0)


def _tensors(folder: Path, size: int) -> None:
    save_tensors(folder / "models" / "a.safetensors", {"a": torch.zeros(size * _UNIT, dtype=torch.uint8)}, {"size": 1})


def _dataset(folder: Path, size: int) -> None:
    frames = _RANDOM.integers(0, 256, (size, 58, 58, 3), np.uint8)
    zeros = np.zeros(size)
    episode = Episode(
        frames, zeros.astype(np.int64)[:, None], zeros.astype(np.float32), zeros > 0, "go", "go", "expert", 0.0, 0, True
    )
    writer = DatasetWriter(folder / "data", Meta(("go",), ActionSpec((2,)), 58, 58, 5, ("<pad>", "<unknown>", "go")))
    writer.write_shard("train", writer.shards("train"), [episode])


def _latents(folder: Path, size: int) -> None:
    dataset = types.SimpleNamespace(root=folder, fingerprint="0123")
    with LatentWriter(dataset, "abc", 50, 100).filling(Shard("train", size, 0, size)) as array:  # type: ignore[arg-type]
        array[:] = 1


def _results(folder: Path, size: int) -> None:
    write_results(folder / "results.json", {"values": [0] * (size * _UNIT // 7)})


def _results_page(folder: Path, size: int) -> None:
    write_results_page(folder / "results.md", {"command": "x" * size * _UNIT})


def _config(folder: Path, size: int) -> None:
    write_config(Config(runs_dir=str(folder), cache_dir="x" * size * _UNIT))


def _pairs(folder: Path, size: int) -> None:
    frames = _RANDOM.integers(0, 256, (size, 41, 41, 3), np.uint8)
    write_pairs(folder / "pairs.npz", frames, frames)


def _gif(folder: Path, size: int) -> None:
    frames = 4 * _RANDOM.integers(0, 64, (1, size, 64, 64, 1), np.uint8).repeat(3, -1)
    dream_gif(folder / "dream.gif", frames, frames, given=1, scale=1)


def _logger(folder: Path) -> LoggerManager:
    return LoggerManager(folder / "runs", folder / "logs", "x")


def _log(folder: Path, size: int) -> None:
    logger = _logger(folder)
    logger.log_path = folder / "logs" / "x.log"
    for _ in range(size * _UNIT // 100):
        logger.record("INFO", "x" * 100)
    logger.close()


def _metrics(folder: Path, size: int) -> None:
    logger = _logger(folder)
    for step in range(size * 10):
        logger.metrics("agent", step, {f"loss_{i}": 0.123456789123456789 for i in range(40)})
    logger.close()


def _event_file(folder: Path, size: int) -> None:
    logger = _logger(folder)
    logger.metrics_path = Path("/dev/null")
    for step in range(size * 10):
        logger.metrics("agent", step, {f"loss_{i}": 0.123456789123456789 for i in range(40)})
    logger.close()


def _video(folder: Path, size: int) -> None:
    source = folder.parent / "source.mp4"
    if not source.exists():
        make_video(source)
    reencode(Video(source, 0, 4 * size), folder / "videos" / "a.mp4")


def make_video(path: Path) -> None:
    """Noise, of as many frames as the large file needs."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(4 * LARGE):
            frame = av.VideoFrame.from_ndarray(_RANDOM.integers(0, 256, (48, 64, 3), np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


WRITERS: Mapping[str, Callable[[Path, int], None]] = {
    "tensors": _tensors,
    "dataset": _dataset,
    "latents": _latents,
    "results": _results,
    "results page": _results_page,
    "config": _config,
    "pairs": _pairs,
    "gif": _gif,
    "log": _log,
    "metrics": _metrics,
    "event file": _event_file,
    "video": _video,
}
