"""The interface of `minerl.data` in MineRL 0.4.4, for its recordings, without the package: same names, keys and shapes.

Legend: B sequences, T steps. An item is `(obs, action, reward, next_obs, done)`; `obs` and `action` are dictionaries,
that of `obs` nested: `obs["pov"]` uint8 `[..., 64, 64, 3]`, `obs["inventory"]["log"]`,
`obs["equipped_items"]["mainhand"]["type"]`.

What differs from the package, on purpose: `seed` is honoured; a sequence never runs from one episode into the next; no
step is dropped; videos are decoded by threads, so that no process can be left behind; `skip_interval` works.
"""

import os
import warnings
from collections import OrderedDict, deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embody.data.video import OpenVideos, Video, identity, index_video
from embody.errors import UserError
from embody.games.minecraft.actions import minerl_space
from embody.games.minecraft.minerl.trajectory import CORRUPTED, POV, Trajectory, find_trajectories, read_trajectory

__all__ = ["BufferedBatchIter", "DataPipeline", "make"]

Item = tuple[Any, Any, Any, Any, Any]


def make(
    environment: str,
    data_dir: str | Path | None = None,
    num_workers: int = 4,
    worker_batch_size: int = 32,
    minimum_size_to_dequeue: int = 32,
    force_download: bool = False,
) -> "DataPipeline":
    """The recordings in `data_dir/environment`; `data_dir` is by default `$MINERL_DATA_ROOT`.

    `num_workers` threads decode. `worker_batch_size` and `minimum_size_to_dequeue` are taken and, as in the package,
    not used. Nothing is downloaded: `force_download` is a `UserError` that says from where to.
    """
    del worker_batch_size, minimum_size_to_dequeue
    if force_download:
        raise UserError("recordings are not downloaded: fetch them from https://zenodo.org/records/12659939")
    if data_dir is None and (data_dir := os.environ.get("MINERL_DATA_ROOT")) is None:
        raise UserError("no data_dir given and $MINERL_DATA_ROOT is not set")
    if not Path(data_dir).is_dir():
        raise FileNotFoundError(f"data_dir {data_dir} is not there")
    return DataPipeline(Path(data_dir) / environment, environment, num_workers)


class DataPipeline:
    """The trajectories of one environment; made by `make`."""

    def __init__(self, data_directory: str | Path, environment: str, num_workers: int) -> None:
        minerl_space(environment)
        self.data_dir, self.environment, self.number_of_workers = str(data_directory), environment, max(1, num_workers)
        folders = find_trajectories(Path(data_directory).parent, environment)
        self._folders = {
            folder.name: folder for folder in folders if not any(name in folder.name for name in CORRUPTED)
        }

    def get_trajectory_names(self) -> list[str]:
        """Names of the trajectories, sorted."""
        return list(self._folders)

    def load_data(
        self,
        stream_name: str,
        skip_interval: int = 0,
        include_metadata: bool = False,
        include_monitor_data: bool = False,
    ) -> Iterator[list[Any]]:
        """The steps of a trajectory (a name of `get_trajectory_names`, or a folder), in order.

        Yields `[obs, action, reward, next_obs, done]`, then, if asked for, the monitor's dictionary and the metadata.
        `skip_interval` steps are left out after each. A `UserError` says what is broken where.
        """
        folder = Path(stream_name) if "/" in stream_name else self._folders.get(stream_name)
        if folder is None:
            raise UserError(f"no trajectory {stream_name!r} in {self.data_dir}")
        steps = _load(folder, self.environment)
        for t in range(0, len(steps.reward), skip_interval + 1):
            item = list(steps.slice(t))
            if include_monitor_data:
                item.append(_pick(steps.monitor, t + 1))
            yield [*item, steps.metadata] if include_metadata else item

    def batch_iter(
        self,
        batch_size: int,
        seq_len: int,
        num_epochs: int = -1,
        preload_buffer_size: int = 2,
        seed: int | None = None,
    ) -> Iterator[Item]:
        """Batches of sequences: arrays `[B, T, ...]`, B at most `batch_size`, T `seq_len`.

        Each row follows one trajectory from its beginning to its end, then begins another. The last sequence of a
        trajectory moves back so that it is as long as the others: it repeats steps instead of losing some. At the end
        of an epoch rows run out, and batches get smaller. Trajectories shorter than `seq_len` are left out, with a
        warning. The order depends on `seed` and the epoch alone; `preload_buffer_size` trajectories are decoded ahead.
        -1 epochs are endless.
        """
        _check_sizes(batch_size=batch_size, seq_len=seq_len)
        return self._epochs(batch_size, seq_len, num_epochs, preload_buffer_size, seed)

    def _epochs(
        self, batch_size: int, seq_len: int, num_epochs: int, preload_buffer_size: int, seed: int | None
    ) -> Iterator[Item]:
        epoch = 0
        random = np.random.default_rng(seed)
        with ThreadPoolExecutor(self.number_of_workers, thread_name_prefix="minerl") as threads:
            while num_epochs < 0 or epoch < num_epochs:
                folders = [list(self._folders.values())[i] for i in random.permutation(len(self._folders))]
                loaded = _ahead(threads, folders, self.environment, max(1, preload_buffer_size))
                if not (yield from _batches(loaded, batch_size, seq_len)):
                    raise UserError(f"{self.data_dir}: no trajectory has {seq_len} steps")
                epoch += 1


