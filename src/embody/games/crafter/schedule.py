"""What an agent is asked for in Crafter, as settings."""

from dataclasses import dataclass

from embody.config import Schedule

__all__ = ["AchievementSchedule"]


@dataclass(frozen=True)
class AchievementSchedule(Schedule):
    """What the agent is asked for in one episode of Crafter: what it is short of, else what it has not achieved yet.

    Of those it is asked for the first in `order` for which it has achieved all that comes before
    (`embody.games.crafter.tasks.AFTER`), and after `patience` steps without it for the next one, round and round.
    """

    order: tuple[str, ...] = (
        *("collect_sapling", "place_plant", "collect_wood", "place_table", "make_wood_pickaxe", "make_wood_sword"),
        *("collect_drink", "collect_stone", "place_stone", "make_stone_pickaxe", "make_stone_sword", "eat_cow"),
        *("collect_coal", "place_furnace", "collect_iron", "make_iron_pickaxe", "collect_diamond", "make_iron_sword"),
        *("wake_up", "defeat_zombie", "defeat_skeleton", "eat_plant"),
    )
    patience: int = 100  # steps
    every: int = 10  # steps from one look of the scheduler to the next: under a new label all of the past is read anew
    low: int = 3  # food, drink or energy, of 9, at which it is asked to eat, drink or sleep
