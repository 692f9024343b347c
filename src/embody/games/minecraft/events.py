"""Which of the 20 tasks a recording achieves when, from its counters or its inventory (table in docs/minecraft.md).

Legend: N observations in a row, P tasks in the order of `minecraft.TASKS`. An event at n is seen at n and not at n - 1.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embody.games.minecraft.tasks import TASKS

__all__ = ["PICKAXES", "events_of_inventory", "events_of_stats", "rises", "was_crafted"]

PICKAXES = ("wooden_pickaxe", "stone_pickaxe", "iron_pickaxe")

# A task and the counter of Minecraft 1.16 that it moves. A block counts as mined only with a tool that can harvest it.
_COUNTERS = {
    "mine_log": r"mine_block:\w+_log",
    "mine_cobblestone": r"mine_block:(stone|cobblestone)",
    "mine_iron_ore": r"mine_block:iron_ore",
    "mine_coal": r"mine_block:coal_ore",
    "mine_diamond": r"mine_block:diamond_ore",
    "craft_planks": r"craft_item:\w+_planks",
    **{f"craft_{item}": f"craft_item:{item}" for item in ("stick", "crafting_table", "furnace")},
    "craft_iron_ingot": r"craft_item:iron_ingot",  # taken out of a furnace
    **{f"craft_{item}": f"craft_item:{item}" for item in PICKAXES},
    "open_crafting_table": r"custom:interact_with_crafting_table",
    "open_furnace": r"custom:interact_with_furnace",
    "place_crafting_table": r"use_item:crafting_table",
    "place_furnace": r"use_item:furnace",
    **{f"use_{item}": f"use_item:{item}" for item in PICKAXES},
}
assert tuple(_COUNTERS) == TASKS

SHUFFLING = 100  # observations: an item that is moved about in a GUI is back within 5 seconds


@lru_cache(maxsize=4096)
def _task_of(counter: str) -> int | None:
    """The place of the task that `minecraft.mine_block:minecraft.oak_log` or the like tells of."""
    plain = re.sub(r"\bminecraft[.:]", "", counter)
    return next((place for place, rule in enumerate(_COUNTERS.values()) if re.fullmatch(rule, plain)), None)


def events_of_stats(stats: Sequence[Mapping[str, Any]]) -> NDArray[np.bool_]:
    """`[N, P]`: whose counter is higher at n than ever before.

    Counters run on over a player's whole session, so those of the first line that has any tell nothing; a counter that
    first appears later does.
    """
    events = np.zeros((len(stats), len(TASKS)), bool)
    seen: dict[str, Any] = {}
    for n, counters in enumerate(stats):
        begun = bool(seen)
        for counter, value in counters.items():
            before = seen.get(counter)
            if value == before:
                continue
            seen[counter] = value
            task = _task_of(counter)
            if task is not None and begun and value > (before or 0):
                events[n, task] = True
    return events


def rises(count: NDArray[np.int64]) -> NDArray[np.bool_]:
    """`[N]`: whether there are more of an item at n than at any of the 100 observations (5 seconds) before."""
    before = np.lib.stride_tricks.sliding_window_view(
        np.concatenate([np.full(SHUFFLING, count[0]), count[:-1]]), SHUFFLING
    ).max(axis=1)
    return count > before


def was_crafted(count: NDArray[np.int64], placed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """`[N]`: the rises of an item that can be placed, without those that pick a placed one up again."""
    crafted, out = rises(count), 0
    for n in np.flatnonzero(crafted | placed):
        if placed[n]:
            out += 1
        elif out:
            out -= 1
            crafted[n] = False
    return crafted


def events_of_inventory(
    counts: Mapping[str, NDArray[np.int64]], gui: NDArray[np.bool_], using: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """`[N, P]` of recordings without counters: what rises in an open GUI was crafted, outside of one mined.

    `counts` of items `[N]` (log and planks of any wood), `gui` whether one is open, `using` whether `use` led to n: an
    item that is one fewer then was placed. Opening and using leave no trace in an inventory.
    """
    events = np.zeros((len(gui), len(TASKS)), bool)
    for place, task in enumerate(TASKS):
        verb, item = task.split("_", 1)
        if item not in counts:
            continue
        if verb == "mine":
            events[:, place] = rises(counts[item]) & ~gui
        elif verb == "craft":
            events[:, place] = rises(counts[item]) & gui
        elif verb == "place":
            events[:, place] = (np.diff(counts[item], prepend=counts[item][0]) == -1) & using & ~gui
    return events
