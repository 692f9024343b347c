"""Plain videos as recordings without actions."""

import contextlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from embody.config import ActionSpec
from embody.data.dataset import PADDING, UNKNOWN, Meta
from embody.data.episode import Episode
from embody.data.sources.source import PickledByFields, count_frames, seed_from_name, video_shape
from embody.data.video import Video
from embody.errors import UserError

__all__ = ["VideoSource"]

_VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v")


@dataclass(frozen=True)
class VideoSource(PickledByFields):
    """Videos in a folder and its subfolders, all of one frame rate. The first readable one sets the frame size."""

    folder: Path
    shard_size: int = 32

    @property
    def provenance(self) -> dict[str, Any]:
        return {"kind": "videos", "source": str(self.folder.absolute())}

    def names(self) -> list[str]:
        if not self.folder.is_dir():
            raise UserError(f"{self.folder} is not a folder: name a folder of videos")
        paths = (path for path in self.folder.rglob("*") if path.suffix.lower() in _VIDEO_SUFFIXES)
        names = sorted(path.relative_to(self.folder).as_posix() for path in paths)
        if not names:
            raise UserError(f"no video in {self.folder}: add files with {', '.join(_VIDEO_SUFFIXES)}")
        return names

    def group(self, name: str) -> str:
        return name

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, int, int]]:
        """Height, width and frames a second of each readable video; a `UserError` if their rates differ."""
        shapes = {}
        for name in self.names():
            with contextlib.suppress(ValueError):
                shapes[name] = video_shape(self.folder / name)
        shapes = {name: shape for name, shape in shapes.items() if min(shape) > 0}
        if not shapes:
            raise UserError(f"no video in {self.folder} can be opened: check them with ffprobe")
        rates = Counter(fps for *_, fps in shapes.values())
        if len(rates) > 1:
            said = ", ".join(f"{count} of {fps}" for fps, count in rates.most_common())
            odd = next(name for name, (*_, fps) in shapes.items() if fps != rates.most_common(1)[0][0])
            raise UserError(
                f"{self.folder} has videos of different frame rates: {said} frames a second (such as {odd}): import"
                f" each rate from a folder of its own, or convert them (ffmpeg -i IN -vf fps={min(rates)} OUT)"
            )
        return shapes

    def meta(self) -> Meta:
        height, width, fps = next(iter(self._shapes.values()))
        return Meta(("video",), ActionSpec((2,)), height, width, fps, (PADDING, UNKNOWN))  # the actions are unused

    def read(self, name: str) -> Episode:
        path = self.folder / name
        length = count_frames(path)
        return Episode(
            frames=Video(path, 0, length),
            actions=np.zeros((length, 1), np.int64),
            rewards=np.zeros(length, np.float32),
            is_terminal=np.zeros(length, bool),
            task="video",
            label="",
            source=name,
            noise=0.0,
            seed=seed_from_name(name),
            success=False,
            labelled=False,
        )
