"""Minecraft's tasks and their labels, and the items and rewards on the way to the diamond (docs/minecraft.md)."""

from collections.abc import Mapping
from typing import Literal

__all__ = ["ITEMS", "MINERL_REWARDS", "TASKS", "VOCABULARY", "item_counts", "minerl_observations", "task_label"]

# [P] The agent's tasks: a verb and an item.
TASKS: tuple[str, ...] = (
    *("mine_log", "mine_cobblestone", "mine_iron_ore", "mine_coal", "mine_diamond"),
    *("craft_planks", "craft_stick", "craft_crafting_table", "craft_furnace", "craft_iron_ingot"),
    *("craft_wooden_pickaxe", "craft_stone_pickaxe", "craft_iron_pickaxe"),
    *("open_crafting_table", "open_furnace", "place_crafting_table", "place_furnace"),
    *("use_wooden_pickaxe", "use_stone_pickaxe", "use_iron_pickaxe"),
)

# ObtainDiamond's reward for obtaining each item for the first time, after the name of the item's task.
MINERL_REWARDS: Mapping[str, tuple[str, float]] = {
    "log": ("mine_log", 1),
    "planks": ("craft_planks", 2),
    "stick": ("craft_stick", 4),
    "crafting_table": ("craft_crafting_table", 4),
    "wooden_pickaxe": ("craft_wooden_pickaxe", 8),
    "cobblestone": ("mine_cobblestone", 16),
    "furnace": ("craft_furnace", 32),
    "stone_pickaxe": ("craft_stone_pickaxe", 32),
    "iron_ore": ("mine_iron_ore", 64),
    "iron_ingot": ("craft_iron_ingot", 128),
    "iron_pickaxe": ("craft_iron_pickaxe", 256),
    "diamond": ("mine_diamond", 1024),
}

# The items that are counted on the way to the diamond, in the order in which they are usually obtained.
ITEMS: tuple[str, ...] = (
    *("log", "planks", "stick", "crafting_table", "wooden_pickaxe", "cobblestone", "stone_pickaxe", "furnace"),
    *("coal", "iron_ore", "iron_ingot", "iron_pickaxe", "diamond"),
)


def item_counts(inventory: Mapping[str, int]) -> dict[str, int]:
    """The count of each of `ITEMS`; the kinds of wood in MineRL 1.0 (`oak_log`, `birch_planks`) are added up."""
    counts = dict.fromkeys(ITEMS, 0)
    for name, count in inventory.items():
        wood = name.rpartition("_")[2]
        item = "log" if name == "log2" else wood if wood in ("log", "planks") else name
        if item in counts:
            counts[item] += count
    return counts


def task_label(task: str) -> str:
    """The task in words, such as "craft stone pickaxe"."""
    return task.replace("_", " ")


# The words of the labels of all recordings, so that recordings can be mixed; "navigate" is a task of MineRL only.
VOCABULARY: tuple[str, ...] = (
    *("<pad>", "<unknown>"),
    *sorted({"navigate", *(word for task in TASKS for word in task.split("_"))}),
)


# --- observations of MineRL's recordings -----------------------------------------------------------------------------

_ITEMS = (
    *("coal", "cobblestone", "crafting_table", "dirt", "furnace", "iron_axe", "iron_ingot", "iron_ore", "iron_pickaxe"),
    *("log", "planks", "stick", "stone", "stone_axe", "stone_pickaxe", "torch", "wooden_axe", "wooden_pickaxe"),
)


def minerl_observations(environment: str) -> dict[str, Literal["number", "word"]]:
    """The observations of a MineRL 0.4.4 environment beside its frames: key, such as `inventory$log`, and kind."""
    if "Navigate" in environment:
        return {"compass$angle": "number", "inventory$dirt": "number"}
    if "Obtain" in environment:
        hand = "equipped_items$mainhand$"
        items: dict[str, Literal["number", "word"]] = {f"inventory${item}": "number" for item in _ITEMS}
        return {**items, f"{hand}type": "word", f"{hand}damage": "number", f"{hand}maxDamage": "number"}
    return {}
