"""The settings of Crafter's task scheduler."""

from dataclasses import dataclass

from embody.config import Schedule

__all__ = ["AchievementSchedule"]


@dataclass(frozen=True)
class AchievementSchedule(Schedule):
    """Which achievement is the agent's task at each moment of an evaluation episode (`agent.goal` "one").

    If food, drink or energy is low, the task is to eat, drink or sleep. Otherwise it is the first achievement in
    `order` that is not unlocked yet and whose prerequisites are (`embody.games.crafter.tasks.PREREQUISITES`).
    After `patience` steps the task moves on to the next such achievement; after the last one it starts again with the
    first.
    """

    # The achievements that become tasks, by name, in the order in which they are tried.
    order: tuple[str, ...] = (
        *("collect_sapling", "place_plant", "collect_wood", "place_table", "make_wood_pickaxe", "make_wood_sword"),
        *("collect_drink", "collect_stone", "place_stone", "make_stone_pickaxe", "make_stone_sword", "eat_cow"),
        *("collect_coal", "place_furnace", "collect_iron", "make_iron_pickaxe", "collect_diamond", "make_iron_sword"),
        *("wake_up", "defeat_zombie", "defeat_skeleton", "eat_plant"),
    )
    # After how many steps as the task, 1 or more, an achievement gives way to the next one.
    patience: int = 100
    # Every how many steps, 1 or more, the task may change; after a change the agent reads its whole context again.
    every: int = 10
    # At which level of food, drink or energy, 0 to 9, the task becomes to eat, drink or sleep.
    low: int = 3
