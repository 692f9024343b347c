"""Exact random access to the frames of video files, by frame number, with PyAV.

A file is demuxed once, when its dataset is written, to find the key frames from which decoding can start
(`VideoIndex`). To read a clip, the decoder seeks to the last key frame before it and decodes from there. Timestamps
only tell where a seek has landed. Frames are identified by counting, so the frame rate may be irregular.

Shapes: H W pixels, T timesteps of an episode.
"""

import functools
import hashlib
import itertools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from embody.errors import UserError
from embody.saving.atomic_write import atomic_write

__all__ = ["OpenVideos", "Video", "VideoIndex", "identity", "index_video", "reencode"]

_OPEN_FILES = 32  # in each process; a decoder of 360x640 video holds a few MiB
_HEAD = 2**16  # bytes at each end of a file that are hashed to notice changes
_SHORT = 0.5  # seconds by which a complete file may end before its declared duration
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
    """The frames of an episode of T = `length` timesteps: frames `start` to `start + length` of a video file."""

    path: Path
    start: int
    length: int
    cursor: NDArray[np.int16] | None = (
        None  # [T, 2]: x, y of the mouse pointer, in pixels of the file; -1, -1: no pointer
    )

    def __post_init__(self) -> None:
        if self.start < 0 or self.length < 1:
            raise UserError(
                f"video {self.path}: start {self.start} must be at least 0, and length {self.length} at least 1"
            )
        if self.cursor is not None and (self.cursor.dtype != np.int16 or self.cursor.shape != (self.length, 2)):
            raise UserError(f"video {self.path}: cursor must be int16 [{self.length}, 2], got {self.cursor.shape}")


@dataclass(frozen=True)
class VideoIndex:
    """The number of frames of a file, and those from which decoding can start: frame `keys[i]` has timestamp `pts[i]`.

    Frame 0 is always one of them. It is the only one if timestamps are missing or not unique, as seeking needs them.
    """

    frames: int
    keys: NDArray[np.int64]  # [K], ascending, keys[0] = 0
    pts: NDArray[np.int64]  # [K], in the stream's time base


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn FFmpeg's errors about `path` into a `UserError` of one line."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"video {path} is missing: restore it, or import the recordings again") from error
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(
            f"video {path} cannot be read ({reason}): it is truncated or not a video; leave it out"
        ) from error


def _open(path: Path) -> tuple[av.container.InputContainer, av.VideoStream]:
    container = av.open(str(path))
    if not container.streams.video:
        container.close()
        raise UserError(f"video {path} has no video stream: leave it out")
    stream = container.streams.video[0]
    stream.thread_type = "NONE"  # loading already runs in many processes
    return container, stream


def index_video(path: Path) -> VideoIndex:
    """Count the frames of a file and find its key frames: reads the file once, without decoding.

    A `UserError` if it cannot be opened, has no video stream or no frame, or is truncated.
    """
    with _readable(path):
        container, stream = _open(path)
        with container:
            listed = len(stream.index_entries) if "mp4" in container.format.name else 0
            found, is_cut, end = 0, False, 0.0
            shown: list[tuple[int | None, bool]] = []
            for packet in container.demux():
                if packet.size and packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.size and packet.stream_index == stream.index:
                    found += 1
                    is_cut |= packet.is_corrupt
                    if not packet.is_discard:
                        shown.append((packet.pts, packet.is_keyframe))
            # Matroska has no list of frames, but declares the duration of its longest stream.
            declared = (container.duration or 0) / av.time_base if "matroska" in container.format.name else 0.0
            if is_cut or found < listed or end < declared - _SHORT:
                count = f"{found} of {listed}" if listed else f"only {found}"
                raise UserError(f"video {path} is truncated: it holds {count} frames; leave it out")
    if not shown:
        raise UserError(f"video {path} has no frame: leave it out")
    times = [pts for pts, _ in shown if pts is not None]
    if len(set(times)) < len(shown):
        return VideoIndex(len(shown), np.zeros(1, np.int64), np.zeros(1, np.int64))
    pts, is_key = np.array(times, np.int64), np.array([key for _, key in shown])
    # Packets come in decoding order. Decoding can start at a key frame if every packet before it is also shown before
    # it, and every packet after it is shown after it; its number is then the same in both orders.
    before = np.maximum.accumulate(np.concatenate([[np.iinfo(np.int64).min], pts[:-1]]))
    after = np.minimum.accumulate(pts[::-1])[::-1]
    is_key &= (before < pts) & (after == pts)
    is_key[0] = True
    keys = np.flatnonzero(is_key)
    first = np.concatenate([[pts.min()], pts[keys[1:]]])
    return VideoIndex(len(shown), keys, first)


def identity(path: Path) -> str:
    """Size of the file and a hash of both its ends, so that large files need not be read to notice a change."""
    with _readable(path), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        content = hashlib.sha256(file.read(_HEAD))
        file.seek(max(0, size - _HEAD))
        content.update(file.read())
    return f"{size}-{content.hexdigest()[:16]}"


