"""How well imagined sequences agree with real ones, in closed loop, horizon by horizon.

N rollouts, Z steps of horizon, H W pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embody.evaluation.cells import CellReader, cell_accuracy, changed_cell_accuracy
from embody.evaluation.metrics import precision_recall, psnr

__all__ = ["NEAR", "Rollouts", "measure"]

NEAR = 10  # the horizon up to which, and at which, the headline numbers are taken


@dataclass(frozen=True)
class Rollouts:
    """Held-out clips beside what was imagined from their context. Frames: uint8, or float in [0, 1]."""

    context_last: NDArray[Any]  # [N, H, W, 3]: the last frame that was given
    real: NDArray[Any]  # [N, Z, H, W, 3]
    imagined: NDArray[Any]  # [N, Z, H, W, 3], under the same actions
    valid: NDArray[np.bool_]  # [N, Z]: false past the episode's end
    rewards_real: NDArray[Any]  # [N, Z]
    rewards_predicted: NDArray[Any] | None  # [N, Z]; None: nothing predicts rewards


def measure(rollouts: Rollouts, reader: CellReader | None) -> dict[str, Any]:
    """The measures by name, ready for JSON; None where there was nothing to measure (or PSNR is infinite).

    `gain_over_copy_db`: PSNR of the imagined minus that of repeating the last context frame, squared error pooled over
    horizons 1-10 (`_beyond`: after 10). `changed_cell_accuracy`: over cells that differ from the last context frame;
    without a `reader` there are no cells. `reward_*`: a slot counts as predicted, or real, where its reward exceeds
    0.5. `horizon`: lists, first item h = 1.
    """
    r = rollouts
    assert r.real.shape == r.imagined.shape and r.valid.shape == r.real.shape[:2], (r.real.shape, r.valid.shape)
    copied = np.broadcast_to(r.context_last[:, None], r.real.shape)
    error = _frame_errors(r.imagined, r.real)
    copy_error = _frame_errors(copied, r.real)
    near, far = r.valid.copy(), r.valid.copy()
    near[:, NEAR:], far[:, :NEAR] = False, False
    steps = [r.valid & (np.arange(r.valid.shape[1]) == h) for h in range(r.valid.shape[1])]
    horizon: dict[str, list[Any]] = {
        "psnr_db": [_psnr(error[m]) for m in steps],
        "copy_psnr_db": [_psnr(copy_error[m]) for m in steps],
        "rollouts": [int(m.sum()) for m in steps],
    }
    of_cells = {} if reader is None else _measure_cells(r, reader, steps)
    precision = recall = None
    if r.rewards_predicted is not None:
        precision, recall = precision_recall(r.rewards_predicted[r.valid] > 0.5, r.rewards_real[r.valid] > 0.5)
    return {
        "psnr_db": _psnr(error[near]),
        "copy_psnr_db": _psnr(copy_error[near]),
        "gain_over_copy_db": _gain(error[near], copy_error[near]),
        "gain_over_copy_db_beyond": _gain(error[far], copy_error[far]),
        "reward_precision": precision,
        "reward_recall": recall,
        "rewards": int((r.rewards_real[r.valid] > 0.5).sum()),
        **of_cells,
        "horizon": horizon | of_cells.get("horizon", {}),
    }


def _measure_cells(r: Rollouts, reader: CellReader, steps: Sequence[NDArray[np.bool_]]) -> dict[str, Any]:
    cells, true, last = (reader.read(frames) for frames in (r.imagined, r.real, r.context_last))
    reference = np.broadcast_to(last[:, None], true.shape)
    horizon = {
        "cell_accuracy": [cell_accuracy(cells[m], true[m]) for m in steps],
        "copy_cell_accuracy": [cell_accuracy(reference[m], true[m]) for m in steps],
        "changed_cell_accuracy": [changed_cell_accuracy(cells[m], true[m], reference[m]) for m in steps],
    }
    return {
        "cell_accuracy_h10": _at(horizon["cell_accuracy"], NEAR),
        "changed_cell_accuracy_h10": _at(horizon["changed_cell_accuracy"], NEAR),
        "changed_cell_accuracy": changed_cell_accuracy(cells[r.valid], true[r.valid], reference[r.valid]),
        "horizon": horizon,
    }


def _frame_errors(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Mean squared error of each frame, `[N, Z, H, W, 3]` -> `[N, Z]`, in units where white is 1."""
    rows = [((_unit(x) - _unit(y)) ** 2).mean(axis=(1, 2, 3), dtype=np.float64) for x, y in zip(a, b, strict=True)]
    return np.stack(rows) if rows else np.zeros(a.shape[:2])


def _unit(frames: NDArray[Any]) -> NDArray[np.float32]:
    unit = frames.astype(np.float32)
    return unit / np.float32(255) if frames.dtype == np.uint8 else unit


def _psnr(errors: NDArray[np.float64]) -> float | None:
    value = psnr(float(errors.mean())) if errors.size else math.nan
    return value if math.isfinite(value) else None


def _gain(errors: NDArray[np.float64], copy_errors: NDArray[np.float64]) -> float | None:
    ours, copied = _psnr(errors), _psnr(copy_errors)
    return None if ours is None or copied is None else ours - copied


def _at(values: Sequence[Any], horizon: int) -> Any:
    return values[horizon - 1] if len(values) >= horizon else None
