"""The on-disk dataset: one folder, written shard by shard, readable once it is whole (see docs/data.md).

Shapes: N steps of all episodes one after the other, A action factors, H W pixels.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embody.config import ActionSpec, from_dict
from embody.data.episodes import Episode, EpisodeRow

__all__ = ["Dataset", "DatasetWriter", "Meta", "Shard", "aside", "is_complete", "open_dataset", "write_json"]

FORMAT_VERSION = 1
PADDING, UNKNOWN = "<pad>", "<unknown>"
# Measured on 48x48 MiniGrid frames, one core: 33 times smaller than raw; 5,600, 3,800 and 2,300 random clips/s of 8, 16
# and 32 frames. Level 9 reads as fast and is 2.5 times smaller, but writes 4 times slower; longer chunks read slower.
CHUNK_FRAMES = 8
GZIP_LEVEL = 4

EPISODE_SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("shard", pa.int32()),
        ("length", pa.int32()),
        ("task", pa.string()),
        ("label", pa.string()),
        ("source", pa.string()),
        ("noise", pa.float64()),
        ("seed", pa.int64()),
        ("success", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class Meta:
    """What holds for every episode of a dataset."""

    tasks: tuple[str, ...]
    actions: ActionSpec
    height: int  # pixels
    width: int
    fps: int  # of the recording, in frames a second
    vocabulary: tuple[str, ...]  # words of the labels; index 0 "<pad>", 1 "<unknown>"

    def __post_init__(self) -> None:
        if self.vocabulary[:2] != (PADDING, UNKNOWN) or len(set(self.vocabulary)) != len(self.vocabulary):
            raise ValueError(f"dataset vocabulary must begin with {PADDING!r}, {UNKNOWN!r} and hold each word once")
        if not self.tasks or min(self.height, self.width, self.fps) < 1:
            raise ValueError("dataset meta: at least one task, and height, width and fps of 1 or more")


@dataclass(frozen=True)
class Shard:
    """Consecutive episodes of one split; its steps are rows `start` to `stop` of the dataset's flat arrays."""

    split: str
    index: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.split}-{self.index:05d}"


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which becomes `path` when the block ends well: never half a file there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    """Write JSON-ready `values` aside, then rename."""
    with aside(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


# --- writing --------------------------------------------------------------------------------------------------------


class DatasetWriter:
    """Writes a dataset shard by shard; killed at any time, a new writer on the same folder goes on after the last one.

    A shard counts once `episodes.parquet`, rewritten last, lists it. One writer at a time. A `ValueError` if `root`
    holds something else: another meta, another format version, files that are no dataset.
    """

    def __init__(self, root: Path, meta: Meta) -> None:
        self.root, self.meta = Path(root), meta
        if (self.root / "meta.json").exists():
            found, _ = _read_meta(self.root)
            if found != meta:
                names = [f.name for f in dataclasses.fields(Meta) if getattr(found, f.name) != getattr(meta, f.name)]
                raise ValueError(
                    f"dataset {self.root}: its {', '.join(names)} differ from what is to be written;"
                    " choose another folder or delete this one"
                )
        else:
            if self.root.exists() and any(not entry.name.endswith(".tmp") for entry in self.root.iterdir()):
                raise ValueError(f"{self.root} holds files but no dataset: choose another folder")
            self._write_meta(None)
        table = self.root / "episodes.parquet"
        self._table = pq.read_table(table) if table.exists() else EPISODE_SCHEMA.empty_table()

    def _counts(self) -> dict[str, int]:
        """Shards of each split."""
        counts: dict[str, int] = {}
        for split, index in zip(self._table["split"].to_pylist(), self._table["shard"].to_pylist(), strict=True):
            counts[split] = max(counts.get(split, 0), index + 1)
        return counts

    def shards(self, split: str) -> int:
        """How many shards of `split` are whole on disk; the next to write has this index."""
        return self._counts().get(split, 0)

    def write_shard(self, split: str, index: int, episodes: Sequence[Episode]) -> None:
        """Add `episodes` as shard `index`, which must be `shards(split)`; all of it is there afterwards, or nothing.

        A `ValueError` if an episode does not fit the meta, or the dataset is finished.
        """
        if is_complete(self.root):
            raise ValueError(f"dataset {self.root} is finished: write to another folder or delete this one")
        if index != self.shards(split) or not episodes:
            raise ValueError(
                f"dataset {self.root}: shard {index} of {split} with {len(episodes)} episodes;"
                f" the next is {self.shards(split)}, with at least one"
            )
        for episode in episodes:
            self._check(episode)
        name = Shard(split, index, 0, 0).name
        frames = np.concatenate([episode.frames for episode in episodes])
        with aside(self.root / "frames" / f"{name}.h5") as path, h5py.File(path, "w") as file:
            chunks = (min(CHUNK_FRAMES, len(frames)), *frames.shape[1:])
            file.create_dataset("frames", data=frames, chunks=chunks, compression="gzip", compression_opts=GZIP_LEVEL)
        with aside(self.root / "steps" / f"{name}.parquet") as path:
            pq.write_table(_steps_table(episodes, len(self.meta.actions.sizes), frames), path, compression="zstd")
        rows = [_row(episode, split, index) for episode in episodes]
        table = pa.concat_tables([self._table, pa.Table.from_pylist(rows, schema=EPISODE_SCHEMA)])
        with aside(self.root / "episodes.parquet") as path:
            pq.write_table(table, path, compression="zstd")
        self._table = table

    def finish(self) -> None:
        """Mark the dataset complete: it can be opened from now on, and not added to."""
        if not self._table.num_rows:
            raise ValueError(f"dataset {self.root} holds no episode: write a shard before finishing it")
        self._write_meta(self._counts())

    def _write_meta(self, splits: dict[str, int] | None) -> None:
        values = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self.meta), "splits": splits}
        with aside(self.root / "meta.json") as path:
            path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

    def _check(self, episode: Episode) -> None:
        where = f"dataset {self.root}, episode with seed {episode.seed}"
        if episode.task not in self.meta.tasks:
            raise ValueError(f"{where}: task {episode.task!r} is none of {', '.join(self.meta.tasks)}")
        if episode.frames.shape[1:3] != (self.meta.height, self.meta.width):
            size = f"{self.meta.height}x{self.meta.width}"
            raise ValueError(f"{where}: frames {list(episode.frames.shape)}, the dataset's are {size}")
        sizes = np.array(self.meta.actions.sizes)
        actions = episode.actions
        if actions.shape[1] != len(sizes) or (actions < 0).any() or (actions >= sizes).any():
            raise ValueError(f"{where}: actions do not fit sizes {self.meta.actions.sizes}")


