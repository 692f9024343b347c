"""MiniGrid's evaluation: success in each task, cells that frames show right, and the targets of the default preset."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from embody.games.evaluation import TaskTrials
from embody.games.minigrid.cells import CellReader
from embody.games.trials import GameEvaluation
from embody.metrics.horizons import by_horizon, horizon_chart
from embody.metrics.results_file import Results, lookup
from embody.metrics.rollouts import NEAR
from embody.metrics.sections import Section
from embody.metrics.tables import percent
from embody.metrics.targets import Target, at_bound, headline, times_result

__all__ = ["EVALUATION", "TARGETS"]


def _wall_limit(results: Results) -> float:
    return 5400 if lookup(results, "success.shuffled_rewards") else 1800  # only --full runs the control


_DOOR_KEY = "tasks.MiniGrid-DoorKey-6x6-v0.mean"
_CELLS_RIGHT = "Share of the grid's cells whose content is right in decoded held-out frames."
_CHANGED_CELLS_RIGHT = (
    f"Of the cells that differ from the last context frame {NEAR} frames later, the share that the dream shows right. A"
    " copy of that frame has none right."
)

TARGETS: tuple[Target, ...] = (
    headline("tokenizer.psnr_db", at_bound(30)),
    Target(
        "Tokenizer: cells right",
        "tokenizer.cell_accuracy",
        percent,
        at_bound(0.97),
        meaning=_CELLS_RIGHT,
        ceiling=1.0,
    ),
    headline("dynamics.gain_over_copy_db", at_bound(2)),
    Target(
        f"World model: changed cells right at horizon {NEAR}",
        "dynamics.changed_cell_accuracy_h10",
        percent,
        at_bound(0.65),
        meaning=_CHANGED_CELLS_RIGHT,
        ceiling=1.0,
    ),
    headline("dynamics_before_agent.gain_over_copy_db"),
    Target(
        "World model: changed cells right, before the agent's training",
        "dynamics_before_agent.changed_cell_accuracy_h10",
        percent,
        meaning="The same share for the world model of phase 1.",
        ceiling=1.0,
    ),
    headline("dynamics.action_shuffle_ratio", at_bound(1.3)),
    headline("dynamics.action_shuffle_ratio_noised"),
    headline("dynamics.reward_recall"),
    headline("dynamics.reward_precision"),
    headline("success.cloning.mean", times_result("success.random.mean", 2), reason="twice the random policy's"),
    headline("success.imagination.mean", times_result("success.cloning.mean"), reason="behaviour cloning's"),
    Target(
        "Imagination: success on DoorKey",
        f"success.imagination.{_DOOR_KEY}",
        percent,
        times_result(f"success.cloning.{_DOOR_KEY}"),
        "above",
        "behaviour cloning's",
        "Success after imagination on the task where a key opens the door to the goal, and the goal alone is rewarded.",
        ceiling=1.0,
    ),
    # Not cloning's rate itself: a control without any effect would exceed that by chance in half of the runs.
    headline(
        "success.shuffled_rewards.mean",
        times_result("success.cloning.high"),
        "at most",
        "upper end of behaviour cloning's interval",
    ),
    headline("wall_seconds", _wall_limit, "at most"),
)

_CELLS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "cell_accuracy": ("cells right, dream", percent),
    "copy_cell_accuracy": ("cells right, copy", percent),
    "changed_cell_accuracy": ("changed cells right, dream", percent),
}


def sections(results: Results) -> Sequence[Section]:
    """The share of cells that dreams show right, at each horizon."""
    table = by_horizon(results, _CELLS)
    if not table[1]:
        return []
    charts = (
        horizon_chart(results, "Cells right", "cell_accuracy", show=_whole_percent),
        horizon_chart(results, "Changed cells right (a copy has 0%)", "changed_cell_accuracy", _whole_percent, low=0),
    )
    return [
        Section(
            "Cells of dreams",
            "Share of the grid's cells whose content is right in dreamt frames. Changed cells are those that differ"
            " from the last context frame.",
            tuple(chart for chart in charts if chart is not None),
            (table,),
        )
    ]


def _whole_percent(share: float) -> str:
    return f"{share:.0%}"


EVALUATION = GameEvaluation(
    trials=TaskTrials,
    one_task_a_dataset=True,
    frame_measures=CellReader.from_datasets,
    drift=("cell_accuracy_h10", "changed_cell_accuracy_h10", "changed_cell_accuracy"),
    ablation={"changed_cell_accuracy_h10": f"changed cells right at h {NEAR}"},
    targets=TARGETS,
    sections=sections,
)
