"""Measures of imagined sequences against real ones, in closed loop, by horizon.

Legend: N rollouts, Z steps of horizon, H W pixels, P tasks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embody.metrics.rates import precision_recall, psnr
from embody.metrics.rewards import measure_rewards
from embody.metrics.similarity import Features, frechet, lpips_distances, random_features, ssim
from embody.tokenizer import Lpips

__all__ = ["NEAR", "SHOWN", "FrameMeasures", "Rollouts", "at_horizon", "measure"]

NEAR = 10  # frames; headline numbers are over horizons 1 to NEAR, or at NEAR
SHOWN = (1, 2, 5, 10, 16, 20, 50, 100, 200)  # horizons in tables; LPIPS is measured only at these, as it is slow
TOLERANCE = 2  # timesteps by which a dreamt reward may be early or late


@dataclass(frozen=True)
class Rollouts:
    """Held-out clips and what was imagined from their contexts. Frames are uint8, or float in [0, 1]."""

    context_last: NDArray[Any]  # [N, H, W, 3]: the last frame of the context
    real: NDArray[Any]  # [N, Z, H, W, 3]
    imagined: NDArray[Any]  # [N, Z, H, W, 3], under the same actions
    valid: NDArray[np.bool_]  # [N, Z]: false after the end of the episode
    rewards_real: NDArray[Any]  # [N, Z]; in multi-achievement mode [N, Z, P], by task
    rewards_predicted: NDArray[Any] | None  # as `rewards_real`; None if there is no agent to predict them
    tasks: tuple[str, ...] = ()  # N names, one for each rollout; in multi-achievement mode P; or empty


class FrameMeasures(Protocol):
    """A game's own measures of frames, such as the share of cells that are right; all JSON-ready."""

    def of_reconstructions(self, decoded: NDArray[np.uint8], real: NDArray[np.uint8]) -> dict[str, Any]:
        """Measures of `decoded` frames against `real` ones, `[N, H, W, 3]` each."""
        ...

    def of_rollouts(self, rollouts: Rollouts, steps: Sequence[NDArray[np.bool_]]) -> dict[str, Any]:
        """Measures of `rollouts`. `steps[h - 1]` `[N, Z]` selects valid frames at horizon h. Lists go to "horizon"."""
        ...


