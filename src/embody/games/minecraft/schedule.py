"""The task scheduler of Minecraft: it tracks the items that an agent obtains and chooses the agent's next task."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from embody.config import Schedule
from embody.config.bounds import Count
from embody.errors import UserError
from embody.games.minecraft.events import GUI_WINDOW
from embody.games.minecraft.tasks import MINERL_REWARDS, TASKS, item_counts

__all__ = ["ItemTracker", "Scheduler", "Switch", "TaskSchedule", "check_schedule"]

_DIAMOND = MINERL_REWARDS["diamond"][1]  # more than all the other rewards of an episode together
_PLACEABLE = ("crafting_table", "furnace")  # picking up a placed one does not count as obtaining it


@dataclass(frozen=True)
class TaskSchedule(Schedule):
    """The agent's tasks in an evaluation episode of Minecraft, one after the other.

    A task ends when its amount of items was obtained (for a `place` task: placed) since the episode began, or after its
    `max_steps`. Inventories do not show `open` and `use`, so these tasks end by time only. The last task lasts until
    the episode ends. Order and numbers are not the paper's: they are the least that a diamond takes, and time to spare.
    """

    tasks: tuple[str, ...] = (
        *("mine_log", "craft_planks", "craft_stick", "craft_crafting_table", "place_crafting_table"),
        *("craft_wooden_pickaxe", "mine_cobblestone", "craft_stone_pickaxe", "craft_furnace", "place_furnace"),
        *("mine_coal", "mine_iron_ore", "craft_iron_ingot", "craft_iron_pickaxe", "mine_diamond"),
    )
    """These are the names of the tasks, in their order; each is one of `embody.games.minecraft.tasks.TASKS`."""
    amounts: tuple[Count, ...] = (4, 12, 6, 1, 1, 1, 11, 1, 1, 1, 1, 3, 3, 1, 1)
    """Each task needs this many of its item obtained or placed, at least 1."""
    max_steps: tuple[Count, ...] = (
        *(6_000, 1_200, 1_200, 1_200, 600, 1_200, 6_000, 1_200, 1_200, 600),
        *(6_000, 18_000, 2_400, 1_200, 72_000),
    )
    """Each task ends after this many steps (20 a second), at least 1."""
    episode_steps: Count = 72_000
    """An episode has this many steps (20 a second), at least 1 [P]."""

    def __post_init__(self) -> None:
        if not self.tasks or not len(self.tasks) == len(self.amounts) == len(self.max_steps):
            raise UserError(
                f"schedule: {len(self.tasks)} tasks, {len(self.amounts)} amounts and {len(self.max_steps)} max_steps:"
                " give at least one task, and for each task one amount and one max_steps"
            )


class ItemTracker:
    """Counts the items obtained and placed since an episode began, from its inventories.

    The rules are those of the recordings' events (`events.py`), applied step by step. An item is obtained when the
    inventory holds more of it than at any of the last 100 steps (5 seconds), so an item that only moves inside a GUI is
    not counted. Picking up a placed crafting table or furnace does not count either, and charcoal is not coal.
    """

    def __init__(self, inventory: Mapping[str, int]) -> None:
        counts = list(item_counts(inventory).values())
        self._window = np.tile(np.array(counts, np.int64), (GUI_WINDOW, 1))  # [100, items], the newest at `_newest`
        self._newest = 0
        self._standing: Counter[str] = Counter()  # placed and not picked up again
        self.obtained: Counter[str] = Counter()  # item -> how many were obtained
        self.placed: Counter[str] = Counter()  # item -> how many were placed

    def update(
        self, inventory: Mapping[str, int], reward: float, action: Mapping[str, Any], gui: bool | None = None
    ) -> None:
        """Count the items of one step.

        `action` is the simulator's dictionary, `inventory` the count of each item after the step, and `gui` whether a
        GUI is open then (None: unknown). The inventory of MineRL 0.4.4 has no diamonds; there a reward of 1,024 shows
        the first one.
        """
        counts = item_counts(inventory)
        more = np.array(list(counts.values()), np.int64)
        falls, was_obtained = self._window[self._newest] - more, more - self._window.max(axis=0)
        self._newest = (self._newest + 1) % GUI_WINDOW
        self._window[self._newest] = more
        using = action.get("use") == 1 and not gui
        for item, fall, rise in zip(counts, falls.tolist(), was_obtained.tolist(), strict=True):
            if fall == 1 and (using or action.get("place") == item):
                self.placed[item] += 1
                self._standing[item] += item in _PLACEABLE
            elif rise > 0 and self._standing[item]:
                self._standing[item] -= 1
            elif rise > 0 and not (item == "coal" and action.get("nearbySmelt") == "coal"):
                self.obtained[item] += rise
        if reward >= _DIAMOND and not self.obtained["diamond"]:
            self.obtained["diamond"] = 1


@dataclass(frozen=True)
class Switch:
    """A change of the task."""

    step: int  # the number of actions played before it
    task: str  # the task that ended
    reached: bool  # whether its items were obtained; otherwise its time was out
    then: str  # the next task

    def __str__(self) -> str:
        return f"step {self.step}: {self.task} {'done' if self.reached else 'out of time'}, now {self.then}"


class Scheduler:
    """Chooses the task in one episode as `TaskSchedule` describes; call `update` after each step."""

    def __init__(self, config: TaskSchedule) -> None:
        self._config = config
        self._place, self._since = 0, 0

    @property
    def task(self) -> str:
        """The current task, one of `TASKS`."""
        return self._config.tasks[self._place]

    def update(self, step: int, tracker: ItemTracker) -> list[Switch]:
        """The changes of the task after `step` actions; several if the next tasks are already done."""
        switches = []
        while self._place + 1 < len(self._config.tasks):
            reached = self._reached(tracker)
            if not reached and step - self._since < self._config.max_steps[self._place]:
                break
            before = self.task
            self._place, self._since = self._place + 1, step
            switches.append(Switch(step, before, reached, self.task))
        return switches

    def _reached(self, tracker: ItemTracker) -> bool:
        verb, _, item = self.task.partition("_")
        counts = {"mine": tracker.obtained, "craft": tracker.obtained, "place": tracker.placed}.get(verb, Counter())
        return counts[item] >= self._config.amounts[self._place]


def check_schedule(config: TaskSchedule) -> None:
    """Raises a `UserError` if the schedule names an unknown task."""
    for task in config.tasks:
        if task not in TASKS:
            raise UserError(f"schedule.tasks: unknown task {task!r}: choose from {', '.join(TASKS)}")
