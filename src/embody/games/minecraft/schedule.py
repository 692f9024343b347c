"""Who sets the task: what an agent has obtained in Minecraft, and what it is asked for next."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from embody.config import Schedule
from embody.config.bounds import Count
from embody.errors import UserError
from embody.games.minecraft.events import SHUFFLING
from embody.games.minecraft.tasks import MINERL_REWARDS, TASKS, item_counts

__all__ = ["Gains", "Scheduler", "Switch", "TaskSchedule", "check_schedule"]

_DIAMOND = MINERL_REWARDS["diamond"][1]  # more than all the other rewards of an episode together
_STANDING = ("crafting_table", "furnace")  # whose tasks are to craft them, not to have them again


@dataclass(frozen=True)
class TaskSchedule(Schedule):
    """What the agent is asked for in one episode of Minecraft, one task after the other; the last one to the end.

    A task is over when `amounts` of its item were obtained since the episode began (of a `place` task: placed), or
    after `max_steps`. No inventory shows `open` and `use`: they end by time alone. The order and the numbers are ours:
    what a diamond takes at least, with some time to spare.
    """

    tasks: tuple[str, ...] = (
        *("mine_log", "craft_planks", "craft_stick", "craft_crafting_table", "place_crafting_table"),
        *("craft_wooden_pickaxe", "mine_cobblestone", "craft_stone_pickaxe", "craft_furnace", "place_furnace"),
        *("mine_coal", "mine_iron_ore", "craft_iron_ingot", "craft_iron_pickaxe", "mine_diamond"),
    )
    amounts: tuple[Count, ...] = (4, 12, 6, 1, 1, 1, 11, 1, 1, 1, 1, 3, 3, 1, 1)
    max_steps: tuple[Count, ...] = (
        *(6_000, 1_200, 1_200, 1_200, 600, 1_200, 6_000, 1_200, 1_200, 600),
        *(6_000, 18_000, 2_400, 1_200, 72_000),
    )
    episode_steps: Count = 72_000  # 60 minutes at 20 a second [P]

    def __post_init__(self) -> None:
        if not self.tasks or not len(self.tasks) == len(self.amounts) == len(self.max_steps):
            raise UserError(
                f"schedule: {len(self.tasks)} tasks, {len(self.amounts)} amounts and {len(self.max_steps)} max_steps:"
                " give one of each for every task, and at least one task"
            )


class Gains:
    """What was obtained and put down since an episode began, from the inventories that it showed.

    The rules are those by which recordings are labelled (`events.py`), a step at a time: an item is obtained
    when there are more of it than in any of the 5 seconds before, which does not count what only moves in and out of a
    GUI. A crafting table or furnace that is picked up after it was placed is not obtained, and charcoal is no coal.
    """

    def __init__(self, inventory: Mapping[str, int]) -> None:
        counts = list(item_counts(inventory).values())
        self._recent = np.tile(np.array(counts, np.int64), (SHUFFLING, 1))  # [100, items], the newest at `_newest`
        self._newest = 0
        self._standing: Counter[str] = Counter()  # placed and not picked up again
        self.obtained: Counter[str] = Counter()
        self.placed: Counter[str] = Counter()

    def update(
        self, inventory: Mapping[str, int], reward: float, action: Mapping[str, Any], gui: bool | None = None
    ) -> None:
        """What a step brought: `action` in the simulator's words, and whether a GUI is open after it, if that is known.

        MineRL 0.4.4's inventory has no diamonds: there its reward tells of the first one.
        """
        counts = item_counts(inventory)
        more = np.array(list(counts.values()), np.int64)
        falls, rises = self._recent[self._newest] - more, more - self._recent.max(axis=0)
        self._newest = (self._newest + 1) % SHUFFLING
        self._recent[self._newest] = more
        using = action.get("use") == 1 and not gui
        for item, fall, rise in zip(counts, falls.tolist(), rises.tolist(), strict=True):
            if fall == 1 and (using or action.get("place") == item):
                self.placed[item] += 1
                self._standing[item] += item in _STANDING
            elif rise > 0 and self._standing[item]:
                self._standing[item] -= 1
            elif rise > 0 and not (item == "coal" and action.get("nearbySmelt") == "coal"):
                self.obtained[item] += rise
        if reward >= _DIAMOND and not self.obtained["diamond"]:
            self.obtained["diamond"] = 1


@dataclass(frozen=True)
class Switch:
    """A task ended: after `step` actions of the episode, because its item was obtained or its time was out."""

    step: int
    task: str
    reached: bool
    then: str

    def __str__(self) -> str:
        return f"step {self.step}: {self.task} {'done' if self.reached else 'out of time'}, now {self.then}"


class Scheduler:
    """The task of one episode; `update` after each step."""

    def __init__(self, config: TaskSchedule) -> None:
        self._config = config
        self._place, self._since = 0, 0

    @property
    def task(self) -> str:
        """What is asked for now, one of `TASKS`."""
        return self._config.tasks[self._place]

    def update(self, step: int, gains: Gains) -> list[Switch]:
        """The switches after `step` actions: several where tasks to come are done already."""
        switches = []
        while self._place + 1 < len(self._config.tasks):
            reached = self._reached(gains)
            if not reached and step - self._since < self._config.max_steps[self._place]:
                break
            before = self.task
            self._place, self._since = self._place + 1, step
            switches.append(Switch(step, before, reached, self.task))
        return switches

    def _reached(self, gains: Gains) -> bool:
        verb, _, item = self.task.partition("_")
        counts = {"mine": gains.obtained, "craft": gains.obtained, "place": gains.placed}.get(verb, Counter())
        return counts[item] >= self._config.amounts[self._place]


def check_schedule(config: TaskSchedule) -> None:
    """A `UserError` names a task that nobody can be asked for."""
    for task in config.tasks:
        if task not in TASKS:
            raise UserError(f"schedule.tasks: unknown task {task!r}: choose from {', '.join(TASKS)}")
