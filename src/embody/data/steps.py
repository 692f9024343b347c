"""The steps of a dataset's episodes: tables on disk, flat arrays in memory.

Shapes: N steps (all episodes, concatenated), A action factors, M events.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from embody.data.episode import Episode
from embody.data.video import Video

__all__ = ["OPTIONAL", "Steps", "optional_columns", "steps_table"]

# A shard has such a column only if one of its episodes has it.
OPTIONAL = ("events", "camera", "is_null", "cursor", "frame_number")


def optional_columns(episode: Episode) -> list[str]:
    """The names of the optional columns that `episode` has."""
    found = [name for name in OPTIONAL[:3] if getattr(episode, name) is not None]
    if isinstance(episode.frames, Video):
        found += ["cursor"] * (episode.frames.cursor is not None)
        found += ["frame_number"] * (episode.frames.frame_numbers is not None)
    return found


def steps_table(episodes: Sequence[Episode], frames: NDArray[np.uint8] | None) -> pa.Table:
    """The steps of a shard as a table. Its metadata hold the hash of the pixels for the dataset's fingerprint."""
    columns = {
        "action": _fixed(np.concatenate([episode.actions for episode in episodes])),
        "reward": pa.array(np.concatenate([episode.rewards for episode in episodes])),
        "is_terminal": pa.array(np.concatenate([episode.is_terminal for episode in episodes])),
    }
    optional = {name for episode in episodes for name in optional_columns(episode)}
    if "events" in optional:
        parts = [np.zeros((e.length, 0), bool) if e.events is None else e.events for e in episodes]
        offsets = np.cumsum(np.concatenate([[0], *(part.sum(axis=1) for part in parts)]), dtype=np.int32)
        tasks = np.concatenate([np.nonzero(part)[1] for part in parts]).astype(np.int16)
        columns["events"] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(tasks))
    if "camera" in optional:
        empty = [np.zeros((e.length, 2), np.float32) if e.camera is None else e.camera for e in episodes]
        columns["camera"] = _fixed(np.concatenate(empty))
    if "is_null" in optional:
        columns["is_null"] = pa.array(
            np.concatenate([np.zeros(e.length, bool) if e.is_null is None else e.is_null for e in episodes])
        )
    if "cursor" in optional:
        columns["cursor"] = _fixed(np.concatenate([_cursor(episode) for episode in episodes]))
    if "frame_number" in optional:
        videos = [episode.frames for episode in episodes if isinstance(episode.frames, Video)]
        columns["frame_number"] = pa.array(np.concatenate([video.numbers for video in videos]).astype(np.int32))
    digest = {} if frames is None else {"frames_sha256": hashlib.sha256(frames.tobytes()).hexdigest()}
    return pa.table(columns).replace_schema_metadata(digest)


def _fixed(rows: NDArray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def _cursor(episode: Episode) -> NDArray[np.int16]:
    found = episode.frames.cursor if isinstance(episode.frames, Video) else None
    return np.full((episode.length, 2), -1, np.int16) if found is None else found


@dataclass(frozen=True)
class Steps:
    """All steps of a dataset. An optional field is None if no episode has it."""

    actions: NDArray[np.int64]  # [N, A]
    rewards: NDArray[np.float32]  # [N]
    is_terminal: NDArray[np.bool_]  # [N]
    event_rows: NDArray[np.int64]  # [M]: the step (row) of each event, ascending
    event_tasks: NDArray[np.int64]  # [M]: the index of the task that each event achieves
    camera: NDArray[np.float32] | None  # [N, 2]
    is_null: NDArray[np.bool_] | None  # [N]
    cursor: NDArray[np.int16] | None  # [N, 2]
    frame_numbers: NDArray[np.int32] | None  # [N]

    @classmethod
    def read(cls, tables: Sequence[pa.Table], factors: int) -> "Steps":
        """Concatenate the `tables` of all shards, in order; `factors` is A."""
        table = pa.concat_tables((t.replace_schema_metadata() for t in tables), promote_options="default")
        table = table.combine_chunks()
        events: tuple[NDArray, NDArray] = (np.zeros(0, np.int64), np.zeros(0, np.int64))
        if "events" in table.column_names:
            column = table["events"].combine_chunks()
            counts = column.value_lengths().fill_null(0).to_numpy()
            events = (np.repeat(np.arange(len(counts)), counts), column.flatten().to_numpy().astype(np.int64))
        null = table["is_null"].combine_chunks().fill_null(False) if "is_null" in table.column_names else None
        return cls(
            table["action"].combine_chunks().flatten().to_numpy().reshape(-1, factors),
            table["reward"].to_numpy(),
            table["is_terminal"].to_numpy(),
            *events,
            _pairs(tables, "camera", np.zeros(2, np.float32)),
            None if null is None else null.to_numpy(zero_copy_only=False),
            _pairs(tables, "cursor", np.full(2, -1, np.int16)),
            table["frame_number"].fill_null(-1).to_numpy() if "frame_number" in table.column_names else None,
        )

    def content(self) -> list[NDArray]:
        """The arrays that enter the dataset's fingerprint, in order."""
        optional = (self.camera, self.is_null, self.cursor, self.frame_numbers)
        events = [self.event_rows, self.event_tasks] if len(self.event_rows) else []
        return [self.actions, self.rewards, self.is_terminal, *events, *(x for x in optional if x is not None)]


def _pairs(tables: Sequence[pa.Table], name: str, missing: NDArray) -> NDArray | None:
    """Column `name` as `[N, 2]`, filled with `missing` in shards without it; None if no shard has it."""
    if not any(name in table.column_names for table in tables):
        return None
    parts = [
        table[name].combine_chunks().flatten().to_numpy().reshape(-1, 2)
        if name in table.column_names
        else np.broadcast_to(missing, (table.num_rows, 2))
        for table in tables
    ]
    return np.concatenate(parts)
