"""Writing a dataset shard by shard. Complete shards survive if the writer is killed (see docs/data.md)."""

import dataclasses
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embody.data.arrays import actions_array, as_path, text, whole_number
from embody.data.container import VideoIndex, identity, index_video
from embody.data.dataset import (
    EPISODE_SCHEMA,
    EXTENDED,
    PLAIN,
    ROW_FIELDS,
    SCHEMAS,
    Meta,
    Shard,
    is_complete,
    read_meta,
)
from embody.data.episode import EVERY_TASK, Episode
from embody.data.steps import optional_columns, steps_table
from embody.data.video import Video
from embody.data.video_files import reference
from embody.errors import UserError, one_line
from embody.saving.atomic_write import write_bytes, write_json

__all__ = ["DatasetWriter", "write_table"]

# Measured on 48x48 MiniGrid frames, one core: 33 times smaller than raw; 5,600, 3,800 and 2,300 random clips/s of 8, 16
# and 32 frames. Level 9 reads as fast and is 2.5 times smaller, but writes 4 times slower; longer chunks read slower.
CHUNK_FRAMES = 8
GZIP_LEVEL = 4


class DatasetWriter:
    """Writes a dataset shard by shard. After a kill, a new writer on the same folder continues after the last shard.

    A shard is complete once `episodes.parquet`, which is rewritten last, lists it. Only one writer may be open at a
    time. A `UserError` if `root` holds a dataset with another meta or format version, or files that are no dataset.
    """

    def __init__(self, root: Path | str, meta: Meta) -> None:
        self.root, self.meta = as_path(root, "a dataset's folder"), meta
        if not isinstance(meta, Meta):
            raise UserError(f"dataset {root}: meta must be a Meta, got {one_line(repr(meta), 60)}")
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"{self.root} is a file: choose a folder for the dataset")
        if (self.root / "meta.json").exists():
            found, _, self.version = read_meta(self.root)
            if found != meta:
                names = [f.name for f in dataclasses.fields(Meta) if getattr(found, f.name) != getattr(meta, f.name)]
                raise UserError(
                    f"dataset {self.root} has other {', '.join(names)} than the episodes to write: choose another"
                    " folder, or delete this one"
                )
        else:
            if self.root.exists() and any(not entry.name.endswith(".tmp") for entry in self.root.iterdir()):
                raise UserError(f"{self.root} holds files but no dataset: choose another folder")
            self.version = EXTENDED if meta.labels or meta.fit != Meta.fit else PLAIN
            self._write_meta(None)
        table = self.root / "episodes.parquet"
        self._table = pq.read_table(table) if table.exists() else EPISODE_SCHEMA.empty_table()

    def _counts(self) -> dict[str, int]:
        """The number of complete shards of each split."""
        counts: dict[str, int] = {}
        for split, index in zip(self._table["split"].to_pylist(), self._table["shard"].to_pylist(), strict=True):
            counts[split] = max(counts.get(split, 0), index + 1)
        return counts

    def shards(self, split: str) -> int:
        """The number of complete shards of `split`, which is the index of the next one."""
        return self._counts().get(split, 0)

    def write_shard(self, split: str, index: int, episodes: Iterable[Episode]) -> None:
        """Add `episodes`, at least one, as shard `index`, which must be `shards(split)`; atomic.

        A split's name consists of letters, digits, "_" and "-". A `UserError` if an episode does not fit the meta, or
        the dataset is complete.
        """
        if not re.fullmatch(r"[\w-]+", text(split, "a split's name")):
            raise UserError(f"a split's name must consist of letters, digits, _ and -, got {split!r}")
        episodes = self._listed(episodes)
        if is_complete(self.root):
            raise UserError(f"dataset {self.root} is complete: write to another folder, or delete this one")
        if (index := whole_number(index, "a shard's index")) != self.shards(split):
            raise UserError(f"dataset {self.root}: shard {index} of {split}: the next is {self.shards(split)}")
        for episode in episodes:
            self._check(episode)
        if self.version == PLAIN and any(_is_extended(episode) for episode in episodes):
            self.version = EXTENDED
            self._write_meta(None)
        name, pixels = Shard(split, index, 0, 0).name, None
        videos: list[dict[str, Any]] = [{} for _ in episodes]
        if self._is_video(episodes):
            videos = self._video_columns(episodes)
        else:
            pixels = np.concatenate([episode.frames for episode in episodes if not isinstance(episode.frames, Video)])
            _write_pixels(self.root / "frames" / f"{name}.h5", pixels)
        write_table(self.root / "steps" / f"{name}.parquet", steps_table(episodes, pixels))
        rows = [_row(episode, split, index) | video for episode, video in zip(episodes, videos, strict=True)]
        new = pa.Table.from_pylist(rows, schema=SCHEMAS[self.version])
        table = pa.concat_tables([self._table, new], promote_options="default")
        write_table(self.root / "episodes.parquet", table)
        self._table = table

    def _listed(self, episodes: Iterable[Episode]) -> list[Episode]:
        found: list[object] = list(episodes) if isinstance(episodes, Iterable) else [None]
        if not all(isinstance(episode, Episode) for episode in found):
            raise UserError(
                f"dataset {self.root}: a shard must be a list of Episode, got {one_line(repr(episodes), 60)}"
            )
        if not found:
            raise UserError(f"dataset {self.root}: a shard needs at least one episode, got none")
        return [episode for episode in found if isinstance(episode, Episode)]

    def finish(self) -> None:
        """Mark the dataset as complete: from now on it can be opened, but no longer extended."""
        if not self._table.num_rows:
            raise UserError(f"dataset {self.root} holds no episode: write a shard before finish()")
        self._write_meta(self._counts())

    def _write_meta(self, splits: dict[str, int] | None) -> None:
        values = {"format_version": self.version, **dataclasses.asdict(self.meta), "splits": splits}
        if self.version == PLAIN:
            del values["labels"], values["fit"]
        write_json(self.root / "meta.json", values)

    def _is_video(self, episodes: Sequence[Episode]) -> bool:
        """Whether frames are in video files; a `UserError` if that is true of some episodes of the dataset only."""
        kinds = {isinstance(episode.frames, Video) for episode in episodes}
        if self._table.num_rows:
            kinds.add("video" in self._table.column_names and self._table["video"][0].is_valid)
        if len(kinds) > 1:
            raise UserError(
                f"dataset {self.root}: either all episodes or none must have video files as frames: write two datasets"
            )
        return kinds.pop()

    def _video_columns(self, episodes: Sequence[Episode]) -> list[dict[str, Any]]:
        """The table's video columns of each episode; a `UserError` if a file has fewer frames than its episode."""
        known: dict[Path, tuple[VideoIndex, str]] = {}
        columns = []
        for episode in episodes:
            video = episode.frames
            assert isinstance(video, Video)
            if video.path not in known:
                known[video.path] = index_video(video.path), identity(video.path)
            index, content = known[video.path]
            if video.numbers[-1] >= index.frames:
                raise UserError(
                    f"dataset {self.root}: video {video.path} has {index.frames} frames, the episode with seed"
                    f" {episode.seed} needs {video.numbers[-1] + 1}"
                )
            columns.append(
                {
                    "video": reference(self.root, video.path),
                    "video_start": video.start,
                    "video_identity": content,
                    "video_frames": index.frames,
                    "video_keys": index.keys.tolist(),
                    "video_pts": index.pts.tolist(),
                }
            )
        return columns

    def _check(self, episode: Episode) -> None:
        where = f"dataset {self.root}, episode with seed {episode.seed}"
        if episode.events is not None:
            if len(self.meta.labels) != episode.events.shape[1]:
                raise UserError(
                    f"{where}: events have {episode.events.shape[1]} columns, the dataset {len(self.meta.tasks)} tasks"
                    f" and {len(self.meta.labels)} labels: give each task a label and a column of events"
                )
        elif episode.task not in self.meta.tasks and not (self.meta.labels and episode.task == EVERY_TASK):
            raise UserError(f"{where}: task {episode.task!r} is not one of {', '.join(self.meta.tasks)}")
        if isinstance(episode.frames, Video):
            pass
        elif episode.frames.shape[1:3] != (self.meta.height, self.meta.width):
            size = f"{self.meta.height}x{self.meta.width}"
            raise UserError(f"{where}: frames are {list(episode.frames.shape)}, the dataset's frames are {size} pixels")
        actions_array(episode.actions, f"{where}: actions", self.meta.actions.sizes, episode.length)


def _is_extended(episode: Episode) -> bool:
    return isinstance(episode.frames, Video) or not episode.labelled or bool(optional_columns(episode))


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table of a dataset atomically; a `WriteError` if that is not possible."""
    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd")
    write_bytes(path, content.getbuffer())


def _write_pixels(path: Path, frames: NDArray[np.uint8]) -> None:
    content = io.BytesIO()  # where HDF5 itself cannot write a file, it may crash the process later
    with h5py.File(content, "w") as file:
        chunks = (min(CHUNK_FRAMES, len(frames)), *frames.shape[1:])
        file.create_dataset("frames", data=frames, chunks=chunks, compression="gzip", compression_opts=GZIP_LEVEL)
    write_bytes(path, content.getbuffer())


def _row(episode: Episode, split: str, shard: int) -> dict[str, Any]:
    own = {name: getattr(episode, name) for name in (*ROW_FIELDS, "labelled")}
    return {"split": split, "shard": shard, "length": episode.length, "recorded": optional_columns(episode), **own}
