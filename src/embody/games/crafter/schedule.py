"""The settings of Crafter's task scheduler."""

from dataclasses import dataclass

from embody.config import Schedule
from embody.config.bounds import Count, Natural

__all__ = ["AchievementSchedule"]


@dataclass(frozen=True)
class AchievementSchedule(Schedule):
    """Which achievement is the agent's task at each moment of an evaluation episode (`agent.goal` "one").

    If food, drink or energy is low, the task is to eat, drink or sleep. Otherwise it is the first achievement in
    `order` that is not unlocked yet and whose prerequisites are (`embody.games.crafter.tasks.PREREQUISITES`).
    After `patience` steps the task moves on to the next such achievement; after the last one it starts again with the
    first.
    """

    order: tuple[str, ...] = (
        *("collect_sapling", "place_plant", "collect_wood", "place_table", "make_wood_pickaxe", "make_wood_sword"),
        *("collect_drink", "collect_stone", "place_stone", "make_stone_pickaxe", "make_stone_sword", "eat_cow"),
        *("collect_coal", "place_furnace", "collect_iron", "make_iron_pickaxe", "collect_diamond", "make_iron_sword"),
        *("wake_up", "defeat_zombie", "defeat_skeleton", "eat_plant"),
    )
    """These achievements become tasks, in the order in which they are tried."""
    patience: Count = 100
    """After this many steps, at least 1, the next achievement becomes the task."""
    every: Count = 10
    """The task may change every so many steps, at least 1; the agent then reads its whole context again."""
    low: Natural = 3
    """If food, drink or energy is at this level, at least 0, or below, the task is to eat, drink or sleep."""
