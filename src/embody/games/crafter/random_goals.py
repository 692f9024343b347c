"""Crafter's off-task expert: it pursues random achievements, and beside a table it often tries random crafting actions.

The expert always pursues its goals in the same order, and the inventory shows how far it is, so a policy cloned from it
can ignore its task. The expert also crafts each tool once and only when it can, so its recordings never show a repeated
or a failing attempt. The recordings of this player do.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from embody.games.crafter.demonstrator import ACTION, CrafterExpert
from embody.games.crafter.tasks import ACTION_NAMES

__all__ = ["RandomGoalExpert"]

EXPERT_SHARE = 0.25  # probability that the next goal is the expert's own, instead of a random achievement
# How many steps a random goal, or the expert's own goals, are pursued at most. Steps spent on needs or fights are not
# counted.
GOAL_STEPS, EXPERT_STEPS = 60, 30
# Probability, at a step beside a table and out of danger, of a random crafting action: if the previous step had none,
# and if it had one.
TRY_START, TRY_CONTINUE = 0.3, 0.8
CRAFTING_ACTIONS = tuple(n for n, name in enumerate(ACTION_NAMES[0]) if name.startswith(("make", "place")))
MAX_DRAWS = 6  # goals drawn in one step at most, until one can be pursued


class RandomGoalExpert(CrafterExpert):
    """Survives as the expert does; each goal is a random achievement, also one that was unlocked before.

    A goal is pursued until it is achieved, cannot be pursued, or `GOAL_STEPS` have passed.
    """

    def reset(self, env: Any) -> None:
        """Begin the episode that `env` was just reset to; its goals are a function of the world's seed."""
        super().reset(env)
        self._rng = np.random.default_rng(env.game._seed)
        self._goal: str | None = None  # an achievement; None: the expert's own goals
        self._is_trying, self._last_tried = False, int(CRAFTING_ACTIONS[0])
        self._steps_left = 0  # steps until another goal is drawn
        self._count_at_draw = 0  # how often the goal had been achieved when it was drawn

    def action(self, previous: int | None) -> int:
        """The next action, 0..16."""
        action = super().action(previous)
        may_try = action != ACTION["sleep"] and not self._hostile_cells(1) and self._is_nearby("table")
        self._is_trying = may_try and self._rng.random() < (TRY_CONTINUE if self._is_trying else TRY_START)
        if self._is_trying:  # half of these actions repeat the last one
            action = self._last_tried if self._rng.random() < 0.5 else int(self._rng.choice(CRAFTING_ACTIONS))
        self._last_tried = action if action in CRAFTING_ACTIONS else self._last_tried
        return action

    def _goals(self) -> str | None:
        expert = self._rng.random() < EXPERT_SHARE
        for _ in range(MAX_DRAWS):
            if self._steps_left <= 0 or (self._goal and self._times_achieved(self._goal) > self._count_at_draw):
                self._draw_goal(expert)
            action = self._goal_skills[self._goal]() if self._goal else super()._goals()
            if action or not self._goal:
                self._steps_left -= 1
                return action
            # The goal cannot be pursued. Draw a random one again, else the expert's goals would take most of the steps.
            self._steps_left, expert = 0, False
        return super()._goals()

    def _draw_goal(self, expert: bool) -> None:
        if expert:
            self._goal, self._steps_left = None, EXPERT_STEPS
        else:
            self._goal, self._steps_left = str(self._rng.choice([*self._goal_skills])), GOAL_STEPS
            self._count_at_draw = self._times_achieved(self._goal)
        self._plan = []  # the plan of walls belonged to the previous goal

    def _times_achieved(self, achievement: str) -> int:
        return self.view.player.achievements[achievement]

    @property
    def _goal_skills(self) -> Mapping[str, Callable[[], str | None]]:
        """The skill that pursues each achievement; it returns None where the achievement cannot be pursued now."""
        view = self.view
        tools = [f"{of}_{what}" for of in ("wood", "stone", "iron") for what in ("pickaxe", "sword")]
        return {
            **{f"collect_{item}": partial(self._collect, item) for item in ("stone", "coal", "iron", "diamond")},
            "collect_wood": lambda: self._collect("tree"),
            "collect_drink": self._drink,
            "collect_sapling": self._collect_sapling,
            "defeat_zombie": lambda: self._interact(view.cells_with("Zombie"), limit=40),
            "defeat_skeleton": lambda: self._interact(view.cells_with("Skeleton"), limit=40),
            "eat_cow": lambda: self._interact(view.cells_with("Cow")),
            **{f"make_{tool}": partial(self._make, tool) for tool in tools},
            "place_plant": lambda: self._place("plant") if self._amount("sapling") else self._collect_sapling(),
            "place_stone": lambda: self._place("stone") if self._amount("stone") else self._collect("stone"),
            "place_table": lambda: self._place("table") if self._can_place("table") else self._collect("tree"),
            "place_furnace": self._furnace,
            "wake_up": lambda: "sleep" if self._can_nap() else None,
        }  # fmt: skip

    def _can_place(self, thing: str) -> bool:
        return all(self._amount(item) >= number for item, number in self._cost(thing).items())

    def _furnace(self) -> str | None:
        if not self._can_place("furnace"):
            return self._collect("stone")
        return self._reach_table(furnace=False) or self._place("furnace")
