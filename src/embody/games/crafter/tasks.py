"""The task of Crafter, its actions, its achievements and their order, without its package."""

from collections.abc import Mapping

__all__ = ["ACHIEVEMENTS", "ACTION_NAMES", "PREREQUISITES", "LABELS", "TASKS", "VOCABULARY"]

TASKS = ("crafter",)

# Crafter's own, in its order (`_load_crafter` compares): datasets are trained on without the package.
ACTION_NAMES: tuple[tuple[str, ...], ...] = (
    (
        "noop", "move left", "move right", "move up", "move down", "do", "sleep",
        "place stone", "place table", "place furnace", "place plant",
        "make wood pickaxe", "make stone pickaxe", "make iron pickaxe",
        "make wood sword", "make stone sword", "make iron sword",
    ),
)  # fmt: skip

# Sorted by name; P = 22.
ACHIEVEMENTS: tuple[str, ...] = (
    "collect_coal", "collect_diamond", "collect_drink", "collect_iron", "collect_sapling", "collect_stone",
    "collect_wood", "defeat_skeleton", "defeat_zombie", "eat_cow", "eat_plant", "make_iron_pickaxe", "make_iron_sword",
    "make_stone_pickaxe", "make_stone_sword", "make_wood_pickaxe", "make_wood_sword", "place_furnace", "place_plant",
    "place_stone", "place_table", "wake_up",
)  # fmt: skip
LABELS = tuple(name.replace("_", " ") for name in ACHIEVEMENTS)

# What an achievement takes to have achieved before, by Crafter's rules; what is used up is not in it.
PREREQUISITES: Mapping[str, tuple[str, ...]] = {
    "collect_stone": ("make_wood_pickaxe",),
    "collect_coal": ("make_wood_pickaxe",),
    "collect_iron": ("make_stone_pickaxe",),
    "collect_diamond": ("make_iron_pickaxe",),
    "eat_plant": ("place_plant",),
    "make_wood_pickaxe": ("place_table",),
    "make_wood_sword": ("place_table",),
    "make_stone_pickaxe": ("place_table", "collect_stone"),
    "make_stone_sword": ("place_table", "collect_stone"),
    "make_iron_pickaxe": ("place_furnace", "collect_coal", "collect_iron"),
    "make_iron_sword": ("place_furnace", "collect_coal", "collect_iron"),
    "place_furnace": ("place_table", "collect_stone"),
    "place_plant": ("collect_sapling",),
    "place_stone": ("collect_stone",),
    "place_table": ("collect_wood",),
}

# Every word of the labels; datasets keep it, so new words go to the end.
VOCABULARY: tuple[str, ...] = (
    "<pad>", "<unknown>",
    "coal", "collect", "cow", "defeat", "diamond", "drink", "eat", "furnace", "iron", "make", "pickaxe", "place",
    "plant", "sapling", "skeleton", "stone", "sword", "table", "up", "wake", "wood", "zombie",
)  # fmt: skip