# --- decoding -------------------------------------------------------------------------------------------------------


class _File:
    """One open file. Decoding continues from the last call's position if no key frame is closer to the wanted frame."""

    def __init__(self, path: Path, index: VideoIndex) -> None:
        self.path, self.index, self.lock = path, index, threading.Lock()
        self.to_rgb, self.to_size = VideoReformatter(), VideoReformatter()
        self.places: dict[int | None, int] = dict(zip(index.pts.tolist(), index.keys.tolist(), strict=True))
        self._begin()

    def _begin(self) -> None:
        self.container, self.stream = _open(self.path)
        self.decoded: Iterator[av.VideoFrame] = self.container.decode(self.stream)
        self.at = 0  # number of the next frame to decode

    def read(
        self, start: int, stop: int, height: int, width: int, cursor: NDArray[np.int16] | None
    ) -> NDArray[np.uint8]:
        """Frames `start` to `stop` with their pointers, `cursor` `[stop - start, 2]`."""
        out = np.empty((stop - start, height, width, 3), np.uint8)
        with self.lock, _readable(self.path):
            if not start <= stop <= self.index.frames:
                raise UserError(
                    f"video {self.path} has {self.index.frames} frames: frames {start} to {stop} do not exist"
                )
            key = int(np.searchsorted(self.index.keys, start, side="right")) - 1
            if not self.index.keys[key] <= self.at <= start:
                self._seek(key)
            while self.at < start:
                self._next()
            for place in range(stop - start):
                pointer = None if cursor is None or (cursor[place] < 0).all() else cursor[place]
                out[place] = self._pixels(self._next(), height, width, pointer)
        return out

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
        self, frame: av.VideoFrame, height: int, width: int, pointer: NDArray[np.int16] | None
    ) -> NDArray[np.uint8]:
        # Convert to RGB first, then resize: doing both at once, swscale would halve the chroma of the resized frame.
        rgb = self.to_rgb.reformat(frame, format="rgb24", interpolation=Interpolation.AREA, threads=1)
        if pointer is not None:
            own = _view(rgb).copy()  # the decoder may still need its frame
            draw_pointer(own, int(pointer[0]), int(pointer[1]))
            rgb = av.VideoFrame.from_ndarray(own, "rgb24")
        return _view(self.to_size.reformat(rgb, width, height, interpolation=Interpolation.AREA, threads=1))


def _view(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """The pixels of an rgb24 frame, `[H, W, 3]`, without a copy."""
    plane = frame.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(frame.height, plane.line_size)
    return rows[:, : 3 * frame.width].reshape(frame.height, frame.width, 3)


class OpenVideos:
    """Reads frames of many files and keeps the most recently used ones open. Each forked process opens its own."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, _File] = OrderedDict()
        self._pid, self._lock = os.getpid(), threading.Lock()

    def read(self, video: Video, index: VideoIndex, known: str, height: int, width: int) -> NDArray[np.uint8]:
        """The frames of `video`, uint8 `[length, height, width, 3]`; the pointer is drawn before resizing.

        Frames are resized by FFmpeg's area filter (`SWS_AREA`), the mean of the pixels that a new pixel covers. The
        result does not depend on earlier calls. A `UserError` if the file is missing or cannot be decoded, or if its
        `identity` is not `known`.
        """
        file = self._file(video.path, index, known)
        return file.read(video.start, video.start + video.length, height, width, video.cursor)

    def _file(self, path: Path, index: VideoIndex, known: str) -> _File:
        if self._pid != os.getpid():  # after a fork: the parent's decoders and locks must not be used
            self._files, self._pid, self._lock = OrderedDict(), os.getpid(), threading.Lock()
        with self._lock:
            if path not in self._files:
                if identity(path) != known:
                    raise UserError(
                        f"video {path} has changed since the import: restore it, or import the recordings again"
                    )
                with _readable(path):
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

    The pointer is not drawn; the returned `Video` has the same `cursor`. An odd height or width loses a row or column,
    as H.264 halves the chroma. The file is written atomically. A `UserError` if the source cannot be read.
    """
    index = index_video(source.path)
    if source.start + source.length > index.frames:
        raise UserError(
            f"video {source.path} has {index.frames} frames, the episode needs {source.start + source.length}"
        )
    with _readable(source.path), atomic_write(target) as path:
        file = _File(source.path, index)
        key = int(np.searchsorted(index.keys, source.start, side="right")) - 1
        file._seek(key)
        while file.at < source.start:
            file._next()
        size = file.stream.height // 2 * 2, file.stream.width // 2 * 2
        with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = container.add_stream("libx264", rate=fps)
            stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
            stream.options = {"crf": str(_CRF), "bf": "0", "g": str(_GOP), "keyint_min": str(_GOP), "sc_threshold": "0"}
            for number in range(source.length):
                frame = file._next().reformat(size[1], size[0], "yuv420p")
                frame.pts, frame.time_base = number, Fraction(1, fps)
                frame.pict_type = av.video.frame.PictureType.NONE
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        file.container.close()
    return Video(target, 0, source.length, source.cursor)
