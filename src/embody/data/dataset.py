"""A dataset on disk: one folder, which can be opened once it is complete (see docs/data.md).

Shapes: N steps (all episodes, concatenated), A action factors, H W pixels.
"""

import dataclasses
import hashlib
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from embody.config import ActionSpec, Fit, from_dict
from embody.data.arrays import as_path, texts, whole_number
from embody.data.container import VideoIndex
from embody.data.episode import Episode, EpisodeRow
from embody.data.steps import Steps
from embody.data.video import OpenVideos, Video
from embody.data.video_files import find_videos
from embody.errors import UserError, one_line
from embody.saving.json_files import read_object

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

PLAIN, EXTENDED = (
    1,
    2,
)  # format versions; a dataset has version 2 once it holds a video, events or another optional column
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
    ("recorded", pa.list_(pa.string())),  # the optional columns of the steps that this episode has
    ("video", pa.string()),  # file of the frames, see `reference`
    ("video_start", pa.int64()),  # the index of the episode's first frame in the file
    ("video_identity", pa.string()),
    ("video_frames", pa.int64()),  # number of frames in the file
    ("video_keys", pa.list_(pa.int64())),  # see VideoIndex
    ("video_pts", pa.list_(pa.int64())),
)
SCHEMAS = {PLAIN: EPISODE_SCHEMA, EXTENDED: pa.schema([*EPISODE_SCHEMA, *EXTENDED_FIELDS])}


@dataclass(frozen=True)
class Meta:
    """The properties that all episodes of a dataset share."""

    tasks: tuple[str, ...]
    actions: ActionSpec
    height: int  # pixels
    width: int
    fps: int  # frames a second of the recording
    vocabulary: tuple[str, ...]  # words of the labels; index 0 "<pad>", 1 "<unknown>"
    # The label of each task, if episodes have events; else empty. Not in `repr`: see Dataset.fingerprint.
    labels: tuple[str, ...] = field(default=(), repr=False)
    fit: Fit = field(default="letterbox", repr=False)  # how frames of video files become frames of another shape

    def __post_init__(self) -> None:
        for name in ("tasks", "vocabulary", "labels"):
            object.__setattr__(self, name, texts(getattr(self, name), f"dataset meta: {name}"))
        for name in ("height", "width", "fps"):
            object.__setattr__(self, name, whole_number(getattr(self, name), f"dataset meta: {name}", low=1))
        if not isinstance(self.actions, ActionSpec):
            raise UserError(
                f"dataset meta: actions must be an ActionSpec, such as ActionSpec((4,)), got {self.actions!r}"
            )
        if self.vocabulary[:2] != (PADDING, UNKNOWN) or len(set(self.vocabulary)) != len(self.vocabulary):
            raise UserError(
                f"dataset meta: vocabulary must begin with {PADDING!r}, {UNKNOWN!r}, and hold each word once"
            )
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise UserError("dataset meta: tasks must not be empty, and hold each name once")
        if self.labels and len(self.labels) != len(self.tasks):
            raise UserError(
                f"dataset meta: {len(self.tasks)} tasks but {len(self.labels)} labels: give one label for each task"
            )
        if self.fit not in get_args(Fit):
            raise UserError(f"dataset meta: fit {self.fit!r} must be one of {', '.join(get_args(Fit))}")


@dataclass(frozen=True)
class Shard:
    """Consecutive episodes of one split. Their steps are rows `start` to `stop` of the dataset's flat arrays."""

    split: str
    index: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"{self.split}-{self.index:05d}"


_MADE_BY = "`embody collect` or `embody import`"
ROW_FIELDS = ("task", "label", "source", "noise", "seed", "success")  # fields of `Episode` that the table holds


def read_meta(root: Path) -> tuple[Meta, dict[str, int] | None, int]:
    """Meta, number of shards by split (None: incomplete) and format version; a `UserError` if meta.json is damaged."""
    values = read_object(root / "meta.json", f"delete the folder and run {_MADE_BY} again")
    try:
        version = values.pop("format_version")
        splits = values.pop("splits")
        if version in SCHEMAS:
            return from_dict(Meta, values), splits, version
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"dataset {root}: meta.json is damaged ({error}): delete the folder and run {_MADE_BY} again"
        ) from error
    raise UserError(
        f"dataset {root} has format version {version}, this version of embody reads {PLAIN} and {EXTENDED}: run"
        f" {_MADE_BY} into another folder"
    )


