"""Recordings that others made, as episodes: MineRL's, VPT's, and plain videos.

A source lists its recordings and reads any of them, in whatever process. What is broken is a `UserError` of the form
`FILE[, line N]: what is wrong`.
"""

import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np

from embody.config import ActionSpec
from embody.data import EVERY_TASK, Episode, Meta, Video, index_video
from embody.errors import UserError
from embody.games.minecraft.minerl import find_trajectories, read_trajectory
from embody.games.minecraft.minerl.trajectory import POV
from embody.games.minecraft.spaces import TASKS, VOCABULARY, VPT, minerl_space, task_label
from embody.games.minecraft.vpt import find_segments, read_segment

__all__ = ["MinerlSource", "Source", "VideoSource", "VptSource", "minerl_episode", "minerl_tasks", "stream_of"]

_FPS = 20  # of the game
_VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v")


class Source(Protocol):
    """Recordings of one kind, to become one dataset; equal sources are interchangeable."""

    def __hash__(self) -> int: ...

    @property
    def shard(self) -> int:
        """How many recordings are written at a time."""

    @property
    def about(self) -> dict[str, Any]:
        """What the episodes depend on, ready for JSON."""

    def names(self) -> list[str]:
        """The recordings' names, sorted; a `UserError` if there are none."""

    def group(self, name: str) -> str:
        """What recordings of one world and player share: they must not be parted by a split."""

    def meta(self) -> Meta:
        """The dataset's."""

    def read(self, name: str) -> Episode:
        """One recording; a `UserError` if it is broken."""


def stream_of(trajectory: str) -> str:
    """The name of the stream that one of MineRL's trajectories, `NAME_START-END`, is a part of."""
    return re.sub(r"_\d+-\d+$", "", trajectory)


def _number_of(name: str) -> int:
    """Stands for a seed where a recording has none."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6])


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What is said of a broken video, in the form of a source's errors."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{path}: {str(error).removeprefix(f'video {path} ')}") from error


def _frames_in(path: Path) -> int:
    with _reading(path):
        return index_video(path).frames


def _shape(path: Path) -> tuple[int, int, int]:
    """Height, width, and frames a second of a video."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            return stream.height, stream.width, round(stream.average_rate or 0)
    except (av.FFmpegError, OSError, IndexError) as error:
        raise UserError(f"{path}: cannot be opened as a video ({error})") from error


@dataclass(frozen=True)
class MinerlSource:
    """The trajectories of one MineRL 0.4.4 environment, in `root/environment`."""

    root: Path
    environment: str
    shard: int = 32

    @property
    def about(self) -> dict[str, Any]:
        return {"kind": "minerl", "source": str(self.root.absolute()), "environment": self.environment}

    @property
    def _folder(self) -> Path:
        return self.root / self.environment

    def names(self) -> list[str]:
        return sorted(p.relative_to(self._folder).as_posix() for p in find_trajectories(self.root, self.environment))

    def group(self, name: str) -> str:
        return stream_of(name)

    def meta(self) -> Meta:
        tasks, labels = minerl_tasks(self.environment)
        return Meta(tasks, minerl_space(self.environment).spec, *POV, _FPS, VOCABULARY, labels)

    def read(self, name: str) -> Episode:
        trajectory = read_trajectory(self._folder / name, self.environment)
        slots = trajectory.slots()
        length = len(trajectory.rewards) + 1
        missing = trajectory.first_frame + length - _frames_in(trajectory.video)
        if missing > 1:
            frames = trajectory.first_frame + length
            raise UserError(f"{trajectory.video}: {frames - missing} frames, its metadata says {frames}")
        length -= max(0, missing)  # a video may lack its last frame: that slot cannot be shown
        success = slots.pop("success")
        return minerl_episode(
            self.environment,
            Video(trajectory.video, trajectory.first_frame, length),
            {key: None if array is None else array[:length] for key, array in slots.items()},
            name,
            success,
        )


