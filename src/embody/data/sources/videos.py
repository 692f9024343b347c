"""Plain videos as recordings without actions."""

import contextlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from embody.config import ActionSpec, Fit
from embody.data.container import open_video, readable
from embody.data.dataset import PADDING, UNKNOWN, Meta
from embody.data.episode import Episode
from embody.data.picture import change_of_shape
from embody.data.rates import frames_at_rate, mean_rate
from embody.data.sources.source import (
    PickledByFields,
    is_hidden,
    most_common_rate,
    seed_from_name,
    video_shape,
    video_times,
)
from embody.data.video import Video
from embody.errors import UserError

__all__ = ["VideoSource"]

# A file with such a suffix counts as a recording, and is reported if it is broken. Other files count if they hold a
# video.
_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .qt .3gp .3g2 .mkv .webm .avi .mpg .mpeg .m2v .ts .mts .m2ts .vob .flv .f4v .wmv .asf .ogv .rm"
    " .rmvb .gif .apng .mxf .nut .y4m .ivf .h264 .264 .h265 .265 .hevc .dv".split()
)
_ROUNDED = 0.001  # seconds; some containers round their timestamps to this


@dataclass(frozen=True)
class VideoSource(PickledByFields):
    """Videos in a folder and its subfolders. The first readable one sets the frame size."""

    folder: Path
    shard_size: int = 32
    fit: Fit = "letterbox"  # how videos of another shape become frames
    fps: int | None = None  # the rate to which all videos are converted; None: the most common rate, rounded

    @property
    def provenance(self) -> dict[str, Any]:
        return {"kind": "videos", "source": str(self.folder.absolute()), "fit": self.fit, "fps": self.fps}

    def names(self) -> list[str]:
        if not self.folder.is_dir():
            raise UserError(f"{self.folder} is not a folder: name a folder of videos")
        if not self._listed[0]:
            raise UserError(f"no video in {self.folder}: add files such as .mp4, .mkv, .webm, .mov or .avi")
        return self._listed[0]

    def other_files(self) -> dict[str, str]:
        return self._listed[1]

    @cached_property
    def _listed(self) -> tuple[list[str], dict[str, str]]:
        """The sorted names of the videos; and each other file, with the reason why it is not a recording."""
        names: list[str] = []
        others: dict[str, str] = {}

        def unreadable(error: OSError) -> None:
            others[os.path.relpath(error.filename, self.folder)] = f"cannot be read ({error.strerror})"

        for base, folders, files in os.walk(self.folder, onerror=unreadable):
            for path in (Path(base, name) for name in (*folders, *files)):
                name = path.relative_to(self.folder).as_posix()
                reason = _why_no_recording(path)
                if reason is None:
                    names.append(name)
                elif reason:
                    others[name.encode(errors="replace").decode()] = reason
            folders[:] = [folder for folder in folders if not is_hidden(folder)]
        return sorted(names), dict(sorted(others.items()))

    def group(self, name: str) -> str:
        return name

    @cached_property
    def _rate(self) -> int:
        rate = self.fps or most_common_rate(self.folder / name for name in self.names())
        if not rate:
            raise UserError(f"no video in {self.folder} declares its frames a second: set --fps")
        return rate

    @cached_property
    def _shape(self) -> tuple[int, int]:
        """Height and width in pixels of the first readable video."""
        for name in self.names():
            with contextlib.suppress(UserError):
                return video_shape(self.folder / name)
        raise UserError(f"no video in {self.folder} can be opened: check them with ffprobe")

    def meta(self) -> Meta:
        vocabulary = (PADDING, UNKNOWN)
        return Meta(("video",), ActionSpec((2,)), *self._shape, self._rate, vocabulary, fit=self.fit)  # actions: unused

    def read(self, name: str) -> Episode:
        path, meta = self.folder / name, self.meta()
        times = video_times(path)
        frames = len(times) - 1
        shown = frames_at_rate(times, meta.fps)
        length, rate = len(shown), f"{mean_rate(times):.2f}"
        is_whole = np.array_equal(shown, np.arange(frames))
        changes = change_of_shape(video_shape(path), (meta.height, meta.width), meta.fit)
        if not is_whole:
            changes += (f"{frames} frames, {rate} a second, became {length}, {meta.fps} a second, by their timestamps",)
        elif abs(times[-2] - (frames - 1) / meta.fps) > _ROUNDED:
            changes += (f"{rate} frames a second are taken for {meta.fps}",)
        return Episode(
            frames=Video(path, int(shown[0]), length, None, None if is_whole else shown),
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
            changes=changes,
        )


def _why_no_recording(path: Path) -> str | None:
    """Why `path` is not taken for a video: None if it is (it may still be broken), "" if nobody would expect it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if is_hidden(path.name):
        return "hidden"
    if path.is_dir():
        if path.is_symlink():
            return "a link to a folder, which is not followed"
        return "a folder" if path.suffix.lower() in _SUFFIXES else ""
    if path.suffix.lower() in _SUFFIXES:
        return None
    try:
        with readable(path):
            open_video(path)[0].close()
    except UserError:
        return "not a video"
    return None
