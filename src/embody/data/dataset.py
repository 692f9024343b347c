"""The on-disk dataset: one folder, readable once it is whole (see docs/data.md).

Shapes: N steps of all episodes one after the other, A action factors, H W pixels.
"""

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embody.config import ActionSpec, from_dict
from embody.data.episode import Episode, EpisodeRow
from embody.data.steps import Steps
from embody.data.video import OpenVideos, Video, VideoIndex
from embody.errors import UserError

__all__ = [
    "EPISODE_SCHEMA",
    "EXTENDED",
    "ROW_FIELDS",
    "PLAIN",
    "SCHEMAS",
    "Dataset",
    "Meta",
    "Shard",
    "is_complete",
    "open_dataset",
    "read_meta",
]

PLAIN, EXTENDED = 1, 2  # versions; 2 is what a dataset becomes with its first video, event or other optional content
PADDING, UNKNOWN = "<pad>", "<unknown>"

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
EXTENDED_FIELDS = (
    ("labelled", pa.bool_()),
    ("recorded", pa.list_(pa.string())),  # which optional columns of the steps are this episode's
    ("video", pa.string()),  # file of the frames: relative if it is in the dataset's folder
    ("video_start", pa.int64()),  # the episode's first frame in it
    ("video_identity", pa.string()),
    ("video_frames", pa.int64()),  # of the file
    ("video_keys", pa.list_(pa.int64())),  # where decoding may begin, see VideoIndex
    ("video_pts", pa.list_(pa.int64())),
)
SCHEMAS = {PLAIN: EPISODE_SCHEMA, EXTENDED: pa.schema([*EPISODE_SCHEMA, *EXTENDED_FIELDS])}


@dataclass(frozen=True)
class Meta:
    """What holds for every episode of a dataset."""

    tasks: tuple[str, ...]
    actions: ActionSpec
    height: int  # pixels
    width: int
    fps: int  # of the recording, in frames a second
    vocabulary: tuple[str, ...]  # words of the labels; index 0 "<pad>", 1 "<unknown>"
    # What each task asks for, in words, where episodes have events. Not in `repr`: see Dataset.fingerprint.
    labels: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.vocabulary[:2] != (PADDING, UNKNOWN) or len(set(self.vocabulary)) != len(self.vocabulary):
            raise UserError(f"dataset vocabulary must begin with {PADDING!r}, {UNKNOWN!r} and hold each word once")
        if not self.tasks or min(self.height, self.width, self.fps) < 1:
            raise UserError("dataset meta: at least one task, and height, width and fps of 1 or more")
        if self.labels and len(self.labels) != len(self.tasks):
            raise UserError(f"dataset meta: {len(self.tasks)} tasks and {len(self.labels)} labels, give one each")


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


_MADE_BY = "what made it (`embody collect` or `embody import`)"
ROW_FIELDS = ("task", "label", "source", "noise", "seed", "success")  # of an episode, in its row of the table


def read_meta(root: Path) -> tuple[Meta, dict[str, int] | None, int]:
    """The meta, shards of each split (None: not finished) and format version; a `UserError` if it is damaged."""
    try:
        values = json.loads((root / "meta.json").read_text(encoding="utf-8"))
        version = values.pop("format_version")
        splits = values.pop("splits")
        if version in SCHEMAS:
            return from_dict(Meta, values), splits, version
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"dataset {root}: meta.json is damaged ({error}): delete it, run {_MADE_BY} again") from error
    raise UserError(
        f"dataset {root}: format version {version}, this embody reads {PLAIN} and {EXTENDED};"
        f" run {_MADE_BY} into another folder"
    )


def is_complete(root: Path | str) -> bool:
    """Whether `root` holds a finished dataset."""
    root = Path(root)
    return (root / "meta.json").exists() and read_meta(root)[1] is not None


def open_dataset(root: Path | str, size: tuple[int, int] | None = None) -> "Dataset":
    """The dataset in folder `root`; a `UserError` of one line if it is missing, half-written or of another version.

    `size`: height and width that frames in video files are resized to as they are read; the dataset's own by default.
    """
    root = Path(root)
    if not (root / "meta.json").exists():
        raise UserError(f"no dataset in {root}: run `embody collect` or `embody import` first")
    if not is_complete(root):
        raise UserError(f"dataset {root} is half-written: run {_MADE_BY} again, it goes on where it stopped")
    return Dataset(root, size)