class BufferedBatchIter:
    """Batches of single steps, from a buffer of `buffer_target_size` of them in random order."""

    def __init__(self, data_pipeline: DataPipeline, buffer_target_size: int = 50000, seed: int | None = None) -> None:
        self.data_pipeline, self.buffer_target_size = data_pipeline, buffer_target_size
        self._random = np.random.default_rng(seed)

    def buffered_batch_iter(
        self, batch_size: int, num_epochs: int | None = None, num_batches: int | None = None
    ) -> Iterator[Item]:
        """`(obs, action, reward, next_obs, done)` of `[B, ...]`: every step once an epoch, the last batch smaller."""
        if (num_epochs is None) == (num_batches is None):
            raise UserError("give one of num_epochs and num_batches")
        _check_sizes(batch_size=batch_size)
        return self._batches(batch_size, num_epochs, num_batches)

    def _batches(self, batch_size: int, num_epochs: int | None, num_batches: int | None) -> Iterator[Item]:
        epochs = batches = 0
        while epochs != num_epochs:
            for items in self._epoch(batch_size):
                if batches == num_batches:
                    return
                batches += 1
                yield _stack(items)
            epochs += 1

    def _epoch(self, batch_size: int) -> Iterator[list[Item]]:
        names = self.data_pipeline.get_trajectory_names()
        waiting = [names[i] for i in self._random.permutation(len(names))]
        buffer: list[Item] = []
        while waiting or buffer:
            while waiting and len(buffer) < max(self.buffer_target_size, batch_size):
                buffer += [tuple(item) for item in self.data_pipeline.load_data(waiting.pop())]
            batch = []
            for _ in range(min(batch_size, len(buffer))):
                drawn = int(self._random.integers(len(buffer)))
                buffer[drawn], buffer[-1] = buffer[-1], buffer[drawn]
                batch.append(buffer.pop())
            yield batch


# --- one trajectory in memory ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Steps:
    """T steps; `obs` holds T + 1."""

    obs: OrderedDict[str, Any]
    action: OrderedDict[str, Any]
    reward: NDArray[np.float32]
    monitor: OrderedDict[str, Any]
    metadata: Mapping[str, Any]

    def slice(self, at: "int | slice") -> Item:
        after = slice(at.start + 1, at.stop + 1) if isinstance(at, slice) else at + 1
        done = np.zeros(len(self.reward), bool)
        done[-1] = True
        return _pick(self.obs, at), _pick(self.action, at), self.reward[at], _pick(self.obs, after), done[at]


def _load(folder: Path, environment: str) -> _Steps:
    trajectory = read_trajectory(folder, environment)
    return _Steps(
        obs=_nested({**trajectory.observations, "pov": _pov(trajectory)}),
        action=_nested(trajectory.actions),
        reward=trajectory.rewards,
        monitor=_nested(trajectory.monitor),
        metadata=trajectory.metadata,
    )


def _pov(trajectory: Trajectory) -> NDArray[np.uint8]:
    """`[T + 1, 64, 64, 3]`; as in the package, the one before the last stands for the last."""
    path = trajectory.video
    shown = Video(path, trajectory.first_frame, len(trajectory.rewards))
    frames = OpenVideos().read(shown, index_video(path), identity(path), *POV)
    return np.concatenate([frames, frames[-1:]])


def _nested(flat: Mapping[str, NDArray]) -> OrderedDict[str, Any]:
    """`{"inventory$log": x}` as `{"inventory": {"log": x}}`, sorted."""
    tree: OrderedDict[str, Any] = OrderedDict()
    for key in sorted(flat):
        *parents, leaf = key.split("$")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, OrderedDict())
        branch[leaf] = flat[key]
    return tree


def _pick(tree: Any, at: "int | slice") -> Any:
    if isinstance(tree, Mapping):
        return OrderedDict((key, _pick(branch, at)) for key, branch in tree.items())
    return tree[at]


def _stack(items: Sequence[Any]) -> Any:
    first = items[0]
    if isinstance(first, Mapping):
        return OrderedDict((key, _stack([item[key] for item in items])) for key in first)
    if isinstance(first, tuple):
        return tuple(_stack(column) for column in zip(*items, strict=True))
    return np.stack(items)


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"{name} must be at least 1, got {size}")


# --- batches --------------------------------------------------------------------------------------------------------


def _ahead(threads: ThreadPoolExecutor, folders: Sequence[Path], environment: str, most: int) -> Iterator[_Steps]:
    """The trajectories in order, `most` of them loading or loaded while one is used."""
    waiting: deque[Future[_Steps]] = deque()
    try:
        for folder in folders:
            waiting.append(threads.submit(_load, folder, environment))
            if len(waiting) > most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _batches(loaded: Iterator[_Steps], batch_size: int, seq_len: int) -> Generator[Item, None, int]:
    """Of one epoch; returns how many there were."""
    rows, batches = [_sequences(loaded, seq_len) for _ in range(batch_size)], 0
    while batch := [item for row in rows if (item := next(row, None)) is not None]:
        yield _stack(batch)
        batches += 1
    return batches


def _sequences(loaded: Iterator[_Steps], seq_len: int) -> Iterator[Item]:
    for steps in loaded:
        length = len(steps.reward)
        if length < seq_len:
            warnings.warn(
                f"{steps.metadata['stream_name']}: {length} steps, fewer than {seq_len}: left out", stacklevel=2
            )
        for start in range(0, length, seq_len) if length >= seq_len else ():
            first = min(start, length - seq_len)
            yield steps.slice(slice(first, first + seq_len))