def _steps_table(episodes: Sequence[Episode], factors: int, frames: NDArray[np.uint8]) -> pa.Table:
    actions = np.concatenate([episode.actions for episode in episodes])
    columns = {
        "action": pa.FixedSizeListArray.from_arrays(pa.array(actions.reshape(-1)), factors),
        "reward": pa.array(np.concatenate([episode.rewards for episode in episodes])),
        "is_terminal": pa.array(np.concatenate([episode.is_terminal for episode in episodes])),
    }
    # So that a dataset's fingerprint needs no reading of its frames.
    return pa.table(columns).replace_schema_metadata({"frames_sha256": hashlib.sha256(frames.tobytes()).hexdigest()})


def _row(episode: Episode, split: str, shard: int) -> dict[str, Any]:
    own = {name: getattr(episode, name) for name in ("task", "label", "source", "noise", "seed", "success")}
    return {"split": split, "shard": shard, "length": len(episode.frames), **own}


# --- reading --------------------------------------------------------------------------------------------------------


def _read_meta(root: Path) -> tuple[Meta, dict[str, int] | None]:
    try:
        values = json.loads((root / "meta.json").read_text(encoding="utf-8"))
        version = values.pop("format_version")
        splits = values.pop("splits")
        if version == FORMAT_VERSION:
            return from_dict(Meta, values), splits
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"dataset {root}: meta.json is damaged ({error}); run `embody collect` anew") from error
    raise ValueError(
        f"dataset {root}: format version {version}, this embody reads {FORMAT_VERSION};"
        " run `embody collect` into another folder"
    )


def is_complete(root: Path | str) -> bool:
    """Whether `root` holds a finished dataset."""
    root = Path(root)
    return (root / "meta.json").exists() and _read_meta(root)[1] is not None


def open_dataset(root: Path | str) -> "Dataset":
    """The dataset in folder `root`; a `ValueError` of one line if it is missing, half-written or of another version."""
    root = Path(root)
    if not (root / "meta.json").exists():
        raise ValueError(f"no dataset in {root}: run `embody collect` first")
    if not is_complete(root):
        raise ValueError(f"dataset {root} is half-written: run `embody collect` again, it goes on where it stopped")
    return Dataset(root)


