"""Video files as containers: which of their streams is the video, which frames it has, and when each is shown.

A file is demuxed once, when its dataset is written, to find the key frames from which decoding can start
(`VideoIndex`). Nothing is decoded for that.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray

from embody.errors import UserError

__all__ = ["VideoIndex", "frame_times", "identity", "index_video", "open_video", "readable"]

_HEAD = 2**16  # bytes at each end of a file that are hashed to notice changes
_SHORT = 0.5  # seconds by which a complete file may end before its declared duration
_LONGEST_STILL = 600.0  # seconds from one frame to the next; a longer gap means that the timestamps are wrong
_REORDERED = 2.0  # seconds by which frames may be stored out of order
_COVER = Disposition.attached_pic | Disposition.timed_thumbnails
# FFmpeg's names of the formats that are read. Playlists are missing on purpose: they name other files and addresses.
# Pictures and texts, which FFmpeg would also take for videos, are missing too. Sound is here to be refused by name.
_FORMATS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "live_flv", "kux", "ogg", "asf", "asf_o", "gif"),
    *("apng", "mxf", "mxg", "nut", "nuv", "nsv", "dv", "gxf", "lxf", "ivf", "rm", "wtv", "ty", "pva", "psxstr", "swf"),
    *("h261", "h263", "h264", "hevc", "vvc", "av1", "obu", "m4v", "mjpeg", "mjpeg_2000", "cavsvideo", "dirac", "vc1"),
    *("vc1test", "dnxhd", "yuv4mpegpipe", "bink", "smk", "flic", "roq", "dhav", "r3d", "cine", "mlv", "amv", "jv"),
    *("wav", "mp3", "flac", "aac", "ac3", "aiff", "amr", "w64"),
)


@dataclass(frozen=True)
class VideoIndex:
    """The number of frames of a file, and those from which decoding can start: frame `keys[i]` has timestamp `pts[i]`.

    Frame 0 is always one of them. It is the only one if timestamps are missing or not unique, as seeking needs them.
    """

    frames: int
    keys: NDArray[np.int64]  # [K], ascending, keys[0] = 0
    pts: NDArray[np.int64]  # [K], in the stream's time base


@contextmanager
def readable(path: Path) -> Iterator[None]:
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


def open_video(path: Path) -> tuple[av.container.InputContainer, av.VideoStream]:
    """The opened file and its video: the first video stream that is not a cover picture.

    A `UserError` if there is none. FFmpeg's errors are those of `readable`.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"video {path} is not a file: name the files themselves")
    container = av.open(str(path), container_options={"format_whitelist": ",".join(_FORMATS)})
    streams = [stream for stream in container.streams.video if not stream.disposition & _COVER]
    if not streams:
        container.close()
        raise UserError(f"video {path} has no video stream: leave it out")
    streams[0].thread_type = "NONE"  # loading already runs in many processes
    return container, streams[0]


@dataclass(frozen=True)
class _Packet:
    """The packet of a frame that is shown."""

    pts: int | None
    duration: int
    is_keyframe: bool


def _packets(path: Path) -> tuple[list[_Packet], float, float | None]:
    """The packets of all frames in decoding order, seconds of the time base, and the declared rate (None: unknown).

    Reads the file once. A `UserError` if it cannot be opened, has no video stream or no frame, or is truncated.
    """
    with readable(path):
        container, stream = open_video(path)
        with container:
            listed = len(stream.index_entries) if "mp4" in container.format.name else 0
            found, is_cut, end = 0, False, 0.0
            shown: list[_Packet] = []
            for packet in container.demux():
                if packet.size and packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.size and packet.stream_index == stream.index:
                    found += 1
                    is_cut |= packet.is_corrupt
                    if not packet.is_discard:
                        shown.append(_Packet(packet.pts, packet.duration or 0, packet.is_keyframe))
            # Matroska has no list of frames, but declares the duration of its longest stream.
            declared = (container.duration or 0) / av.time_base if "matroska" in container.format.name else 0.0
            if is_cut or found < listed or end < declared - _SHORT:
                count = f"{found} of {listed}" if listed else f"only {found}"
                raise UserError(f"video {path} is truncated: it holds {count} frames; leave it out")
            rate = stream.average_rate or stream.guessed_rate
            unit = float(stream.time_base or 0)
    if not shown:
        raise UserError(f"video {path} has no frame: leave it out")
    return shown, unit, float(rate) if rate else None


def index_video(path: Path) -> VideoIndex:
    """Count the frames of a file and find its key frames: reads the file once, without decoding.

    A `UserError` if it cannot be opened, has no video stream or no frame, or is truncated.
    """
    shown, _, _ = _packets(path)
    times = [packet.pts for packet in shown if packet.pts is not None]
    if len(set(times)) < len(shown):
        return VideoIndex(len(shown), np.zeros(1, np.int64), np.zeros(1, np.int64))
    pts, is_key = np.array(times, np.int64), np.array([packet.is_keyframe for packet in shown])
    # Packets come in decoding order. Decoding can start at a key frame if every packet before it is also shown before
    # it, and every packet after it is shown after it; its number is then the same in both orders.
    before = np.maximum.accumulate(np.concatenate([[np.iinfo(np.int64).min], pts[:-1]]))
    after = np.minimum.accumulate(pts[::-1])[::-1]
    is_key &= (before < pts) & (after == pts)
    is_key[0] = True
    keys = np.flatnonzero(is_key)
    first = np.concatenate([[pts.min()], pts[keys[1:]]])
    return VideoIndex(len(shown), keys, first)


def frame_times(path: Path) -> NDArray[np.float64]:
    """The times in seconds at which the F frames of a file are shown, and the last one's end: `[F + 1]`, from 0.

    Without timestamps, frames follow each other at the declared rate. A `UserError` if that is missing as well, if the
    timestamps jump, or for the reasons of `index_video`.
    """
    shown, unit, rate = _packets(path)
    stamps = [packet.pts for packet in shown if packet.pts is not None]
    if len(stamps) < len(shown) or len(set(stamps)) == 1:
        if rate is None:
            raise UserError(f"video {path} has neither timestamps nor a frame rate: convert it, or leave it out")
        return np.arange(len(shown) + 1) / rate
    stored = np.array(stamps, np.int64) * unit
    times = np.sort(stored)
    still, back = np.diff(times).max(), (np.maximum.accumulate(stored) - stored).max()
    if still > _LONGEST_STILL or back > _REORDERED:
        raise UserError(
            f"video {path} has timestamps that jump by {max(still, back):.0f} seconds: convert it, or leave it out"
        )
    last = shown[int(np.argmax(stored))].duration * unit or float(np.median(np.diff(times)))
    return np.append(times, times[-1] + last) - times[0]


def identity(path: Path) -> str:
    """Size of the file and a hash of both its ends, so that large files need not be read to notice a change."""
    with readable(path), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        content = hashlib.sha256(file.read(_HEAD))
        file.seek(max(0, size - _HEAD))
        content.update(file.read())
    return f"{size}-{content.hexdigest()[:16]}"