class Dataset:
    """A finished dataset: its table and steps in memory, its frames read on demand. Made by `open_dataset`.

    Episodes have ids 0, 1, ... in the order they were written; the steps of episode i are rows `offsets[i]` to
    `offsets[i + 1]` of the flat arrays. Can be sent to forked and spawned processes: each opens its own files.
    """

    steps: Steps
    offsets: NDArray[np.int64]  # [episodes + 1]

    def __init__(self, root: Path, size: tuple[int, int] | None) -> None:
        self.root = root
        self.meta, _, self.version = read_meta(root)
        try:
            self._read()
        except (OSError, KeyError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"dataset {root} is damaged ({reason}): delete it, run {_MADE_BY} again") from error
        self.size = size if size and self.is_video else (self.meta.height, self.meta.width)  # of the frames it gives
        self._files: dict[Path, h5py.Dataset] = {}
        self._videos = OpenVideos()
        self._pid = os.getpid()
        self._check_videos()

    def __reduce__(self) -> tuple[Any, ...]:
        return open_dataset, (self.root, self.size)

    @property
    def actions(self) -> NDArray[np.int64]:
        """`[N, A]`."""
        return self.steps.actions

    @property
    def rewards(self) -> NDArray[np.float32]:
        """`[N]`; of no meaning where an episode has events."""
        return self.steps.rewards

    @property
    def is_terminal(self) -> NDArray[np.bool_]:
        """`[N]`."""
        return self.steps.is_terminal

    @property
    def is_video(self) -> bool:
        """Whether frames are in video files."""
        return self.version == EXTENDED and bool(self._table["video"][0].is_valid)

    def _read(self) -> None:
        self._table = pq.read_table(self.root / "episodes.parquet").cast(SCHEMAS[self.version])
        columns = {name: self._table[name].to_pylist() for name in EPISODE_SCHEMA.names}
        if self.version == EXTENDED:  # null: written before the dataset had anything of the kind
            columns["labelled"] = self._table["labelled"].fill_null(True).to_pylist()
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
        self._digests = [t.schema.metadata[b"frames_sha256"].decode() for t in tables if not self.is_video]
        self.steps = Steps.read(tables, len(self.meta.actions.sizes))
        del columns["shard"]
        returns = np.add.reduceat(self.rewards.astype(np.float64), self.offsets[:-1]).tolist()
        self._rows = tuple(
            EpisodeRow(id=i, return_=total, **dict(zip(columns, values, strict=True)))
            for i, (total, *values) in enumerate(zip(returns, *columns.values(), strict=True))
        )

    def _read_shard(self, shard: Shard) -> pa.Table:
        path = self.root / "steps" / f"{shard.name}.parquet"
        table = pq.read_table(path)
        steps = shard.stop - shard.start
        shape = (steps, self.meta.height, self.meta.width, 3)
        if not self.is_video:
            with h5py.File(self._frames_path(shard), "r") as file:
                shape = file["frames"].shape
        if table.num_rows != steps or shape != (steps, self.meta.height, self.meta.width, 3):
            raise KeyError(f"shard {shard.name} has {table.num_rows} steps and frames {shape}, {steps} are listed")
        return table

    def _frames_path(self, shard: Shard) -> Path:
        return self.root / "frames" / f"{shard.name}.h5"

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(shard.split for shard in self.shards))

    def episodes(self, split: str | None = None) -> tuple[EpisodeRow, ...]:
        """The table's rows, of one split or of all; a `UserError` if there is no such split."""
        if split is None:
            return self._rows
        if split not in self.splits:
            raise UserError(f"dataset {self.root} has no split {split!r}, it has {', '.join(self.splits)}")
        return tuple(row for row in self._rows if row.split == split)

    def shard_of(self, episode_id: int) -> Shard:
        """The shard that holds an episode."""
        return self.shards[self._shard_of[episode_id]]

    def rows(self, episode_id: int, start: int, stop: int) -> slice:
        """Where timesteps `start` to `stop` of an episode stand in the flat arrays; they must lie in the episode."""
        begin, end = self.offsets[episode_id : episode_id + 2]
        assert 0 <= start < stop <= end - begin, f"timesteps {start}:{stop} of episode {episode_id} of {end - begin}"
        return slice(int(begin) + start, int(begin) + stop)

    def frames(self, episode_id: int, start: int, stop: int) -> NDArray[np.uint8]:
        """Frames `start` to `stop` of an episode, uint8 `[n, H, W, 3]`, H and W being the dataset's `size`.

        A `UserError` of one line names a video file that is gone, has changed or cannot be decoded.
        """
        if self.is_video:
            whole = self._video(episode_id)
            cursor = None if whole.cursor is None else whole.cursor[start:stop]
            part = Video(whole.path, whole.start + start, stop - start, cursor)
            row = self._table.slice(episode_id, 1)
            keys, pts = (row[name].combine_chunks().flatten().to_numpy() for name in ("video_keys", "video_pts"))
            index = VideoIndex(row["video_frames"][0].as_py(), keys, pts)
            return self._videos.read(part, index, row["video_identity"][0].as_py(), *self.size)
        if self._pid != os.getpid():  # HDF5 handles do not survive a fork
            self._files, self._pid = {}, os.getpid()
        rows, shard = self.rows(episode_id, start, stop), self.shard_of(episode_id)
        path = self._frames_path(shard)
        if path not in self._files:
            self._files[path] = h5py.File(path, "r")["frames"]
        return self._files[path][rows.start - shard.start : rows.stop - shard.start]

    def _video(self, episode_id: int) -> Video:
        path, start = (self._table[name][episode_id].as_py() for name in ("video", "video_start"))
        rows = self.rows(episode_id, 0, length := self._rows[episode_id].length)
        has_cursor = self.steps.cursor is not None and "cursor" in self._recorded(episode_id)
        cursor = self.steps.cursor[rows] if self.steps.cursor is not None and has_cursor else None
        return Video(self.root / path, start, length, cursor)

    def _check_videos(self) -> None:
        """A `UserError` names a video file that is gone or of another size; its content is looked at on reading."""
        if not self.is_video:
            return
        columns = (self._table[name].to_pylist() for name in ("video", "video_identity"))
        for path, known in dict(zip(*columns, strict=True)).items():
            try:
                size = (self.root / path).stat().st_size
            except OSError as error:
                raise UserError(f"video {self.root / path} is not there: put it back, or import it anew") from error
            if size != int(known.split("-")[0]):
                raise UserError(f"video {self.root / path} has changed since it was imported: import it anew")

    def _recorded(self, episode_id: int) -> list[str]:
        return (self._table["recorded"][episode_id].as_py() or []) if self.version == EXTENDED else []

    def events(self, episode_id: int) -> NDArray[np.bool_] | None:
        """bool `[T, K]`: which tasks are achieved at each timestep; None if nobody has looked for them."""
        if "events" not in self._recorded(episode_id):
            return None
        begin, end = self.offsets[episode_id : episode_id + 2]
        own = slice(*np.searchsorted(self.steps.event_rows, (begin, end)))
        events = np.zeros((int(end - begin), len(self.meta.tasks)), bool)
        events[self.steps.event_rows[own] - begin, self.steps.event_tasks[own]] = True
        return events

    def episode(self, episode_id: int) -> Episode:
        """One episode as it was written: pixels, or the video file that holds them."""
        row, steps = self._rows[episode_id], self.steps
        rows = self.rows(episode_id, 0, row.length)
        found = self._recorded(episode_id)
        return Episode(
            frames=self._video(episode_id) if self.is_video else self.frames(episode_id, 0, row.length),
            actions=self.actions[rows],
            rewards=self.rewards[rows],
            is_terminal=self.is_terminal[rows],
            **{name: getattr(row, name) for name in (*ROW_FIELDS, "labelled")},
            events=self.events(episode_id),
            camera=steps.camera[rows] if steps.camera is not None and "camera" in found else None,
            is_null=steps.is_null[rows] if steps.is_null is not None and "is_null" in found else None,
        )

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with the meta, any step, any frame or any row of the table.

        Of a video file's frames: if its size changes, or either end.
        """
        content = hashlib.sha256(repr((self.meta, self._rows, self._digests)).encode())
        if self.version == EXTENDED:
            names = ("labelled", "recorded", "video_start", "video_identity")
            content.update(repr((self.meta.labels, [self._table[name].to_pylist() for name in names])).encode())
        for array in self.steps.content():
            content.update(np.ascontiguousarray(array).tobytes())
        return content.hexdigest()[:16]