def measure(
    rollouts: Rollouts,
    frame_measures: FrameMeasures | None,
    lpips: Lpips | None = None,
    features: Features = random_features,
    tolerance: int = TOLERANCE,
) -> dict[str, Any]:
    """All measures by name, JSON-ready; a value is None if there is nothing to measure, or if PSNR is infinite.

    - `gain_over_copy_db`: PSNR of imagined frames minus that of copies of the last context frame; the squared error is
      pooled over horizons 1-10 (`gain_over_copy_db_beyond`: over horizons after 10).
    - `reward_precision`, `reward_recall`: a timestep has a reward if that exceeds 0.5.
    - `rewards_within`: the same if rewards may be `tolerance` timesteps early or late, also by task.
    - `ssim`, `lpips`, `frechet` (of `features`) over horizons 1-10, and `copy_*` for copies of the last context frame.
      LPIPS needs its network, and is measured only at the horizons `SHOWN`.
    - `horizon`: lists of measures at horizons 1, 2, ...

    `frame_measures` adds a game's own measures.
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
    of_game = {} if frame_measures is None else frame_measures.of_rollouts(r, steps)
    alike = _measure_similarity(r, near, steps, lpips, features)
    return {
        "psnr_db": _psnr(error[near]),
        "copy_psnr_db": _psnr(copy_error[near]),
        "gain_over_copy_db": _gain(error[near], copy_error[near]),
        "gain_over_copy_db_beyond": _gain(error[far], copy_error[far]),
        **_measure_rewards(r, tolerance),
        **alike,
        **of_game,
        "horizon": horizon | alike["horizon"] | of_game.get("horizon", {}),
    }


def _measure_rewards(r: Rollouts, tolerance: int) -> dict[str, Any]:
    if r.rewards_real.ndim == 3:
        r = _task_by_task(r)
    actual = (r.rewards_real > 0.5) & r.valid
    found: dict[str, Any] = {"reward_precision": None, "reward_recall": None, "rewards": int(actual.sum())}
    if r.rewards_predicted is None:
        return found | {"rewards_within": None}
    predicted = (r.rewards_predicted > 0.5) & r.valid
    found["reward_precision"], found["reward_recall"] = precision_recall(predicted, actual)
    return found | {"rewards_within": measure_rewards(predicted, actual, r.tasks, tolerance)}


def _task_by_task(r: Rollouts) -> Rollouts:
    """Split each rollout into P, one for each task: rewards and valid `[N P, Z]`, N P tasks."""
    n, _, p = r.rewards_real.shape

    def rows(rewards: NDArray[Any]) -> NDArray[Any]:
        return rewards.transpose(0, 2, 1).reshape(n * p, -1)

    predicted = None if r.rewards_predicted is None else rows(r.rewards_predicted)
    valid = np.repeat(r.valid, p, axis=0)
    return replace(r, valid=valid, rewards_real=rows(r.rewards_real), rewards_predicted=predicted, tasks=r.tasks * n)


def _measure_similarity(
    r: Rollouts, near: NDArray[np.bool_], steps: Sequence[NDArray[np.bool_]], lpips: Lpips | None, features: Features
) -> dict[str, Any]:
    """SSIM, LPIPS and Frechet distance of imagined frames and of copies to real ones, at valid timesteps."""
    alike, sets = _similarities(r, lpips, features)
    near_timesteps, step_timesteps = near[r.valid], [m[r.valid] for m in steps]
    found: dict[str, Any] = {}
    horizon: dict[str, list[Any]] = {}
    for name, values in alike.items():
        found[name] = _mean(values[near_timesteps])
        horizon[name] = [_mean(values[m]) for m in step_timesteps]
    for name, ours in (("frechet", sets["imagined"]), ("copy_frechet", sets["copied"])):
        real = sets["real"]
        found[name] = _finite(frechet(ours[near_timesteps], real[near_timesteps]))
        horizon[name] = [_finite(frechet(ours[m], real[m])) for m in step_timesteps]
    return found | {"horizon": horizon}


def _similarities(
    r: Rollouts, lpips: Lpips | None, features: Features
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """Similarities `[n]` by name, and features `[n, D]` of real, imagined and copied frames, at the n valid timesteps.

    Computed rollout by rollout, so that large frames are not all copied at once.
    """
    parts: dict[str, list[NDArray[np.float64]]] = {}
    sets: dict[str, list[NDArray[np.float64]]] = {}
    for last, real_row, imagined_row, valid in zip(_bytes(r.context_last), r.real, r.imagined, r.valid, strict=True):
        real, imagined = _bytes(real_row[valid]), _bytes(imagined_row[valid])
        copied = np.broadcast_to(last, real.shape)
        shown = np.isin(np.flatnonzero(valid) + 1, SHOWN)
        for prefix, ours in (("", imagined), ("copy_", copied)):
            parts.setdefault(f"{prefix}ssim", []).append(ssim(ours, real))
            distances = np.full(len(real), np.nan)
            if lpips is not None:
                distances[shown] = lpips_distances(lpips, ours[shown], real[shown])
            parts.setdefault(f"{prefix}lpips", []).append(distances)
        of_last = features(last[None])
        of_rows = features(real), features(imagined), np.broadcast_to(of_last, (len(real), of_last.shape[1]))
        for name, found in zip(("real", "imagined", "copied"), of_rows, strict=True):
            sets.setdefault(name, []).append(found)
    join = np.concatenate
    return {name: join(found) for name, found in parts.items()}, {name: join(found) for name, found in sets.items()}


def _bytes(frames: NDArray[Any]) -> NDArray[np.uint8]:
    return frames if frames.dtype == np.uint8 else (frames * 255).round().astype(np.uint8)


def _mean(values: NDArray[np.float64]) -> float | None:
    """The mean of the finite values; None if there are none."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _frame_errors(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """The mean squared error of each frame, `[N, Z, H, W, 3]` -> `[N, Z]`, for colours in [0, 1]."""
    rows = [((_unit(x) - _unit(y)) ** 2).mean(axis=(1, 2, 3), dtype=np.float64) for x, y in zip(a, b, strict=True)]
    return np.stack(rows) if rows else np.zeros(a.shape[:2])


def _unit(frames: NDArray[Any]) -> NDArray[np.float32]:
    unit = frames.astype(np.float32)
    return unit / np.float32(255) if frames.dtype == np.uint8 else unit


def _psnr(errors: NDArray[np.float64]) -> float | None:
    return _finite(psnr(float(errors.mean()))) if errors.size else None


def _gain(errors: NDArray[np.float64], copy_errors: NDArray[np.float64]) -> float | None:
    ours, copied = _psnr(errors), _psnr(copy_errors)
    return None if ours is None or copied is None else ours - copied


def at_horizon(values: Sequence[Any], horizon: int) -> Any:
    """The value at `horizon` in a list that begins at horizon 1; None beyond its end."""
    return values[horizon - 1] if len(values) >= horizon else None
