"""When a recording achieves each of the 20 tasks, from Minecraft's counters or from the inventory (docs/minecraft.md).

Shapes: N consecutive observations, P tasks in the order of `TASKS`. An event at n is visible in observation n and not
in n - 1.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embody.games.minecraft.tasks import TASKS

__all__ = ["PICKAXES", "events_of_inventory", "events_of_stats", "was_crafted", "was_obtained"]

PICKAXES = ("wooden_pickaxe", "stone_pickaxe", "iron_pickaxe")

# For each task, the counter of Minecraft 1.16 that it increases. Minecraft counts a block as mined only if the tool can
# harvest it.
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

GUI_WINDOW = 100  # observations, 5 seconds: how long an item may be away from the inventory while it moves inside a GUI


@lru_cache(maxsize=4096)
def _task_of(counter: str) -> int | None:
    """The index of the task that a counter such as `minecraft.mine_block:minecraft.oak_log` belongs to, or None."""
    plain = re.sub(r"\bminecraft[.:]", "", counter)
    return next((place for place, rule in enumerate(_COUNTERS.values()) if re.fullmatch(rule, plain)), None)


def events_of_stats(stats: Sequence[Mapping[str, Any]]) -> NDArray[np.bool_]:
    """Bool `[N, P]`: whether the task's counter increases at n.

    Counters continue over a player's whole session, so their values in the first line that has any are no events. A
    counter that first appears in a later line is one.
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


def was_obtained(count: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Bool `[N]`: whether the inventory has more of an item at n than at any of the last 100 observations (5 seconds).

    `count` is the number of these items in the inventory, `[N]`.
    """
    before = np.lib.stride_tricks.sliding_window_view(
        np.concatenate([np.full(GUI_WINDOW, count[0]), count[:-1]]), GUI_WINDOW
    ).max(axis=1)
    return count > before


def was_crafted(count: NDArray[np.int64], placed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Bool `[N]`: whether a placeable item was obtained at n other than by picking up one that was `placed`, `[N]`."""
    crafted, out = was_obtained(count), 0
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
    """Bool `[N, P]` for recordings without counters: an item obtained while a GUI is open was crafted, else mined.

    `counts` maps items to their numbers in the inventory, `[N]` (all kinds of wood count as one). `gui` `[N]` says
    whether a GUI is open. `using` `[N]` says whether the action before n has `use`; if there is then one item less, it
    was placed. The tasks `open` and `use` have no events, since they do not change an inventory.
    """
    events = np.zeros((len(gui), len(TASKS)), bool)
    for place, task in enumerate(TASKS):
        verb, item = task.split("_", 1)
        if item not in counts:
            continue
        if verb == "mine":
            events[:, place] = was_obtained(counts[item]) & ~gui
        elif verb == "craft":
            events[:, place] = was_obtained(counts[item]) & gui
        elif verb == "place":
            events[:, place] = (np.diff(counts[item], prepend=counts[item][0]) == -1) & using & ~gui
    return events
