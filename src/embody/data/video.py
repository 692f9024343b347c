"""Exact random access to the frames of video files, by frame number, with PyAV.

To read a clip, the decoder seeks to the last key frame before it and decodes from there. Timestamps only tell where a
seek has landed. Frames are identified by counting, so the frame rate may be irregular.

Shapes: H W pixels, T timesteps of an episode.
"""

import functools
import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from embody.config import Fit
from embody.data.arrays import as_path, whole_number
from embody.data.container import VideoIndex, identity, index_video, open_video, readable
from embody.data.picture import Orientation, fitted, orientation_of, pixels, rgb_frame, shown_size
from embody.errors import UserError
from embody.saving.atomic_write import atomic_write

__all__ = ["OpenVideos", "Video", "reencode"]

_OPEN_FILES = 32  # in each process; a decoder of 360x640 video holds a few MiB
_GOP = 8  # frames between key frames of re-encoded files
_CRF = 18  # quality of re-encoded files: hardly distinguishable from the source

_ARROW = """
#...............
##..............
#o#.............
#oo#............
#ooo#...........
#oooo#..........
#ooooo#.........
#oooooo#........
#ooooooo#.......
#oooooooo#......
#ooooo####......
#oo#oo#.........
#o#.#oo#........
##..#oo#........
#....#oo#.......
.....###........
"""  # the mouse pointer, its tip at the top left: black around white


@dataclass(frozen=True)
class Video:
    """The frames of an episode of T = `length` timesteps in a video file: `start` to `start + length`, if not others.

    A video that was brought to another rate has `frame_numbers`: frames of the file may be left out, or repeated.
    """

    path: Path
    start: int  # number of the first timestep's frame in the file
    length: int
    # [T, 2]: x, y of the mouse pointer, in pixels of the file as it is shown; -1, -1: no pointer
    cursor: NDArray[np.int16] | None = None
    frame_numbers: NDArray[np.int32] | None = None  # [T]: the number of each timestep's frame, never decreasing

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", as_path(self.path, "a video's file"))
        for name, low in (("start", 0), ("length", 1)):
            object.__setattr__(self, name, whole_number(getattr(self, name), f"video {self.path}: {name}", low))
        if self.cursor is not None and (self.cursor.dtype != np.int16 or self.cursor.shape != (self.length, 2)):
            raise UserError(f"video {self.path}: cursor must be int16 [{self.length}, 2], got {self.cursor.shape}")
        numbers = self.frame_numbers
        if numbers is not None and (
            (numbers.dtype, numbers.shape, numbers[:1].tolist()) != (np.int32, (self.length,), [self.start])
            or (np.diff(numbers) < 0).any()
        ):
            raise UserError(
                f"video {self.path}: frame_numbers must be int32 [{self.length}], begin with {self.start} and never"
                " decrease"
            )

    @property
    def numbers(self) -> NDArray[np.integer]:
        """`[T]`: the number of each timestep's frame in the file."""
        return np.arange(self.start, self.start + self.length) if self.frame_numbers is None else self.frame_numbers


# --- decoding -------------------------------------------------------------------------------------------------------


class _File:
    """One open file. Decoding continues from the last call's position if no key frame is closer to the wanted frame."""

    def __init__(self, path: Path, index: VideoIndex) -> None:
        self.path, self.index, self.lock = path, index, threading.Lock()
        self.to_rgb, self.to_size = VideoReformatter(), VideoReformatter()
        self.places: dict[int | None, int] = dict(zip(index.pts.tolist(), index.keys.tolist(), strict=True))
        self._begin()

    def _begin(self) -> None:
        self.container, self.stream = open_video(self.path)
        self.pixel_aspect = self.stream.sample_aspect_ratio or Fraction(1)
        self.decoded: Iterator[av.VideoFrame] = self.container.decode(self.stream)
        self.at = 0  # number of the next frame to decode

    def read(self, video: Video, height: int, width: int, fit: Fit) -> NDArray[np.uint8]:
        """The frames of `video` with their pointers."""
        out = np.empty((video.length, height, width, 3), np.uint8)
        numbers = video.numbers.tolist()
        with self.lock, readable(self.path):
            if numbers[-1] >= self.index.frames:
                raise UserError(
                    f"video {self.path} has {self.index.frames} frames: frames {numbers[0]} to {numbers[-1] + 1} do not"
                    " exist"
                )
            self.move_to(numbers[0])
            for place, number in enumerate(numbers):
                if place == 0 or number != numbers[place - 1]:
                    frame = self.frame(number)
                elif video.cursor is None:
                    out[place] = out[place - 1]
                    continue
                pointer = None if video.cursor is None or (video.cursor[place] < 0).all() else video.cursor[place]
                out[place] = self._pixels(frame, (height, width), fit, pointer)
        return out

    def move_to(self, number: int) -> None:
        """Prepare to decode frame `number`: seek, unless decoding on reaches it sooner."""
        key = int(np.searchsorted(self.index.keys, number, side="right")) - 1
        if not self.index.keys[key] <= self.at <= number:
            self._seek(key)

    def frame(self, number: int) -> av.VideoFrame:
        """Frame `number`, by decoding on up to it."""
        while self.at < number:
            self._next()
        return self._next()

    def _seek(self, key: int) -> None:
        """Move to key frame number `key`, or to an earlier key frame."""
        if key:
            self.container.seek(int(self.index.pts[key]), stream=self.stream)
            self.decoded = self.container.decode(self.stream)
            frame = next(self.decoded, None)
            landed = None if frame is None else self.places.get(frame.pts)
            if frame is not None and landed is not None and landed <= self.index.keys[key]:
                self.decoded, self.at = itertools.chain([frame], self.decoded), landed
                return
        self.container.close()
        self._begin()

    def _next(self) -> av.VideoFrame:
        frame = next(self.decoded, None)
        if frame is None:
            at, self.at = self.at, self.index.frames + 1
            raise UserError(f"video {self.path} ends at frame {at} of {self.index.frames}: import the recordings again")
        self.at += 1
        return frame

    def _pixels(
        self, frame: av.VideoFrame, size: tuple[int, int], fit: Fit, pointer: NDArray[np.int16] | None
    ) -> NDArray[np.uint8]:
        orientation = orientation_of(frame)
        shown = shown_size(frame.height, frame.width, orientation, self.pixel_aspect)
        # Convert to RGB first, then resize: doing both at once, swscale would halve the chroma of the resized frame.
        rgb = self.to_rgb.reformat(frame, format="rgb24", interpolation=Interpolation.AREA, threads=1)
        if pointer is not None or orientation != Orientation():
            own = orientation.apply(pixels(rgb)).copy()  # the decoder may still need its frame
            if pointer is not None:
                draw_pointer(own, int(pointer[0]), int(pointer[1]))
            rgb = rgb_frame(own)
        return fitted(rgb, shown, size, fit, self.to_size)


