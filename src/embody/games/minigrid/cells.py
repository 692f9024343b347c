"""Reads the contents of MiniGrid's cells (agent and direction, objects, doors, walls, floor) from a frame.

A frame is a grid of square tiles. In real frames every tile equals one of a few hundred templates; the nearest template
is taken as the content of a cell in an imagined frame.

Shapes: M templates, R rows and C columns of cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embody.data import Dataset
from embody.errors import UserError
from embody.metrics.rollouts import NEAR, Rollouts, at_horizon

__all__ = ["CellReader", "cell_accuracy", "changed_cell_accuracy"]

Array = NDArray[Any]
_TEMPLATE_EPISODES = 200  # of each task and split, whose tiles are the templates
CHUNK = 512  # frames that are compared at a time, which limits the memory of their distances


@dataclass(frozen=True)
class CellReader:
    """Classifies each cell of a frame by its nearest template."""

    templates: NDArray[np.uint8]  # [M, tile, tile, 3], all distinct, in a fixed order

    @classmethod
    def from_frames(cls, frames: NDArray[np.uint8], tile: int = 8) -> "CellReader":
        """The reader whose templates are the distinct `tile` x `tile` squares of `frames`, uint8 [N, H, W, 3]."""
        if frames.dtype != np.uint8:
            raise UserError(f"cell templates: frames must be uint8 [N, H, W, 3], got {frames.dtype}")
        tiles = _tiles(frames, tile).reshape(-1, tile * tile * 3)
        distinct = np.unique(np.ascontiguousarray(tiles).view(f"S{tiles.shape[1]}"))  # fixed width: exact bytes
        return cls(distinct.view(np.uint8).reshape(-1, tile, tile, 3))

    @classmethod
    def from_datasets(cls, datasets: Sequence[Dataset]) -> "CellReader":
        """The reader whose templates are the distinct tiles of the first 200 episodes of each task and split."""
        rows = [
            (dataset, row)
            for split in ("train", "validation")
            for dataset in datasets
            for row in dataset.episodes(split)[:_TEMPLATE_EPISODES]
        ]
        return cls.from_frames(np.concatenate([dataset.frames(row.id, 0, row.length) for dataset, row in rows]))

    @property
    def tile(self) -> int:
        """The side of a cell in pixels."""
        return int(self.templates.shape[1])

    def read(self, frames: Array) -> NDArray[np.int64]:
        """The index of the template with the least squared distance to each cell: `[..., H, W, 3]` -> `[..., R, C]`.

        `frames` is uint8, or float in [0, 1]. For uint8 the distances are integers below 2^24, thus exact in float32.
        """
        known = self.templates.reshape(len(self.templates), -1).astype(np.float32)
        weights, offset = -2 * known.T, (known**2).sum(axis=1)
        flat = frames.reshape(-1, *frames.shape[-3:])
        parts = []
        for start in range(0, max(1, len(flat)), CHUNK):
            cells = _tiles(flat[start : start + CHUNK], self.tile)
            pixels = cells.reshape(*cells.shape[:3], -1).astype(np.float32)
            if frames.dtype != np.uint8:
                pixels *= 255
            parts.append((pixels @ weights + offset).argmin(axis=-1))
        index = np.concatenate(parts)
        return index.reshape(*frames.shape[:-3], *index.shape[1:])

    def of_reconstructions(self, decoded: NDArray[np.uint8], real: NDArray[np.uint8]) -> dict[str, Any]:
        """`cell_accuracy` of the `decoded` frames against the `real` ones, both `[N, H, W, 3]`."""
        return {"cell_accuracy": cell_accuracy(self.read(decoded), self.read(real))}

    def of_rollouts(self, r: Rollouts, steps: Sequence[NDArray[np.bool_]]) -> dict[str, Any]:
        """`cell_accuracy_h10`, and `changed_cell_accuracy` over cells that differ from the last context frame."""
        cells, true, last = (self.read(frames) for frames in (r.imagined, r.real, r.context_last))
        reference = np.broadcast_to(last[:, None], true.shape)
        horizon = {
            "cell_accuracy": [cell_accuracy(cells[m], true[m]) for m in steps],
            "copy_cell_accuracy": [cell_accuracy(reference[m], true[m]) for m in steps],
            "changed_cell_accuracy": [changed_cell_accuracy(cells[m], true[m], reference[m]) for m in steps],
        }
        return {
            "cell_accuracy_h10": at_horizon(horizon["cell_accuracy"], NEAR),
            "changed_cell_accuracy_h10": at_horizon(horizon["changed_cell_accuracy"], NEAR),
            "changed_cell_accuracy": changed_cell_accuracy(cells[r.valid], true[r.valid], reference[r.valid]),
            "horizon": horizon,
        }


def _tiles(frames: Array, tile: int) -> Array:
    """`[..., H, W, 3]` -> `[..., R, C, tile, tile, 3]`."""
    *lead, height, width, channels = frames.shape
    if height % tile or width % tile or channels != 3:
        raise UserError(
            f"cells: frames {height}x{width}x{channels} do not split into {tile}x{tile} tiles of 3 channels"
        )
    split = frames.reshape(*lead, height // tile, tile, width // tile, tile, 3)
    return split.swapaxes(-4, -3)


def cell_accuracy(predicted: Array, true: Array) -> float | None:
    """The share of equal cells in two index arrays of the same shape; None if they are empty."""
    assert predicted.shape == true.shape, (predicted.shape, true.shape)
    return float((predicted == true).mean()) if true.size else None


def changed_cell_accuracy(predicted: Array, true: Array, reference: Array) -> float | None:
    """The share of correctly predicted cells among those where `true` differs from `reference`; None if there are none.

    `reference`, the cells of the last context frame, broadcasts to `true`. Predicting `reference` itself scores 0.
    """
    assert predicted.shape == true.shape, (predicted.shape, true.shape)
    changed = true != reference
    return float((predicted == true)[changed].mean()) if changed.any() else None
