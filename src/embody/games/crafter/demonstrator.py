"""Crafter's expert: a scripted player that sees the whole world and pursues its goals in a fixed order.

The goals are reached by the skills in `skills.py`.
"""

from typing import Any

from embody.games.crafter.skills import GROWTH_RADIUS, Skills
from embody.games.crafter.tasks import ACTION_NAMES

__all__ = ["CrafterExpert"]

ACTION = {name.replace(" ", "_"): number for number, name in enumerate(ACTION_NAMES[0])}
TOOLS = ("wood_pickaxe", "wood_sword", "stone_pickaxe", "stone_sword")
WOOD_STOCK = 9  # wood that the player collects before it leaves the trees
STONE_STOCK = 6  # stones that it always carries, for the plant's walls, for bridges and to close a shelter
DUSK, NIGHTFALL = 110, 175  # steps of the day between which the player eats and drinks for the night


class CrafterExpert(Skills):
    """Survives and unlocks the 22 achievements, the diamond as early as it can."""

    def reset(self, env: Any) -> None:
        """Begin the episode that `env`, a `CrafterPixels`, was just reset to."""
        self.start(env.game)
        self._need: str | None = None  # what the player is refilling: drink, food, energy or health

    def action(self, previous: int | None) -> int:
        """The next action, 0..16."""
        self.observe()
        if self.view.player.sleeping:
            return ACTION["sleep"]
        return ACTION[self._fight() or self._needs() or self._goals() or "noop"]

    def _fight(self) -> str | None:
        """Attack a zombie or skeleton beside the player.

        A skeleton in line is hunted while that achievement is missing and health is above 5; otherwise a stone is
        placed to stop its arrows.
        """
        view = self.view
        beside = [cell - view.position for cell in self._hostile_cells(1)]
        if beside:
            return "do" if view.facing in beside else self._move(beside[0])
        for skeleton, direction in self._skeletons_in_line():
            if not self._achieved("defeat_skeleton") and self._amount("health") > 5:
                return self._interact({skeleton})
            if self._amount("stone"):
                return "place_stone" if view.facing == direction else self._move(direction)
        return None

    def _skeletons_in_line(self) -> list[tuple[int, int]]:
        """Skeletons at most five cells away in a straight line without an obstacle: (cell, direction)."""
        view, found = self.view, []
        skeletons = set(view.cells_with("Skeleton"))
        for direction in view.directions if skeletons else ():
            for n in range(1, 6):
                cell = view.position + n * direction
                if cell in skeletons:
                    found.append((cell, direction))
                elif not view.walkable(cell):
                    break
        return found

    def _needs(self) -> str | None:
        """Drink, eat, sleep or rest when drink, food, energy or health is low, and go on until it is high again.

        A nap by day comes first while the achievement `wake_up` is missing. At dusk, prepare for the night.
        """
        view = self.view
        if not self._achieved("wake_up") and self._can_nap():
            return "sleep"
        starving = not self._amount("food") or not self._amount("drink")
        least = {"drink": 2, "food": 1, "energy": 6} if self.view.is_night else {"drink": 3, "food": 3, "energy": 2}
        if not starving:
            least["health"] = 4
        enough = {"drink": 8, "food": 6, "energy": 9, "health": 6}
        skills = {"drink": self._drink, "food": self._eat, "energy": self._shelter, "health": self._shelter}
        if self._need == "health" and starving:
            self._need = None
        low = [item for item in least if self._amount(item) <= least[item]]
        for item in ([self._need] if self._need else []) + sorted(low, key=self._amount):
            action = skills[item]() if self._amount(item) < enough[item] else None
            if action:
                self._need = item
                return action
        self._need = None
        if DUSK < view.step_of_day < NIGHTFALL:
            action = self._interact(view.cells_with("Cow"), limit=25) if self._amount("food") < 7 else None
            if not action and self._amount("drink") < 7:
                action = self._collect("water", 25)
            if action:
                return action
        faced = view.position + view.facing
        return "do" if view.material(faced) == "water" and self._amount("drink") < 8 else None

    def _can_nap(self) -> bool:
        """Whether a nap is possible and safe: energy is not full, it is day, and no zombie or skeleton is near.

        Regaining one point of energy, and with it waking up, takes about twelve steps.
        """
        tired = self._amount("energy") < self._rules.items["energy"]["max"]
        return tired and self.view.daylight > 0.7 and not self._hostile_cells(9)

    def _drink(self) -> str | None:
        return self._collect("water", 400)

    def _eat(self) -> str | None:
        return self._eat_plant() or self._interact(self.view.cells_with("Cow"), limit=400)

    def _goals(self) -> str | None:
        return self._early_goals() or self._late_goals() or self._wait()

    def _early_goals(self) -> str | None:
        """The first goals, up to the stone tools: all of them are near."""
        if not self._achieved("collect_sapling") and self.view.cells("grass"):
            return self._collect_sapling()
        if not self._achieved("make_wood_pickaxe") and not self.view.cells("table"):
            table, pickaxe = self._cost("table"), self._cost("wood_pickaxe")
            if self._amount("wood") < table["wood"] + 2 * pickaxe["wood"]:
                return self._collect("tree")
        for achievement, skill, limit in (("eat_cow", "Cow", 8), ("collect_drink", "water", 8)):
            if not self._achieved(achievement):
                cells = self.view.cells_with(skill) if skill == "Cow" else self.view.cells(skill)
                action = self._interact(cells, limit=limit)
                if action:
                    return action
        for tool in TOOLS:
            if not self._achieved(f"make_{tool}"):
                action = self._stock_wood(tool) or self._make(tool)
                if action:
                    return action
        return None

    def _stock_wood(self, tool: str) -> str | None:
        """Collect the wood for all later tools before stone is mined, since there are trees near."""
        wooden = tool.startswith("wood") or self._amount("stone") or self._achieved("make_stone_pickaxe")
        return self._collect("tree", 12) if not wooden and self._amount("wood") < WOOD_STOCK else None

    def _late_goals(self) -> str | None:
        """The later goals: stones, a walled-in plant, the iron pickaxe, the diamond, the iron sword, fights."""
        view = self.view
        if not self._achieved("eat_plant"):
            action = self._eat_plant()
            if action:
                return action
        if self._plant_stands() and not self._plant_is_fenced() and not self._achieved("eat_plant"):
            action = self._plant_sapling()
            if action:
                return action
        if self._amount("stone") < STONE_STOCK and not self._plan:
            action = self._collect("stone")
            if action:
                return action
        if not self._achieved("place_stone"):
            return self._place("stone")
        if not self._achieved("eat_plant") and not self._plant_is_fenced():
            action = self._plant_sapling()
            if action:
                return action
        for tool in ("iron_pickaxe", "iron_sword"):
            if not self._achieved(f"make_{tool}"):
                if tool == "iron_sword" and not self._achieved("collect_diamond"):
                    action = self._collect("diamond")
                    if action:
                        return action
                action = self._make(tool)
                if action:
                    return action
        if not self._achieved("collect_diamond"):
            action = self._collect("diamond")
            if action:
                return action
        for achievement, kind in (("eat_cow", "Cow"), ("defeat_zombie", "Zombie"), ("defeat_skeleton", "Skeleton")):
            if not self._achieved(achievement):
                action = self._interact(view.cells_with(kind), limit=150)
                if action:
                    return action
        if not self._achieved("collect_drink"):
            return self._drink()
        return None

    def _wait(self) -> str | None:
        """Every goal is reached or waits for the plant to ripen: stay near it and safe, or collect more materials."""
        view = self.view
        growing = self._plant_stands()
        if growing and view.distance(self._plant_cell, view.position) > GROWTH_RADIUS - 4:
            action = self._interact(view.fence, limit=400)
            if action:
                return action
        if self.view.is_night or growing:
            action = self._shelter(12 if growing else 200)
            if action:
                return action
        for material in ("diamond", "iron", "coal", "stone", "tree", "water"):
            if self._amount({"tree": "wood", "water": "drink"}.get(material, material)) < 9:
                action = self._collect(material, 20 if growing else None)
                if action:
                    return action
        return None
