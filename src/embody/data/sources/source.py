"""The interface for importing recordings that were made by other software.

A source lists its recordings and reads any one of them, in any process. A broken recording raises a `UserError` of the
form `FILE[, line N]: what is wrong`.
"""

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embody.data.container import frame_times, index_video, open_video, readable
from embody.data.dataset import Meta
from embody.data.episode import Episode
from embody.data.picture import orientation_of, shown_size
from embody.errors import UserError

__all__ = [
    "MAX_CUT",
    "PickledByFields",
    "Source",
    "common_length",
    "count_frames",
    "is_hidden",
    "most_common_rate",
    "seed_from_name",
    "video_rate",
    "video_shape",
    "video_times",
]

MAX_CUT = 5  # timesteps by which a video and its action log may differ at the end


class Source(Protocol):
    """Recordings of one kind, which become one dataset. Equal sources return equal episodes."""

    def __hash__(self) -> int: ...

    @property
    def shard_size(self) -> int:
        """The number of recordings in a shard of the dataset."""

    @property
    def provenance(self) -> dict[str, Any]:
        """Everything that the episodes depend on, JSON-ready; at least "kind" and "source", the folder."""

    def names(self) -> list[str]:
        """The names of the recordings, sorted; a `UserError` if there are none."""

    def other_files(self) -> Mapping[str, str]:
        """Files that a user may expect to be recordings, and why each of them is not one."""

    def group(self, name: str) -> str:
        """A key that recordings of the same world or player share; a split puts all of a group on one side."""

    def meta(self) -> Meta:
        """The meta of the dataset."""

    def read(self, name: str) -> Episode:
        """Read one recording; a `UserError` if it is broken."""


class PickledByFields:
    """A base for dataclasses that are pickled without their cached properties."""

    def __reduce__(self) -> tuple[Any, ...]:
        assert is_dataclass(self)
        return type(self), tuple(getattr(self, field.name) for field in fields(self))


def seed_from_name(name: str) -> int:
    """A number to identify a recording that has no seed: 48 bits of the hash of its name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6])


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn errors about a video into the form of a source's errors."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{path}: {str(error).removeprefix(f'video {path} ')}") from error


def count_frames(path: Path) -> int:
    """The number of frames of a video; a `UserError` if it is broken."""
    with _reading(path):
        return index_video(path).frames


def common_length(frames: int, steps: int, difference: str) -> tuple[int, tuple[str, ...]]:
    """The number of timesteps that a video and its action log have in common, and in words what is cut off at the end.

    `frames` and `steps`: the timesteps of the video and those of the log. A recorder that is stopped may write a few
    more of one than of the other. A `UserError` that begins with `difference` if they differ by more than `MAX_CUT`.
    """
    count = abs(frames - steps)
    if count > MAX_CUT:
        raise UserError(f"{difference}: they may differ by at most {MAX_CUT}")
    timesteps = "1 timestep" if count == 1 else f"{count} timesteps"
    cut = f"cut off at the end: {timesteps} without {'an action' if frames > steps else 'a frame'}"
    return min(frames, steps), (cut,) if count else ()


def video_times(path: Path) -> NDArray[np.float64]:
    """`frame_times` of a video; a `UserError` if it is broken."""
    with _reading(path):
        return frame_times(path)


def video_shape(path: Path) -> tuple[int, int]:
    """Height and width in square pixels of a video as players show it; a `UserError` if its start cannot be decoded."""
    with _reading(path), readable(path):
        container, stream = open_video(path)
        with container:
            frame = next(container.decode(stream), None)
            if frame is None:
                raise UserError(f"video {path} has no frame: leave it out")
            aspect = stream.sample_aspect_ratio or Fraction(1)
            height, width = shown_size(frame.height, frame.width, orientation_of(frame), aspect)
            return max(1, round(height)), max(1, round(width))


def video_rate(path: Path) -> int:
    """The rounded frames a second that a video declares, 0 if none; a `UserError` if it cannot be opened."""
    with _reading(path), readable(path):
        container, stream = open_video(path)
        with container:
            return round(stream.average_rate or stream.guessed_rate or 0)


def most_common_rate(paths: Iterable[Path]) -> int:
    """The most common rounded rate of readable videos, in frames a second; the lowest of equally common ones.

    0 if none of them declares a rate.
    """
    rates: Counter[int] = Counter()
    for path in paths:
        with contextlib.suppress(UserError):
            rates[video_rate(path)] += 1
    del rates[0]
    return max(rates, key=lambda rate: (rates[rate], -rate), default=0)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden, such as those that systems write beside a user's files."""
    return name.startswith(".")
