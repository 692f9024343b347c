"""Minecraft's recordings as sources of episodes: MineRL's trajectories and VPT's segments."""

import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from embody.config import Fit
from embody.data import EVERY_TASK, Episode, Meta, Video
from embody.data.picture import change_of_shape
from embody.data.rates import at_rate
from embody.data.sources.source import (
    PickledByFields,
    count_frames,
    is_hidden,
    most_common_rate,
    seed_from_name,
    video_rate,
    video_shape,
)
from embody.errors import UserError
from embody.games.minecraft.actions import VPT, minerl_space
from embody.games.minecraft.minerl import find_trajectories, read_trajectory
from embody.games.minecraft.minerl.trajectory import POV
from embody.games.minecraft.tasks import TASKS, VOCABULARY, task_label
from embody.games.minecraft.vpt import find_segments, read_segment

__all__ = ["MinerlSource", "VptSource", "minerl_episode", "minerl_tasks", "stream_of"]

_FPS = 20  # frames a second of the game


def stream_of(trajectory: str) -> str:
    """The name of the stream (one player's recording) that MineRL's trajectory `NAME_START-END` is a part of."""
    return re.sub(r"_\d+-\d+$", "", trajectory)


@dataclass(frozen=True)
class MinerlSource:
    """The trajectories of one MineRL 0.4.4 environment, in `root/environment`."""

    root: Path
    environment: str
    shard_size: int = 32  # episodes of a shard

    @property
    def provenance(self) -> dict[str, Any]:
        return {"kind": "minerl", "source": str(self.root.absolute()), "environment": self.environment}

    @property
    def _folder(self) -> Path:
        return self.root / self.environment

    def names(self) -> list[str]:
        return sorted(p.relative_to(self._folder).as_posix() for p in find_trajectories(self.root, self.environment))

    def other_files(self) -> dict[str, str]:
        return {}

    def group(self, name: str) -> str:
        return stream_of(name)

    def meta(self) -> Meta:
        tasks, labels = minerl_tasks(self.environment)
        return Meta(tasks, minerl_space(self.environment).spec, *POV, _FPS, VOCABULARY, labels, "stretch")

    def read(self, name: str) -> Episode:
        trajectory = read_trajectory(self._folder / name, self.environment)
        length, changes = trajectory.shown(count_frames(trajectory.video))
        timesteps = trajectory.cut(length - 1).timesteps()
        success = timesteps.pop("success")
        video = Video(trajectory.video, trajectory.first_frame, length)
        return replace(minerl_episode(self.environment, video, timesteps, name, success), changes=changes)


def minerl_tasks(environment: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The tasks of an environment, and their labels; labels are empty where recordings have no events."""
    if "Obtain" in environment:
        return TASKS, tuple(map(task_label, TASKS))
    return (("mine_log",) if "Treechop" in environment else (environment,)), ()


def minerl_episode(environment: str, frames: Any, timesteps: dict[str, Any], name: str, success: bool) -> Episode:
    """An episode from the fields of `Trajectory.timesteps`, except "success"."""
    task = minerl_tasks(environment)[0][0]
    return Episode(
        frames=frames,
        **timesteps,
        task=task if timesteps["events"] is None else EVERY_TASK,
        label="" if timesteps["events"] is not None else task_label(task) if task in TASKS else "navigate",
        source=name,
        noise=0.0,
        seed=seed_from_name(name),
        success=success,
    )


@dataclass(frozen=True)
class VptSource(PickledByFields):
    """The segments of VPT's contractors in a folder or an index file."""

    source: Path  # the folder or the index
    shard_size: int = 32  # episodes of a shard
    fit: Fit = "stretch"  # how frames become those of another shape; the simulator stretches its frames, too
    fps: int | None = None  # timesteps a second to which all are brought; None: the most common rate, rounded

    @property
    def provenance(self) -> dict[str, Any]:
        return {"kind": "vpt", "source": str(self.source.absolute()), "fit": self.fit, "fps": self.fps}

    @cached_property
    def _places(self) -> dict[str, Path | None]:
        return dict(find_segments(self.source))

    def names(self) -> list[str]:
        return sorted(self._places)

    def other_files(self) -> dict[str, str]:
        others = {}
        for path in sorted(self.source.rglob("*")) if self.source.is_dir() else ():
            inside = path.relative_to(self.source)
            is_other = path.suffix not in (".mp4", ".jsonl") or is_hidden(path.name)
            if is_other and not path.is_dir() and not any(map(is_hidden, inside.parts[:-1])):
                name = inside.as_posix().encode(errors="replace").decode()
                others[name] = "hidden" if is_hidden(path.name) else "neither .mp4 nor .jsonl"
        return others

    def group(self, name: str) -> str:
        return re.sub(r"-\d{8}-\d{6}$", "", name)  # segments of one session

    @cached_property
    def _rate(self) -> int:
        videos = (stem.with_name(f"{stem.name}.mp4") for stem in self._places.values() if stem)
        return self.fps or most_common_rate(videos) or _FPS

    def meta(self) -> Meta:
        return Meta(TASKS, VPT.spec, 360, 640, self._rate, VOCABULARY, tuple(map(task_label, TASKS)), self.fit)

    def read(self, name: str) -> Episode:
        stem = self._places[name]
        if stem is None:
            raise UserError(f"{self.source}: the path {name} is outside the folder of the recordings, or not a path")
        video, lines = (stem.with_name(f"{stem.name}.{suffix}") for suffix in ("mp4", "jsonl"))
        for path in (video, lines):
            if not path.exists():
                raise UserError(f"{path}: the file is missing")
        frames = count_frames(video)
        segment = read_segment(lines, name, frames)
        length = len(segment.actions)
        shape, meta = video_shape(video), self.meta()
        cursor = segment.cursor(shape[0])
        episode = Episode(
            frames=Video(video, 0, length, cursor if (cursor >= 0).any() else None),
            actions=segment.actions,
            rewards=np.zeros(length, np.float32),  # there are events instead
            is_terminal=np.zeros(length, bool),  # the player's session continues in the next segment
            task=EVERY_TASK,
            label="",
            source=name,
            noise=0.0,
            seed=seed_from_name(name),
            success=bool(segment.events.any()),
            events=segment.events,
            camera=segment.camera,
            is_null=segment.is_null,
            changes=(*segment.changes, *change_of_shape(shape, (meta.height, meta.width), meta.fit)),
        )
        return at_rate(episode, video_rate(video), meta.fps)