class OpenVideos:
    """Reads frames of many files and keeps the most recently used ones open. Each forked process opens its own."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, _File] = OrderedDict()
        self._pid, self._lock = os.getpid(), threading.Lock()

    def read(self, video: Video, index: VideoIndex, known: str, height: int, width: int, fit: Fit) -> NDArray[np.uint8]:
        """The frames of `video` as players show them, uint8 `[length, height, width, 3]`; see `fitted` for `fit`.

        The pointer is drawn before resizing. The result does not depend on earlier calls. A `UserError` if the file is
        missing or cannot be decoded, or if its `identity` is not `known`.
        """
        return self._file(video.path, index, known).read(video, height, width, fit)

    def _file(self, path: Path, index: VideoIndex, known: str) -> _File:
        if self._pid != os.getpid():  # after a fork: the parent's decoders and locks must not be used
            self._files, self._pid, self._lock = OrderedDict(), os.getpid(), threading.Lock()
        with self._lock:
            if path not in self._files:
                if identity(path) != known:
                    raise UserError(
                        f"video {path} has changed since the import: restore it, or import the recordings again"
                    )
                with readable(path):
                    self._files[path] = _File(path, index)
                if len(self._files) > _OPEN_FILES:
                    self._files.popitem(last=False)
            self._files.move_to_end(path)
            return self._files[path]


# --- the pointer ----------------------------------------------------------------------------------------------------


@functools.cache
def _arrow() -> NDArray[np.str_]:
    return np.array([list(row) for row in _ARROW.split()])


def draw_pointer(frame: NDArray[np.uint8], x: int, y: int) -> None:
    """Draw a 16x16 arrow into `frame` `[H, W, 3]`, with its tip at pixel (x, y), clipped at the borders."""
    arrow = _arrow()[: max(0, frame.shape[0] - y), : max(0, frame.shape[1] - x)][max(0, -y) :, max(0, -x) :]
    into = frame[max(0, y) :, max(0, x) :][: arrow.shape[0], : arrow.shape[1]]
    into[arrow == "#"], into[arrow == "o"] = 0, 255


# --- re-encoding ----------------------------------------------------------------------------------------------------


def reencode(source: Video, target: Path, *, fps: int = 20) -> Video:
    """Write the episode's frames to `target`, an MP4 for random access: H.264, GOP 8, no B-frames, faststart.

    Frames are turned and mirrored as players show them; the shape of their pixels is kept, and written to the file. The
    pointer is not drawn; the returned `Video` has the same `cursor`. An odd height or width loses a row or column, as
    H.264 halves the chroma. The file is written atomically. A `UserError` if the source cannot be read.
    """
    index, numbers = index_video(source.path), source.numbers
    if numbers[-1] >= index.frames:
        raise UserError(f"video {source.path} has {index.frames} frames, the episode needs {numbers[-1] + 1}")
    with readable(source.path), atomic_write(target) as path:
        file = _File(source.path, index)
        file.move_to(source.start)
        frame = file.frame(source.start)
        orientation = orientation_of(frame)
        height, width = (frame.width, frame.height) if orientation.swapped else (frame.height, frame.width)
        with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=fps)
            stream.height, stream.width, stream.pix_fmt = height // 2 * 2, width // 2 * 2, "yuv420p"
            if file.pixel_aspect != 1:
                aspect = 1 / file.pixel_aspect if orientation.swapped else file.pixel_aspect
                stream.codec_context.sample_aspect_ratio = aspect
            stream.options = {"crf": str(_CRF), "bf": "0", "g": str(_GOP), "keyint_min": str(_GOP), "sc_threshold": "0"}
            for place, number in enumerate(numbers):
                if place and number != numbers[place - 1]:
                    frame = file.frame(number)
                upright = frame
                if orientation != Orientation():
                    upright = rgb_frame(orientation.apply(pixels(frame.reformat(format="rgb24"))))
                encoded = upright.reformat(stream.width, stream.height, "yuv420p")
                encoded.pts, encoded.time_base = place, Fraction(1, fps)
                encoded.pict_type = av.video.frame.PictureType.NONE
                container.mux(stream.encode(encoded))
            container.mux(stream.encode(None))
        file.container.close()
    return Video(target, 0, source.length, source.cursor)