def is_complete(root: Path | str) -> bool:
    """Whether `root` holds a complete dataset."""
    root = Path(root)
    return (root / "meta.json").exists() and read_meta(root)[1] is not None


def open_dataset(root: Path | str, size: tuple[int, int] | None = None) -> "Dataset":
    """Open the dataset in folder `root`; a `UserError` if it is missing, incomplete, damaged or of another version.

    `size`: (height, width) in pixels to which frames of video files are resized; by default the dataset's own.
    """
    root = as_path(root, "a dataset's folder")
    if size is not None:
        if not isinstance(size, tuple | list) or len(size) != 2:
            raise UserError(f"size must be (height, width) in pixels, got {one_line(repr(size), 60)}")
        height, width = (whole_number(side, "size: height and width", low=1) for side in size)
        size = height, width
    if not (root / "meta.json").exists():
        raise UserError(f"no dataset in {root}: run `embody collect` or `embody import` first")
    if not is_complete(root):
        raise UserError(f"dataset {root} is incomplete: run {_MADE_BY} again, which resumes")
    return Dataset(root, size)


class Dataset:
    """A complete dataset: its table and steps are in memory, frames are read on demand. Made by `open_dataset`.

    Episodes have ids 0, 1, ... in the order they were written; the steps of episode i are rows `offsets[i]` to
    `offsets[i + 1]` of the flat arrays. It can be sent to forked and spawned processes: each opens its own files.
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
            raise UserError(
                f"dataset {root} is damaged ({reason}): delete the folder and run {_MADE_BY} again"
            ) from error
        self.size = (
            size if size and self.is_video else (self.meta.height, self.meta.width)
        )  # of the frames that `frames` returns
        self._files: dict[Path, h5py.Dataset] = {}
        self._videos = OpenVideos()
        self._pid = os.getpid()
        columns = (self._table[name].to_pylist() for name in ("video", "video_identity")) if self.is_video else ((), ())
        self._paths = find_videos(root, dict(zip(*columns, strict=True)))

    def __reduce__(self) -> tuple[Any, ...]:
        return open_dataset, (self.root, self.size)

    @property
    def actions(self) -> NDArray[np.int64]:
        """int64 `[N, A]`."""
        return self.steps.actions

    @property
    def rewards(self) -> NDArray[np.float32]:
        """float32 `[N]`: the recorded rewards, before any relabelling by events."""
        return self.steps.rewards

    @property
    def is_terminal(self) -> NDArray[np.bool_]:
        """bool `[N]`."""
        return self.steps.is_terminal

    @property
    def is_video(self) -> bool:
        """Whether the frames are in video files (of all episodes, or of none)."""
        return self.version == EXTENDED and bool(self._table["video"][0].is_valid)

    def _read(self) -> None:
        schema, table = SCHEMAS[self.version], pq.read_table(self.root / "episodes.parquet")
        # A writer that was killed at its first extended shard leaves a table without the extended columns.
        self._table = pa.concat_tables([schema.empty_table(), table], promote_options="default").cast(schema)
        columns = {name: self._table[name].to_pylist() for name in EPISODE_SCHEMA.names}
        if self.version == EXTENDED:  # null in rows that were written as version 1
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
            raise KeyError(
                f"shard {shard.name} has {table.num_rows} steps and frames {shape}; the table lists {steps} steps"
            )
        return table

    def _frames_path(self, shard: Shard) -> Path:
        return self.root / "frames" / f"{shard.name}.h5"

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(shard.split for shard in self.shards))

    def episodes(self, split: str | None = None) -> tuple[EpisodeRow, ...]:
        """The episodes of one split, or of all (None); a `UserError` if there is no such split."""
        if split is None:
            return self._rows
        if split not in self.splits:
            raise UserError(f"dataset {self.root} has no split {split!r}, it has {', '.join(self.splits)}")
        return tuple(row for row in self._rows if row.split == split)

    def shard_of(self, episode_id: int) -> Shard:
        """The shard that contains the episode."""
        return self.shards[self._shard_of[episode_id]]

    def rows(self, episode_id: int, start: int, stop: int) -> slice:
        """The rows of the flat arrays for timesteps `start` to `stop` of an episode, which must lie within it."""
        begin, end = self.offsets[self._known(episode_id) : episode_id + 2]
        if not 0 <= start < stop <= end - begin:
            raise UserError(
                f"dataset {self.root}: episode {episode_id} has timesteps 0 to {end - begin - 1}, not {start}:{stop}"
            )
        return slice(int(begin) + start, int(begin) + stop)

    def _known(self, episode_id: int) -> int:
        if not 0 <= episode_id < len(self._rows):
            raise UserError(f"dataset {self.root} has no episode {episode_id}: ids are from 0 to {len(self._rows) - 1}")
        return episode_id

    def frames(self, episode_id: int, start: int, stop: int) -> NDArray[np.uint8]:
        """Frames `start` to `stop` of an episode, uint8 `[n, H, W, 3]`; H and W are the dataset's `size`.

        A `UserError` names a video file that is missing, has changed or cannot be decoded.
        """
        rows = self.rows(episode_id, start, stop)
        if self.is_video:
            part = self._video(episode_id, start, stop)
            row = self._table.slice(episode_id, 1)
            keys, pts = (row[name].combine_chunks().flatten().to_numpy() for name in ("video_keys", "video_pts"))
            index = VideoIndex(row["video_frames"][0].as_py(), keys, pts)
            return self._videos.read(part, index, row["video_identity"][0].as_py(), *self.size, self.meta.fit)
        if self._pid != os.getpid():  # HDF5 handles do not survive a fork
            self._files, self._pid = {}, os.getpid()
        shard = self.shard_of(episode_id)
        path = self._frames_path(shard)
        if path not in self._files:
            self._files[path] = h5py.File(path, "r")["frames"]
        return self._files[path][rows.start - shard.start : rows.stop - shard.start]

    def _video(self, episode_id: int, start: int, stop: int) -> Video:
        path, first = (self._table[name][episode_id].as_py() for name in ("video", "video_start"))
        rows = self.rows(episode_id, start, stop)
        has_cursor = self.steps.cursor is not None and "cursor" in self._recorded(episode_id)
        cursor = self.steps.cursor[rows] if self.steps.cursor is not None and has_cursor else None
        has_numbers = self.steps.frame_numbers is not None and "frame_number" in self._recorded(episode_id)
        numbers = self.steps.frame_numbers[rows] if self.steps.frame_numbers is not None and has_numbers else None
        first = first + start if numbers is None else int(numbers[0])
        return Video(self._paths[path], first, stop - start, cursor, numbers)

    def _recorded(self, episode_id: int) -> list[str]:
        return (self._table["recorded"][episode_id].as_py() or []) if self.version == EXTENDED else []

    def events(self, episode_id: int) -> NDArray[np.bool_] | None:
        """bool `[T, K]`: the tasks achieved at each timestep; None if the episode was recorded without events."""
        if "events" not in self._recorded(episode_id):
            return None
        begin, end = self.offsets[episode_id : episode_id + 2]
        own = slice(*np.searchsorted(self.steps.event_rows, (begin, end)))
        events = np.zeros((int(end - begin), len(self.meta.tasks)), bool)
        events[self.steps.event_rows[own] - begin, self.steps.event_tasks[own]] = True
        return events

    def episode(self, episode_id: int) -> Episode:
        """The episode as it was written. Its frames are pixels, or a `Video` if they are in a file."""
        row, steps = self._rows[self._known(episode_id)], self.steps
        rows = self.rows(episode_id, 0, row.length)
        found = self._recorded(episode_id)
        return Episode(
            frames=(self._video if self.is_video else self.frames)(episode_id, 0, row.length),
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
        """Sixteen hex digits, a hash of the meta, all steps, all frames and all rows of the table.

        Of a video file, only its size and both ends are hashed.
        """
        content = hashlib.sha256(repr((self.meta, self._rows, self._digests)).encode())
        if self.version == EXTENDED:
            names = ("labelled", "recorded", "video_start", "video_identity")
            content.update(repr((self.meta.labels, [self._table[name].to_pylist() for name in names])).encode())
        if self.is_video:
            content.update(self.meta.fit.encode())
        for array in self.steps.content():
            content.update(np.ascontiguousarray(array).tobytes())
        return content.hexdigest()[:16]
