"""The interface of `minerl.data` in MineRL 0.4.4, without the package: same names, keys and shapes.

Shapes: B sequences, T steps. An item is `(obs, action, reward, next_obs, done)`. `action` is a dictionary, `obs` is
nested: `obs["pov"]` uint8 `[..., 64, 64, 3]`, `obs["inventory"]["log"]`, `obs["equipped_items"]["mainhand"]["type"]`.

These differences from the package are intended: `seed` determines the order; a sequence never crosses episodes; no step
is dropped; `skip_interval` works; and threads decode the videos, so no processes are left behind.
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

from embody.data.container import VideoIndex, identity, index_video
from embody.data.video import OpenVideos, Video
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

    `num_workers` is the number of threads that decode videos. `worker_batch_size` and `minimum_size_to_dequeue` are
    accepted and ignored, as in the package. Raises a `UserError` if there are no recordings, no `data_dir` is known, or
    `force_download` is set, since nothing is downloaded; a `FileNotFoundError` if `data_dir` does not exist.
    """
    del worker_batch_size, minimum_size_to_dequeue
    if force_download:
        raise UserError("embody does not download recordings: get them from https://zenodo.org/records/12659939")
    if data_dir is None and (data_dir := os.environ.get("MINERL_DATA_ROOT")) is None:
        raise UserError("no data_dir is given and $MINERL_DATA_ROOT is not set: give the folder of the recordings")
    if not Path(data_dir).is_dir():
        raise FileNotFoundError(f"data_dir {data_dir} does not exist")
    return DataPipeline(Path(data_dir) / environment, environment, num_workers)


class DataPipeline:
    """The trajectories of one environment; use `make` to create it."""

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
        """Yield the steps of a trajectory, in order; `stream_name` is one of `get_trajectory_names`, or a folder.

        A step is `[obs, action, reward, next_obs, done]`, followed by the monitor's dictionary and the metadata if they
        are included. After each step, `skip_interval` steps are skipped. Raises a `UserError` if the trajectory is
        unknown or damaged.
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
        """Yield batches of sequences: arrays `[B, T, ...]` with B at most `batch_size` and T equal to `seq_len`.

        Each row of consecutive batches follows one trajectory from its start to its end, then another one. The last
        sequence of a trajectory starts earlier if steps are short, so it repeats some steps and none is lost. At the
        end of an epoch there are fewer rows than `batch_size`. Trajectories shorter than `seq_len` are left out with a
        warning. `num_epochs` -1 never ends. The order is a function of `seed` and the epoch. `preload_buffer_size`
        trajectories are decoded in advance.
        """
        _check_sizes(batch_size=batch_size, seq_len=seq_len)
        return self._epochs(batch_size, seq_len, num_epochs, preload_buffer_size, seed)

    def _epochs(
        self, batch_size: int, seq_len: int, num_epochs: int, preload_buffer_size: int, seed: int | None
    ) -> Iterator[Item]:
        epoch = 0
        random = np.random.default_rng(seed)
        with ThreadPoolExecutor(self.number_of_workers, thread_name_prefix="minerl") as executor:
            while num_epochs < 0 or epoch < num_epochs:
                folders = [list(self._folders.values())[i] for i in random.permutation(len(self._folders))]
                loaded = _prefetched(executor, folders, self.environment, max(1, preload_buffer_size))
                if not (yield from _batches(loaded, batch_size, seq_len)):
                    raise UserError(f"{self.data_dir}: no trajectory has {seq_len} steps")
                epoch += 1


class BufferedBatchIter:
    """Batches of single steps, drawn at random from a buffer that holds about `buffer_target_size` steps."""

    def __init__(self, data_pipeline: DataPipeline, buffer_target_size: int = 50000, seed: int | None = None) -> None:
        self.data_pipeline, self.buffer_target_size = data_pipeline, buffer_target_size
        self._random = np.random.default_rng(seed)

    def buffered_batch_iter(
        self, batch_size: int, num_epochs: int | None = None, num_batches: int | None = None
    ) -> Iterator[Item]:
        """Yield `(obs, action, reward, next_obs, done)` of shape `[B, ...]`, each step once an epoch.

        B is `batch_size`, or less in the last batch of an epoch. Raises a `UserError` unless one of `num_epochs`
        and `num_batches` is given, but not both.
        """
        if (num_epochs is None) == (num_batches is None):
            raise UserError("give either num_epochs or num_batches")
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
    """The T steps of a trajectory; `obs` has T + 1 observations."""

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
    index = index_video(trajectory.video)
    length, changes = trajectory.shown(index.frames)
    if length < len(trajectory.rewards):
        warnings.warn(f"{folder.name}: {'; '.join(changes)}", stacklevel=2)
        trajectory = trajectory.cut(length)
    return _Steps(
        obs=_nested({**trajectory.observations, "pov": _pov(trajectory, index)}),
        action=_nested(trajectory.actions),
        reward=trajectory.rewards,
        monitor=_nested(trajectory.monitor),
        metadata=trajectory.metadata,
    )


def _pov(trajectory: Trajectory, index: VideoIndex) -> NDArray[np.uint8]:
    """The frames `[T + 1, 64, 64, 3]`; as in the package, the last frame is a copy of the one before it."""
    path = trajectory.video
    shown = Video(path, trajectory.first_frame, len(trajectory.rewards))
    frames = OpenVideos().read(shown, index, identity(path), *POV, "stretch")
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


def _prefetched(
    executor: ThreadPoolExecutor, folders: Sequence[Path], environment: str, count: int
) -> Iterator[_Steps]:
    """Yield the trajectories in order; the next `count` of them are loaded meanwhile."""
    waiting: deque[Future[_Steps]] = deque()
    try:
        for folder in folders:
            waiting.append(executor.submit(_load, folder, environment))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _batches(loaded: Iterator[_Steps], batch_size: int, seq_len: int) -> Generator[Item, None, int]:
    """Yield the batches of one epoch; returns their number."""
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
