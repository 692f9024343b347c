"""Imagined rewards and returns compared with recorded ones.

Legend: N rollouts, Z steps of horizon.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Returns", "imagined_returns", "matched", "measure_returns", "measure_rewards"]


def matched(predicted: NDArray[np.bool_], actual: NDArray[np.bool_], tolerance: int) -> int:
    """The size of a maximum matching of `predicted` with `actual` `[N, Z]`, at most `tolerance` timesteps apart.

    Each timestep is in one pair at most, so a reward that is predicted twice counts as one hit and one false alarm.
    """
    assert predicted.shape == actual.shape and tolerance >= 0, (predicted.shape, actual.shape, tolerance)
    pairs = 0
    for predicted_Z, actual_Z in zip(predicted, actual, strict=True):
        unmatched = np.flatnonzero(actual_Z).tolist()
        for timestep in np.flatnonzero(predicted_Z):
            # Take the earliest one in reach: later ones may be needed by later timesteps.
            unmatched = [event for event in unmatched if event >= timestep - tolerance]
            if unmatched and unmatched[0] <= timestep + tolerance:
                unmatched.pop(0)
                pairs += 1
    return pairs


def measure_rewards(
    predicted: NDArray[np.bool_], actual: NDArray[np.bool_], tasks: Sequence[str], tolerance: int
) -> dict[str, Any]:
    """Precision and recall of rewards `[N, Z]` within `tolerance` timesteps, overall and by task (one a rollout).

    Returns `{tolerance, rewards, predicted, precision, recall, tasks: {task: {rewards, predicted, ...}}}`. `rewards`
    and `predicted` are counts; precision and recall are in [0, 1], or None if they would divide by 0.
    """
    of_tasks = {}
    for task in sorted({*tasks}):
        rows = np.array(tasks) == task
        of_tasks[task] = _agreement(predicted[rows], actual[rows], tolerance)
    return {"tolerance": tolerance, **_agreement(predicted, actual, tolerance), "tasks": of_tasks}


def _agreement(predicted: NDArray[np.bool_], actual: NDArray[np.bool_], tolerance: int) -> dict[str, Any]:
    positives, trues, hits = int(predicted.sum()), int(actual.sum()), matched(predicted, actual, tolerance)
    return {
        "rewards": trues,
        "predicted": positives,
        "precision": hits / positives if positives else None,
        "recall": hits / trues if trues else None,
    }


# --- returns --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Returns:
    """Discounted returns after each context."""

    recorded: NDArray[Any]  # [N], to the end of the episode
    imagined: NDArray[Any]  # [N], dreamt under the recorded actions, plus the value at the horizon
    value: NDArray[Any]  # [N], of the value head at the last timestep of the context


def imagined_returns(
    rewards: NDArray[Any], continues: NDArray[Any], values: NDArray[Any], valid: NDArray[np.bool_], gamma: float
) -> NDArray[np.float64]:
    """Imagined returns `[N]`: `sum_{k=1..n} g_k r_k + [n = Z] g_Z gamma c_Z v_Z`, `g_k = gamma^(k-1) c_1 .. c_{k-1}`.

    `rewards` r and `continues` c are `[N, Z]`, dreamt; `values` v `[N]` are those at the last timestep. n is the number
    of `valid` `[N, Z]` timesteps, those before the end of the recorded episode.
    """
    weight = gamma ** np.arange(rewards.shape[1] + 1) * np.cumprod(np.insert(continues, 0, 1.0, axis=1), axis=1)
    return (weight[:, :-1] * rewards * valid).sum(axis=1) + valid[:, -1] * weight[:, -1] * values


def measure_returns(returns: Returns) -> dict[str, Any]:
    """Correlation, mean error (minus the recorded) and mean absolute error of imagined returns and of values."""
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
