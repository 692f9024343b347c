"""Whether what is dreamt to be achieved is achieved: imagined rewards and returns against recorded ones.

N rollouts, Z steps of horizon.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Returns", "imagined_returns", "matched", "measure_returns", "measure_rewards"]


def matched(predicted: NDArray[np.bool_], actual: NDArray[np.bool_], tolerance: int) -> int:
    """How many timesteps of `predicted` `[N, Z]` have one of `actual` at most `tolerance` timesteps away.

    Each counts once, in one pair: a reward that is predicted twice is wrong once. As many pairs as there can be.
    """
    assert predicted.shape == actual.shape and tolerance >= 0, (predicted.shape, actual.shape, tolerance)
    pairs = 0
    for said, there in zip(predicted, actual, strict=True):
        rest = np.flatnonzero(there).tolist()
        for timestep in np.flatnonzero(said):
            # The earliest that is still in reach: what comes later may be needed by a later timestep.
            rest = [event for event in rest if event >= timestep - tolerance]
            if rest and rest[0] <= timestep + tolerance:
                rest.pop(0)
                pairs += 1
    return pairs


def measure_rewards(
    predicted: NDArray[np.bool_], actual: NDArray[np.bool_], tasks: Sequence[str], tolerance: int
) -> dict[str, Any]:
    """Precision and recall of rewards `[N, Z]` within `tolerance` timesteps, overall and of each task (one a rollout).

    `{rewards, predicted, precision, recall, tasks: {task: {rewards, predicted, precision, recall}}}`, counts and
    shares; None where nothing was predicted, or nothing was there.
    """
    of_tasks = {}
    for task in sorted({*tasks}):
        rows = np.array(tasks) == task
        of_tasks[task] = _agreement(predicted[rows], actual[rows], tolerance)
    return {"tolerance": tolerance, **_agreement(predicted, actual, tolerance), "tasks": of_tasks}


def _agreement(predicted: NDArray[np.bool_], actual: NDArray[np.bool_], tolerance: int) -> dict[str, Any]:
    said, there, hits = int(predicted.sum()), int(actual.sum()), matched(predicted, actual, tolerance)
    return {
        "rewards": there,
        "predicted": said,
        "precision": hits / said if said else None,
        "recall": hits / there if there else None,
    }


# --- returns --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Returns:
    """Discounted returns of what follows each context."""

    recorded: NDArray[Any]  # [N], to the end of the episode
    imagined: NDArray[Any]  # [N], under the recorded actions; the value's beyond the horizon
    value: NDArray[Any]  # [N], the value head's at the context's last timestep


def imagined_returns(
    rewards: NDArray[Any], continues: NDArray[Any], values: NDArray[Any], valid: NDArray[np.bool_], gamma: float
) -> NDArray[np.float64]:
    """`sum_{k=1..n} g_k r_k + [n = Z] g_Z gamma c_Z v_Z`, `g_k = gamma^(k-1) c_1 .. c_{k-1}`: `[N]`.

    `rewards` and `continues` are `[N, Z]` as dreamt, `values` `[N]` those of the last timestep; `n` timesteps are
    `valid` `[N, Z]`: the recorded episode ends there.
    """
    weight = gamma ** np.arange(rewards.shape[1] + 1) * np.cumprod(np.insert(continues, 0, 1.0, axis=1), axis=1)
    return (weight[:, :-1] * rewards * valid).sum(axis=1) + valid[:, -1] * weight[:, -1] * values


def measure_returns(returns: Returns) -> dict[str, Any]:
    """Correlation, mean error (ours minus recorded) and mean absolute error of imagined returns and of values."""
    recorded = returns.recorded
    found: dict[str, Any] = {"contexts": len(recorded), "recorded_mean": float(recorded.mean())}
    for name, ours in (("imagined", returns.imagined), ("value", returns.value)):
        varies = len(recorded) > 1 and recorded.std() > 0 and ours.std() > 0
        found[name] = {
            "correlation": float(np.corrcoef(ours, recorded)[0, 1]) if varies else None,
            "mean_error": float((ours - recorded).mean()),
            "mean_absolute_error": float(np.abs(ours - recorded).mean()),
        }
    return found
