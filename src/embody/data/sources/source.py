"""Recordings that others made, as episodes: what a source of them is.

A source lists its recordings and reads any of them, in whatever process. What is broken is a `UserError` of the form
`FILE[, line N]: what is wrong`.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol

import av

from embody.data.dataset import Meta
from embody.data.episode import Episode
from embody.data.video import index_video
from embody.errors import UserError

__all__ = ["PickledByFields", "Source", "count_frames", "seed_from_name", "video_shape"]


class Source(Protocol):
    """Recordings of one kind, to become one dataset; equal sources are interchangeable."""

    def __hash__(self) -> int: ...

    @property
    def shard_size(self) -> int:
        """How many recordings are written at a time."""

    @property
    def provenance(self) -> dict[str, Any]:
        """What the episodes depend on, ready for JSON."""

    def names(self) -> list[str]:
        """The recordings' names, sorted; a `UserError` if there are none."""

    def group(self, name: str) -> str:
        """What recordings of one world and player share: they must not be parted by a split."""

    def meta(self) -> Meta:
        """The dataset's."""

    def read(self, name: str) -> Episode:
        """One recording; a `UserError` if it is broken."""


class PickledByFields:
    """Goes to other processes without what it has found out."""

    def __reduce__(self) -> tuple[Any, ...]:
        assert is_dataclass(self)
        return type(self), tuple(getattr(self, field.name) for field in fields(self))


def seed_from_name(name: str) -> int:
    """Stands for a seed where a recording has none."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6])


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What is said of a broken video, in the form of a source's errors."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{path}: {str(error).removeprefix(f'video {path} ')}") from error


def count_frames(path: Path) -> int:
    with _reading(path):
        return index_video(path).frames


def video_shape(path: Path) -> tuple[int, int, int]:
    """Height, width, and frames a second of a video."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            return stream.height, stream.width, round(stream.average_rate or 0)
    except (av.FFmpegError, OSError, IndexError) as error:
        raise UserError(f"{path}: cannot be opened as a video ({error})") from error