class Dataset:
    """A finished dataset: its table and steps in memory, its frames read on demand. Made by `open_dataset`.

    Episodes have ids 0, 1, ... in the order they were written; the steps of episode i are rows `offsets[i]` to
    `offsets[i + 1]` of the flat arrays. Can be sent to forked and spawned processes: each opens its own files.
    """

    actions: NDArray[np.int64]  # [N, A]
    rewards: NDArray[np.float32]  # [N]
    is_terminal: NDArray[np.bool_]  # [N]
    offsets: NDArray[np.int64]  # [episodes + 1]

    def __init__(self, root: Path) -> None:
        self.root = root
        self.meta, _ = _read_meta(root)
        try:
            self._read_steps()
        except (OSError, KeyError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"dataset {root} is damaged ({reason}): delete it and run `embody collect`") from error
        self._files: dict[Path, h5py.Dataset] = {}
        self._pid = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return open_dataset, (self.root,)

    def _read_steps(self) -> None:
        table = pq.read_table(self.root / "episodes.parquet", schema=EPISODE_SCHEMA)
        columns = {name: table[name].to_pylist() for name in EPISODE_SCHEMA.names}
        self.offsets = np.concatenate([[0], np.cumsum(columns["length"], dtype=np.int64)])
        keys = list(zip(columns["split"], columns["shard"], strict=True))
        self.shards: list[Shard] = []
        self._shard_of = np.zeros(len(keys), np.int64)
        for i, (split, index) in enumerate(keys):
            if i == 0 or keys[i - 1] != keys[i]:
                self.shards.append(Shard(split, index, int(self.offsets[i]), 0))
            self.shards[-1] = dataclasses.replace(self.shards[-1], stop=int(self.offsets[i + 1]))
            self._shard_of[i] = len(self.shards) - 1
        tables = [self._read_shard(shard) for shard in self.shards]
        self._digests = [table.schema.metadata[b"frames_sha256"].decode() for table in tables]
        steps = pa.concat_tables(table.replace_schema_metadata() for table in tables).combine_chunks()
        factors = len(self.meta.actions.sizes)
        self.actions = steps["action"].combine_chunks().flatten().to_numpy().reshape(-1, factors)
        self.rewards = steps["reward"].to_numpy()
        self.is_terminal = steps["is_terminal"].to_numpy()
        del columns["shard"]
        returns = np.add.reduceat(self.rewards.astype(np.float64), self.offsets[:-1]).tolist()
        self._rows = tuple(
            EpisodeRow(id=i, return_=total, **dict(zip(columns, values, strict=True)))
            for i, (total, *values) in enumerate(zip(returns, *columns.values(), strict=True))
        )

    def _read_shard(self, shard: Shard) -> pa.Table:
        path = self.root / "steps" / f"{shard.name}.parquet"
        table = pq.read_table(path)
        with h5py.File(self._frames_path(shard), "r") as file:
            shape = file["frames"].shape
        steps = shard.stop - shard.start
        if table.num_rows != steps or shape != (steps, self.meta.height, self.meta.width, 3):
            raise KeyError(f"shard {shard.name} has {table.num_rows} steps and frames {shape}, {steps} are listed")
        return table

    def _frames_path(self, shard: Shard) -> Path:
        return self.root / "frames" / f"{shard.name}.h5"

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(shard.split for shard in self.shards))

    def episodes(self, split: str | None = None) -> tuple[EpisodeRow, ...]:
        """The table's rows, of one split or of all; a `ValueError` if there is no such split."""
        if split is None:
            return self._rows
        if split not in self.splits:
            raise ValueError(f"dataset {self.root} has no split {split!r}, it has {', '.join(self.splits)}")
        return tuple(row for row in self._rows if row.split == split)

    def shard_of(self, episode_id: int) -> Shard:
        """The shard that holds an episode."""
        return self.shards[self._shard_of[episode_id]]

    def rows(self, episode_id: int, start: int, stop: int) -> slice:
        """Where slots `start` to `stop` of an episode stand in the flat arrays; they must lie in the episode."""
        begin, end = self.offsets[episode_id : episode_id + 2]
        assert 0 <= start < stop <= end - begin, f"slots {start}:{stop} of episode {episode_id} of {end - begin}"
        return slice(int(begin) + start, int(begin) + stop)

    def frames(self, episode_id: int, start: int, stop: int) -> NDArray[np.uint8]:
        """Frames `start` to `stop` of an episode, uint8 `[n, H, W, 3]`."""
        if self._pid != os.getpid():  # HDF5 handles do not survive a fork
            self._files, self._pid = {}, os.getpid()
        rows, shard = self.rows(episode_id, start, stop), self.shard_of(episode_id)
        path = self._frames_path(shard)
        if path not in self._files:
            self._files[path] = h5py.File(path, "r")["frames"]
        return self._files[path][rows.start - shard.start : rows.stop - shard.start]

    def episode(self, episode_id: int) -> Episode:
        """One episode, whole."""
        row = self._rows[episode_id]
        rows = self.rows(episode_id, 0, row.length)
        return Episode(
            frames=self.frames(episode_id, 0, row.length),
            actions=self.actions[rows],
            rewards=self.rewards[rows],
            is_terminal=self.is_terminal[rows],
            **{name: getattr(row, name) for name in ("task", "label", "source", "noise", "seed", "success")},
        )

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with the meta, any step, any frame or any row of the table."""
        content = hashlib.sha256(repr((self.meta, self._rows, self._digests)).encode())
        for array in (self.actions, self.rewards, self.is_terminal):
            content.update(np.ascontiguousarray(array).tobytes())
        return content.hexdigest()[:16]
