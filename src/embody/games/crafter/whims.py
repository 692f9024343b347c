"""A player of Crafter that goes for whatever comes to its mind, and tries what cannot work where it might.

The expert's goals have one order, which the inventory shows: who is cloned from it need not heed what is asked for. And
it makes things when it can, once: what a second or an early try comes to, nobody could learn from it.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from embody.games.crafter.demonstrator import ACTION, CrafterExpert
from embody.games.crafter.tasks import ACTION_NAMES

__all__ = ["CrafterWhims"]

OWN = 0.25  # how often it does what the expert would, for a while, which is longer than most wishes last
LONGEST, WHILE = 60, 30  # steps that a wish is followed, and that the expert's goals are; needs and fights come between
FUMBLE, ON = 0.3, 0.8  # how often it makes or places anything, beside a table and out of danger; and goes on with it
TRIES = tuple(n for n, name in enumerate(ACTION_NAMES[0]) if name.startswith(("make", "place")))
DRAWS = 6  # wishes in a step, until one can be followed


class CrafterWhims(CrafterExpert):
    """Keeps alive as the expert does. Each wish is an achievement, new or not, held until it comes."""

    def reset(self, env: Any) -> None:
        """Take up the episode; its wishes follow from the world's seed."""
        super().reset(env)
        self._rng = np.random.default_rng(env.game._seed)
        self._wish: str | None = None  # None: the expert's goals
        self._fumbles, self._last = False, int(TRIES[0])
        self._left = self._count = 0  # steps; and how often the wish had come true

    def action(self, previous: int | None) -> int:
        """The next action, 0..16."""
        action = super().action(previous)
        free = action != ACTION["sleep"] and not self._threats(1) and self._near("table")
        self._fumbles = free and self._rng.random() < (ON if self._fumbles else FUMBLE)
        if self._fumbles:  # again what it made last, as often as not
            action = self._last if self._rng.random() < 0.5 else int(self._rng.choice(TRIES))
        self._last = action if action in TRIES else self._last
        return action

    def _goals(self) -> str | None:
        own = self._rng.random() < OWN
        for _ in range(DRAWS):
            if self._left <= 0 or (self._wish and self._times(self._wish) > self._count):
                self._draw(own)
            action = self._wishes[self._wish]() if self._wish else super()._goals()
            if action or not self._wish:
                self._left -= 1
                return action
            self._left, own = 0, False  # out of reach: another wish, or there would be few of them
        return super()._goals()

    def _draw(self, own: bool) -> None:
        if own:
            self._wish, self._left = None, WHILE
        else:
            self._wish, self._left = str(self._rng.choice([*self._wishes])), LONGEST
            self._count = self._times(self._wish)
        self._plan = []  # of walls for the goal before

    def _times(self, achievement: str) -> int:
        return self.sight.player.achievements[achievement]

    @property
    def _wishes(self) -> Mapping[str, Callable[[], str | None]]:
        """How to go for each achievement; None where it is out of reach."""
        s = self.sight
        tools = [f"{of}_{what}" for of in ("wood", "stone", "iron") for what in ("pickaxe", "sword")]
        return {
            **{f"collect_{item}": partial(self._collect, item) for item in ("stone", "coal", "iron", "diamond")},
            "collect_wood": lambda: self._collect("tree"),
            "collect_drink": self._drink,
            "collect_sapling": self._sapling,
            "defeat_zombie": lambda: self._use(s.kinds("Zombie"), limit=40),
            "defeat_skeleton": lambda: self._use(s.kinds("Skeleton"), limit=40),
            "eat_cow": lambda: self._use(s.kinds("Cow")),
            **{f"make_{tool}": partial(self._make, tool) for tool in tools},
            "place_plant": lambda: self._place("plant") if self._has("sapling") else self._sapling(),
            "place_stone": lambda: self._place("stone") if self._has("stone") else self._collect("stone"),
            "place_table": lambda: self._place("table") if self._can_place("table") else self._collect("tree"),
            "place_furnace": self._furnace,
            "wake_up": lambda: "sleep" if self._tired_by_day() else None,
        }  # fmt: skip

    def _can_place(self, thing: str) -> bool:
        return all(self._has(item) >= number for item, number in self._uses(thing).items())

    def _furnace(self) -> str | None:
        if not self._can_place("furnace"):
            return self._collect("stone")
        return self._bench(furnace=False) or self._place("furnace")
