"""The latents of a dataset on disk: flat float16 shards in the order of the dataset's steps, memory-mapped."""

import itertools
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embody.data.dataset import Dataset, Shard
from embody.errors import UserError
from embody.saving.atomic_write import atomic_write, write_json, writing
from embody.saving.json_files import read_object

__all__ = ["LatentWriter", "Latents", "open_latents"]


def _folder(dataset: Dataset, tokenizer_hash: str) -> Path:
    return dataset.root / "latents" / tokenizer_hash


def _read_shape(dataset: Dataset, folder: Path) -> tuple[int, int]:
    """Tokens and channels of a frame; a `UserError` if the latents were encoded from other episodes."""
    values = read_object(folder / "meta.json", "delete the folder and run `embody encode`")
    try:
        fingerprint, shape = values["fingerprint"], (int(values["tokens"]), int(values["channels"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"latents {folder}: meta.json is damaged: delete the folder and run `embody encode`") from error
    if fingerprint != dataset.fingerprint:
        raise UserError(f"latents {folder} were encoded from other episodes: delete the folder and run `embody encode`")
    return shape


class LatentWriter:
    """Writes the latents of one tokenizer shard by shard. After a kill, a new writer continues with `pending`.

    A `UserError` if the folder holds latents of another shape, or encoded from other episodes.
    """

    def __init__(self, dataset: Dataset, tokenizer_hash: str, tokens: int, channels: int) -> None:
        self.dataset, self.folder, self.shape = dataset, _folder(dataset, tokenizer_hash), (tokens, channels)
        path = self.folder / "meta.json"
        if not path.exists():
            values = {"fingerprint": dataset.fingerprint, "tokens": tokens, "channels": channels}
            write_json(path, values)
        elif (found := _read_shape(dataset, self.folder)) != self.shape:
            raise UserError(
                f"latents {self.folder} are {found[0]}x{found[1]} a frame, not {tokens}x{channels}: delete the folder"
            )

    def pending(self) -> list[Shard]:
        """The shards that are not written yet, in order."""
        return [shard for shard in self.dataset.shards if not (self.folder / f"{shard.name}.npy").exists()]

    @contextmanager
    def filling(self, shard: Shard) -> Iterator[NDArray[np.float16]]:
        """Yield the array of a shard to fill, float16 `[shard.stop - shard.start, L, Z]`, in the order of its steps.

        The array is memory-mapped, so it may be larger than memory. If the block raises, nothing is written. A
        `WriteError` before the block if the disk has not enough space.
        """
        shape, target = (shard.stop - shard.start, *self.shape), self.folder / f"{shard.name}.npy"
        size = math.prod(shape) * np.dtype(np.float16).itemsize
        with atomic_write(target, size) as path:
            with writing(target, size):
                array = np.lib.format.open_memmap(path, "w+", np.float16, shape)
                _allocate(path)
            yield array
            array.flush()


def _allocate(path: Path) -> None:
    """Reserve the disk space of a file: on a disk that fills up, writing to its memory map would kill the process."""
    if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)


class Latents:
    """The complete latents of a dataset; made by `open_latents`. They can be sent to other processes."""

    def __init__(self, dataset: Dataset, tokenizer_hash: str) -> None:
        self.dataset, self.tokenizer_hash = dataset, tokenizer_hash
        folder = _folder(dataset, tokenizer_hash)
        if not (folder / "meta.json").exists():
            raise UserError(f"no latents of tokenizer {tokenizer_hash} in {dataset.root}: run `embody encode` first")
        self.tokens, self.channels = _read_shape(dataset, folder)
        maps = [self._open(folder, shard) for shard in dataset.shards]
        # For each episode: the latents of its shard, and its first and last (exclusive) row in them.
        self._bounds: list[tuple[NDArray[np.float16], int, int]] = []
        for latents, shard in zip(maps, dataset.shards, strict=True):
            stops = dataset.offsets[(dataset.offsets >= shard.start) & (dataset.offsets <= shard.stop)] - shard.start
            self._bounds += [(latents, begin, end) for begin, end in itertools.pairwise(stops.tolist())]

    def __reduce__(self) -> tuple[object, ...]:
        return open_latents, (self.dataset, self.tokenizer_hash)

    def _open(self, folder: Path, shard: Shard) -> NDArray[np.float16]:
        path = folder / f"{shard.name}.npy"
        if not path.exists():
            raise UserError(f"latents {folder} are incomplete: run `embody encode` again, which resumes")
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise UserError(f"latents {path} are damaged: delete the file and run `embody encode`") from error
        if array.shape != (shard.stop - shard.start, self.tokens, self.channels) or array.dtype != np.float16:
            raise UserError(f"latents {path} have a wrong shape or dtype: delete the file and run `embody encode`")
        return array.view(np.ndarray)  # slices of a memmap object are slow; those of a plain array are not

    def slice(self, episode_id: int, start: int, stop: int) -> NDArray[np.float16]:
        """Latents of timesteps `start` to `stop` of an episode, float16 `[n, L, Z]`, a view of the file."""
        latents, begin, end = self._bounds[episode_id]
        assert 0 <= start < stop <= end - begin, f"timesteps {start}:{stop} of episode {episode_id} of {end - begin}"
        return latents[begin + start : begin + stop]


def open_latents(dataset: Dataset, tokenizer_hash: str) -> Latents:
    """The latents of the tokenizer with this hash; a `UserError` if they are missing, incomplete or outdated."""
    return Latents(dataset, tokenizer_hash)
