"""From a decoded frame to the picture that players show: its orientation, its shape, and how it fits other shapes.

Shapes: H W pixels of a frame, as `[H, W, 3]`.
"""

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from embody.config import Fit

__all__ = ["Orientation", "change_of_shape", "fitted", "orientation_of", "pixels", "rgb_frame", "shown_size"]

_SAME_SHAPE = 0.01  # ratios of height to width with a smaller relative difference count as equal


@dataclass(frozen=True)
class Orientation:
    """How a stored frame is turned and mirrored to be shown: rows and columns are swapped first, then reversed."""

    swapped: bool = False
    rows_reversed: bool = False
    columns_reversed: bool = False

    def apply(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A view of `frame` as it is shown."""
        shown = frame.swapaxes(0, 1) if self.swapped else frame
        return shown[:: -1 if self.rows_reversed else 1, :: -1 if self.columns_reversed else 1]


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """What the display matrix of `frame` says, to the nearest quarter turn.

    The matrix is `(a, b, u, c, d, v, x, y, w)`: a stored pixel (p, q) is shown at `(a p + c q + x, b p + d q + y)`.
    """
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return Orientation()
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(True, b < 0, c < 0)
    return Orientation(False, d < 0, a < 0)


def shown_size(height: int, width: int, orientation: Orientation, pixel_aspect: Fraction) -> tuple[float, float]:
    """Height and width of a stored frame as it is shown, in square pixels.

    `pixel_aspect` is the width of a stored pixel divided by its height.
    """
    size = (float(height), float(width * pixel_aspect))
    return size[::-1] if orientation.swapped else size


def fitted(
    picture: av.VideoFrame,
    shown: tuple[float, float],
    size: tuple[int, int],
    fit: Fit,
    to_size: VideoReformatter,
) -> NDArray[np.uint8]:
    """`picture`, an rgb24 frame that is shown with height and width `shown`, as `[*size, 3]`; `size`: height, width.

    "letterbox" keeps all of it, between black bars; "crop" fills `size` with its middle; "stretch" changes its
    proportions to those of `size`. Resizing is FFmpeg's area filter (`SWS_AREA`), the mean of the pixels that a new one
    covers.
    """
    scales = size[0] / shown[0], size[1] / shown[1]
    inner = size
    if fit == "letterbox":
        inner = _whole(shown[0] * min(scales), size[0]), _whole(shown[1] * min(scales), size[1])
    elif fit == "crop":
        rows = _whole(picture.height * scales[0] / max(scales), picture.height)
        columns = _whole(picture.width * scales[1] / max(scales), picture.width)
        if (rows, columns) != (picture.height, picture.width):
            top, left = (picture.height - rows) // 2, (picture.width - columns) // 2
            picture = rgb_frame(pixels(picture)[top : top + rows, left : left + columns])
    resized = pixels(to_size.reformat(picture, inner[1], inner[0], interpolation=Interpolation.AREA, threads=1))
    if inner == size:
        return resized
    out = np.zeros((*size, 3), np.uint8)
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    out[top : top + inner[0], left : left + inner[1]] = resized
    return out


def _whole(side: float, limit: int) -> int:
    return min(limit, max(1, round(side)))


def change_of_shape(shown: tuple[int, int], size: tuple[int, int], fit: Fit) -> tuple[str, ...]:
    """What `fitted` does to the shape of a picture, in words; nothing if it has the shape of `size` (height, width)."""
    if abs(shown[0] * size[1] / (shown[1] * size[0]) - 1) < _SAME_SHAPE:
        return ()
    done = {"letterbox": "letterboxed", "crop": "cropped", "stretch": "stretched"}[fit]
    return (f"{shown[1]}x{shown[0]} pixels {done} to the shape of {size[1]}x{size[0]}",)


def pixels(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """The pixels of an rgb24 frame, `[H, W, 3]`, without a copy."""
    plane = frame.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(frame.height, plane.line_size)
    return rows[:, : 3 * frame.width].reshape(frame.height, frame.width, 3)


def rgb_frame(picture: NDArray[np.uint8]) -> av.VideoFrame:
    """A frame with a copy of the pixels `[H, W, 3]`."""
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")
