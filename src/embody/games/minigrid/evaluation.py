"""MiniGrid's evaluation: success task by task, cells that are right, and the targets of the default preset."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from embody.games.evaluation import TaskTrials
from embody.games.minigrid.cells import CellReader
from embody.games.trials import GameEvaluation
from embody.metrics.charts import Line, line_chart
from embody.metrics.horizons import by_horizon
from embody.metrics.results_file import Results, lookup
from embody.metrics.rollouts import NEAR
from embody.metrics.sections import Section
from embody.metrics.tables import decibels, duration, percent, two_decimals
from embody.metrics.targets import Target, at_bound, times_result

__all__ = ["EVALUATION", "TARGETS"]


def _wall_limit(results: Results) -> float:
    return 5400 if lookup(results, "success.shuffled_rewards") else 1800  # only --full runs the control


DOOR_KEY = "tasks.MiniGrid-DoorKey-6x6-v0.mean"
TARGETS: tuple[Target, ...] = (
    Target("Tokenizer, PSNR", "tokenizer.psnr_db", decibels, at_bound(30)),
    Target("Tokenizer, cells right", "tokenizer.cell_accuracy", percent, at_bound(0.97)),
    Target("Dynamics, gain over copy-last-frame", "dynamics.gain_over_copy_db", decibels, at_bound(2), reason="h 1-10"),
    Target("Dynamics, changed cells right at h 10", "dynamics.changed_cell_accuracy_h10", percent, at_bound(0.65)),
    Target("The gain before the agent's training", "dynamics_before_agent.gain_over_copy_db", decibels),
    Target("Changed cells before the agent's training", "dynamics_before_agent.changed_cell_accuracy_h10", percent),
    Target("Dynamics, action-shuffle ratio", "dynamics.action_shuffle_ratio", two_decimals, at_bound(1.3)),
    Target("The same, each frame at a level of its own", "dynamics.action_shuffle_ratio_noised", two_decimals),
    Target("Rewards, recall", "dynamics.reward_recall", percent),
    Target("Rewards, precision", "dynamics.reward_precision", percent),
    Target(
        "Cloning, success",
        "success.cloning.mean",
        percent,
        times_result("success.random.mean", 2),
        reason="twice random",
    ),
    Target(
        "Imagination, success",
        "success.imagination.mean",
        percent,
        times_result("success.cloning.mean"),
        reason="cloning",
    ),
    Target(
        "Imagination, success on DoorKey",
        f"success.imagination.{DOOR_KEY}",
        percent,
        times_result(f"success.cloning.{DOOR_KEY}"),
        "above",
        "cloning",
    ),
    Target(
        "Shuffled rewards, success",
        "success.shuffled_rewards.mean",
        percent,
        times_result("success.cloning.mean"),
        "at most",
        "cloning",
    ),
    Target("Wall time", "wall_seconds", duration, _wall_limit, "at most"),
)

_CELLS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "cell_accuracy": ("cells right, imagined", percent),
    "copy_cell_accuracy": ("cells right, copy", percent),
    "changed_cell_accuracy": ("changed cells right, imagined", percent),
}


def sections(results: Results) -> Sequence[Section]:
    """Cells right against the horizon."""
    values: Mapping[str, Any] = lookup(results, "dynamics.horizon") or {}

    def lines(*chosen: tuple[str, str, str]) -> list[Line]:
        found = [(name, values[key], style) for key, name, style in chosen if values.get(key)]
        return [Line(name, range(1, len(y) + 1), y, style) for name, y, style in found]

    axis = "horizon, frames"
    every = lines(("cell_accuracy", "imagined", "b"), ("copy_cell_accuracy", "copy of the last frame", "e"))
    changed = lines(("changed_cell_accuracy", "imagined", "b"))
    charts = (
        line_chart("Cells right", every, axis, show=lambda y: f"{y:.0%}"),
        line_chart("Changed cells right (a copy scores 0)", changed, axis, show=lambda y: f"{y:.0%}", low=0),
    )
    table = by_horizon(results, _CELLS)
    drawn = tuple(chart for chart in charts if chart is not None)
    if not table[1]:
        return []
    return [Section("Cells against the horizon", "Cells of imagined frames, read off them.", drawn, (table,))]


EVALUATION = GameEvaluation(
    trials=TaskTrials,
    one_task_a_dataset=True,
    frame_measures=CellReader.from_datasets,
    drift=("cell_accuracy_h10", "changed_cell_accuracy_h10", "changed_cell_accuracy"),
    ablation={"changed_cell_accuracy_h10": f"changed cells right at h {NEAR}"},
    targets=TARGETS,
    sections=sections,
)
