"""Frames that stay in video files: any frame by its number, exactly, through PyAV.

A file is demuxed once, when a dataset is written, to learn where decoding may begin (`VideoIndex`). A clip is then read
by seeking to the last such place before it and decoding on. Timestamps say where a seek has landed, never which frame
is which: frames are counted, so that their rate may be irregular. H W pixels, T timesteps of an episode.
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

_OPEN_FILES = 32  # a process; a decoder of 360x640 holds a few MiB
_HEAD = 2**16  # bytes at each end that tell whether a file has changed
_SHORT = 0.5  # seconds by which the parts of a whole file may end before its declared duration
_GOP = 8  # frames between key frames of re-encoded files
_CRF = 18  # quality of re-encoded files: hardly to be told from the source

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
    """An episode's frames in a file: its T = `length` timesteps show frames `start` to `start + length` of the file."""

    path: Path
    start: int
    length: int
    cursor: NDArray[np.int16] | None = None  # [T, 2]: x, y of the pointer to draw, pixels of the file; -1, -1 is none

    def __post_init__(self) -> None:
        if self.start < 0 or self.length < 1:
            raise UserError(f"video {self.path}: frames {self.start} and {self.length} more are none to read")
        if self.cursor is not None and (self.cursor.dtype != np.int16 or self.cursor.shape != (self.length, 2)):
            raise UserError(f"video {self.path}: cursor must be int16 [{self.length}, 2], got {self.cursor.shape}")


@dataclass(frozen=True)
class VideoIndex:
    """How many frames a file has, and where decoding may begin: frame `keys[i]` at timestamp `pts[i]`; frame 0 always.

    Files whose timestamps are missing or not unique, which no seek can trust, begin at frame 0 alone.
    """

    frames: int
    keys: NDArray[np.int64]  # [K], ascending, keys[0] = 0
    pts: NDArray[np.int64]  # [K], in the stream's own units


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What FFmpeg says of a broken file, as a `UserError` of one line."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(f"video {path} is not there: put it back, or import it anew") from error
    except (av.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"video {path} cannot be read ({reason}): it is no video or cut off; leave it out") from error


def _open(path: Path) -> tuple[av.container.InputContainer, av.VideoStream]:
    container = av.open(str(path))
    if not container.streams.video:
        container.close()
        raise UserError(f"video {path} has no video stream: leave it out")
    stream = container.streams.video[0]
    stream.thread_type = "NONE"  # loading processes are many already
    return container, stream