def minerl_tasks(environment: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tasks, and their labels where episodes have events."""
    if "Obtain" in environment:
        return TASKS, tuple(map(task_label, TASKS))
    return (("mine_log",) if "Treechop" in environment else (environment,)), ()


def minerl_episode(environment: str, frames: Any, slots: dict[str, Any], name: str, success: bool) -> Episode:
    task = minerl_tasks(environment)[0][0]
    return Episode(
        frames=frames,
        **slots,
        task=task if slots["events"] is None else EVERY_TASK,
        label="" if slots["events"] is not None else task_label(task) if task in TASKS else "navigate",
        source=name,
        noise=0.0,
        seed=_number_of(name),
        success=success,
    )


class _Lean:
    """Goes to other processes without what it has found out."""

    def __reduce__(self) -> tuple[Any, ...]:
        assert is_dataclass(self)
        return type(self), tuple(getattr(self, field.name) for field in fields(self))


@dataclass(frozen=True)
class VptSource(_Lean):
    """Segments of VPT's contractors, of an index or a folder."""

    source: Path
    shard: int = 32

    @property
    def about(self) -> dict[str, Any]:
        return {"kind": "vpt", "source": str(self.source.absolute())}

    @cached_property
    def _places(self) -> dict[str, Path | None]:
        return dict(find_segments(self.source))

    def names(self) -> list[str]:
        return sorted(self._places)

    def group(self, name: str) -> str:
        return re.sub(r"-\d{8}-\d{6}$", "", name)  # segments of one session

    def meta(self) -> Meta:
        return Meta(TASKS, VPT.spec, 360, 640, _FPS, VOCABULARY, tuple(map(task_label, TASKS)))

    def read(self, name: str) -> Episode:
        stem = self._places[name]
        if stem is None:
            raise UserError(f"{self.source}: the path {name} leaves the folder")
        video, lines = (stem.with_name(f"{stem.name}.{suffix}") for suffix in ("mp4", "jsonl"))
        for path in (video, lines):
            if not path.is_file():
                raise UserError(f"{path}: is not there")
        frames = _frames_in(video)
        segment = read_segment(lines, name)
        length = len(segment.actions)
        if frames != length:
            raise UserError(f"{video}: {frames} frames, but {lines.name} has {length} lines")
        cursor = segment.cursor(_shape(video)[0])
        return Episode(
            frames=Video(video, 0, length, cursor if (cursor >= 0).any() else None),
            actions=segment.actions,
            rewards=np.zeros(length, np.float32),  # the events are
            is_terminal=np.zeros(length, bool),  # the session goes on
            task=EVERY_TASK,
            label="",
            source=name,
            noise=0.0,
            seed=_number_of(name),
            success=bool(segment.events.any()),
            events=segment.events,
            camera=segment.camera,
            is_null=segment.is_null,
        )


@dataclass(frozen=True)
class VideoSource(_Lean):
    """Videos at any depth of a folder, without actions, all of one rate. The first that can be opened says the size."""

    folder: Path
    shard: int = 32

    @property
    def about(self) -> dict[str, Any]:
        return {"kind": "videos", "source": str(self.folder.absolute())}

    def names(self) -> list[str]:
        if not self.folder.is_dir():
            raise UserError(f"{self.folder} is no folder")
        paths = (path for path in self.folder.rglob("*") if path.suffix.lower() in _VIDEO_SUFFIXES)
        names = sorted(path.relative_to(self.folder).as_posix() for path in paths)
        if not names:
            raise UserError(f"no video in {self.folder}: files of {', '.join(_VIDEO_SUFFIXES)} are looked for")
        return names

    def group(self, name: str) -> str:
        return name

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, int, int]]:
        """Height, width and frames a second of those that can be opened; a `UserError` if rates differ."""
        shapes = {}
        for name in self.names():
            with contextlib.suppress(ValueError):
                shapes[name] = _shape(self.folder / name)
        shapes = {name: shape for name, shape in shapes.items() if min(shape) > 0}
        if not shapes:
            raise UserError(f"no video in {self.folder} can be opened")
        rates = Counter(fps for *_, fps in shapes.values())
        if len(rates) > 1:
            said = ", ".join(f"{count} of {fps}" for fps, count in rates.most_common())
            odd = next(name for name, (*_, fps) in shapes.items() if fps != rates.most_common(1)[0][0])
            raise UserError(
                f"{self.folder} has videos of different frames a second: {said} (such as {odd}); a dataset has one"
                f" rate: import them from folders of their own, or bring them to one (ffmpeg -i IN -vf fps={min(rates)}"
                " OUT)"
            )
        return shapes

    def meta(self) -> Meta:
        height, width, fps = next(iter(self._shapes.values()))
        return Meta(("video",), ActionSpec((2,)), height, width, fps, VOCABULARY)  # no action is read

    def read(self, name: str) -> Episode:
        path = self.folder / name
        length = _frames_in(path)
        return Episode(
            frames=Video(path, 0, length),
            actions=np.zeros((length, 1), np.int64),
            rewards=np.zeros(length, np.float32),
            is_terminal=np.zeros(length, bool),
            task="video",
            label="",
            source=name,
            noise=0.0,
            seed=_number_of(name),
            success=False,
            labelled=False,
        )