def index_video(path: Path) -> VideoIndex:
    """Counts the frames of a file and finds its seekable ones, without decoding: reads the file once.

    A `UserError` of one line if it cannot be opened, has no video stream, no frame, or is cut off.
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
            # Matroska lists no frames, but declares how long its longest stream is.
            declared = (container.duration or 0) / av.time_base if "matroska" in container.format.name else 0.0
            if is_cut or found < listed or end < declared - _SHORT:
                count = f"{found} of {listed}" if listed else f"only {found}"
                raise UserError(f"video {path} is cut off: {count} frames are there; leave it out")
    if not shown:
        raise UserError(f"video {path} has no frame: leave it out")
    times = [pts for pts, _ in shown if pts is not None]
    if len(set(times)) < len(shown):
        return VideoIndex(len(shown), np.zeros(1, np.int64), np.zeros(1, np.int64))
    pts, is_key = np.array(times, np.int64), np.array([key for _, key in shown])
    # Packets come in the order of decoding. A key frame will do if all before it are shown before it, and all after
    # it after it: then its place in both orders is the same.
    before = np.maximum.accumulate(np.concatenate([[np.iinfo(np.int64).min], pts[:-1]]))
    after = np.minimum.accumulate(pts[::-1])[::-1]
    is_key &= (before < pts) & (after == pts)
    is_key[0] = True
    keys = np.flatnonzero(is_key)
    first = np.concatenate([[pts.min()], pts[keys[1:]]])
    return VideoIndex(len(shown), keys, first)


def identity(path: Path) -> str:
    """Size and a hash of both ends: changes if the file does, and needs no reading of gigabytes."""
    with _readable(path), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        content = hashlib.sha256(file.read(_HEAD))
        file.seek(max(0, size - _HEAD))
        content.update(file.read())
    return f"{size}-{content.hexdigest()[:16]}"


# --- decoding -------------------------------------------------------------------------------------------------------


class _File:
    """One open file. Frames are decoded on from where the last call stopped, where that is the shortest way."""

    def __init__(self, path: Path, index: VideoIndex) -> None:
        self.path, self.index, self.lock = path, index, threading.Lock()
        self.to_rgb, self.to_size = VideoReformatter(), VideoReformatter()
        self.places: dict[int | None, int] = dict(zip(index.pts.tolist(), index.keys.tolist(), strict=True))
        self._begin()

    def _begin(self) -> None:
        self.container, self.stream = _open(self.path)
        self.decoded: Iterator[av.VideoFrame] = self.container.decode(self.stream)
        self.at = 0  # number of the next frame

    def read(
        self, start: int, stop: int, height: int, width: int, cursor: NDArray[np.int16] | None
    ) -> NDArray[np.uint8]:
        """Frames `start` to `stop`; `cursor` [n, 2] is theirs."""
        out = np.empty((stop - start, height, width, 3), np.uint8)
        with self.lock, _readable(self.path):
            if not start <= stop <= self.index.frames:
                raise UserError(f"video {self.path} has {self.index.frames} frames, {start} to {stop} are asked for")
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
        """Stand at the key frame, or anywhere before it whose number is certain."""
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
            raise UserError(f"video {self.path} ends at frame {at} of {self.index.frames}: import it anew")
        self.at += 1
        return frame

    def _pixels(
        self, frame: av.VideoFrame, height: int, width: int, pointer: NDArray[np.int16] | None
    ) -> NDArray[np.uint8]:
        # Colours first: resizing as it converts them, swscale halves the width of the new frame's colours too.
        rgb = self.to_rgb.reformat(frame, format="rgb24", interpolation=Interpolation.AREA, threads=1)
        if pointer is not None:
            own = _view(rgb).copy()  # a decoder may need its frame again
            draw_pointer(own, int(pointer[0]), int(pointer[1]))
            rgb = av.VideoFrame.from_ndarray(own, "rgb24")
        return _view(self.to_size.reformat(rgb, width, height, interpolation=Interpolation.AREA, threads=1))


def _view(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """The pixels of a rgb24 frame, `[H, W, 3]`, where they are."""
    plane = frame.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(frame.height, plane.line_size)
    return rows[:, : 3 * frame.width].reshape(frame.height, frame.width, 3)


class OpenVideos:
    """Reads frames of many files, keeping the last used open; each process that it is forked into opens its own."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, _File] = OrderedDict()
        self._pid, self._lock = os.getpid(), threading.Lock()

    def read(self, video: Video, index: VideoIndex, known: str, height: int, width: int) -> NDArray[np.uint8]:
        """The frames of `video`, uint8 `[length, height, width, 3]`, the pointer drawn, then resized.

        Sizes are changed by FFmpeg's area filter (`SWS_AREA`): the mean of the pixels that a new one covers. The same
        frame gives the same pixels, whatever was read before. A `UserError` of one line if the file is not there,
        cannot be decoded, or is no longer the one whose `identity` was `known`.
        """
        file = self._file(video.path, index, known)
        return file.read(video.start, video.start + video.length, height, width, video.cursor)

    def _file(self, path: Path, index: VideoIndex, known: str) -> _File:
        if self._pid != os.getpid():  # decoders and locks of the parent are not ours
            self._files, self._pid, self._lock = OrderedDict(), os.getpid(), threading.Lock()
        with self._lock:
            if path not in self._files:
                if identity(path) != known:
                    raise UserError(f"video {path} has changed since it was imported: put it back, or import it anew")
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
    """A 16x16 arrow into `frame` `[H, W, 3]`, its tip at (x, y); what lies outside is cut."""
    arrow = _arrow()[: max(0, frame.shape[0] - y), : max(0, frame.shape[1] - x)][max(0, -y) :, max(0, -x) :]
    into = frame[max(0, y) :, max(0, x) :][: arrow.shape[0], : arrow.shape[1]]
    into[arrow == "#"], into[arrow == "o"] = 0, 255


# --- re-encoding ----------------------------------------------------------------------------------------------------


def reencode(source: Video, target: Path, *, fps: int = 20) -> Video:
    """The episode's frames alone in an MP4 made for random access: H.264, a key frame every 8, no B-frames, faststart.

    The pointer is not drawn in, but kept with what is returned. An odd size loses a row or column: H.264 halves the
    colours. A `UserError` if the source cannot be read. Written aside, then renamed.
    """
    index = index_video(source.path)
    if source.start + source.length > index.frames:
        raise UserError(f"video {source.path} has {index.frames} frames, {source.start + source.length} are asked for")
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
