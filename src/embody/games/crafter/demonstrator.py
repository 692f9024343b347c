"""A scripted player of Crafter that sees the whole world: its goals in order, over those of `skills.py`."""

from typing import Any

from embody.games.crafter.skills import GROWING, Skills
from embody.games.crafter.tasks import ACTION_NAMES

__all__ = ["CrafterExpert"]

ACTION = {name.replace(" ", "_"): number for number, name in enumerate(ACTION_NAMES[0])}
TOOLS = ("wood_pickaxe", "wood_sword", "stone_pickaxe", "stone_sword")
WOOD, STONES = 9, 6  # carried from the trees; carried always: a fence, a bridge, a door
DUSK, NIGHTFALL = 110, 175  # steps of the day between which the stomach is filled for the night


class CrafterExpert(Skills):
    """Plays for the 22 achievements, the diamond first among the late ones, and for its life."""

    def reset(self, env: Any) -> None:
        """Take up the episode that `env`, a `CrafterPixels`, has just begun."""
        self.begin(env.game)
        self._need: str | None = None  # what is being filled up: drink, food, energy or health

    def action(self, previous: int | None) -> int:
        """The next action, 0..16."""
        self.look()
        if self.sight.player.sleeping:
            return ACTION["sleep"]
        return ACTION[self._fight() or self._needs() or self._goals() or "noop"]

    def _fight(self) -> str | None:
        """Whatever stands next to the player is dealt with first; archers are hunted, or a stone stops their arrows."""
        s = self.sight
        beside = [cell - s.here for cell in self._threats(1)]
        if beside:
            return "do" if s.facing in beside else self._turn(beside[0])
        for archer, direction in self._archers():
            if not self._done("defeat_skeleton") and self._has("health") > 5:
                return self._use({archer})
            if self._has("stone"):
                return "place_stone" if s.facing == direction else self._turn(direction)
        return None

    def _archers(self) -> list[tuple[int, int]]:
        """Skeletons at most five cells away with nothing between, and in which direction."""
        s, found = self.sight, []
        archers = set(s.kinds("Skeleton"))
        for direction in s.directions if archers else ():
            for n in range(1, 6):
                cell = s.here + n * direction
                if cell in archers:
                    found.append((cell, direction))
                elif not s.free(cell):
                    break
        return found

    def _needs(self) -> str | None:
        """Drink, eat, sleep and heal before it is too late; nap as soon as a nap counts."""
        s = self.sight
        if not self._done("wake_up") and self._tired_by_day():
            return "sleep"
        starving = not self._has("food") or not self._has("drink")
        least = {"drink": 2, "food": 1, "energy": 6} if self.sight.is_night else {"drink": 3, "food": 3, "energy": 2}
        if not starving:
            least["health"] = 4
        enough = {"drink": 8, "food": 6, "energy": 9, "health": 6}
        skills = {"drink": self._drink, "food": self._eat, "energy": self._shelter, "health": self._shelter}
        if self._need == "health" and starving:
            self._need = None
        low = [item for item in least if self._has(item) <= least[item]]
        for item in ([self._need] if self._need else []) + sorted(low, key=self._has):
            action = skills[item]() if self._has(item) < enough[item] else None
            if action:
                self._need = item
                return action
        self._need = None
        if DUSK < s.hour < NIGHTFALL:
            action = self._use(s.kinds("Cow"), limit=25) if self._has("food") < 7 else None
            if not action and self._has("drink") < 7:
                action = self._collect("water", 25)
            if action:
                return action
        faced = s.here + s.facing
        return "do" if s.material(faced) == "water" and self._has("drink") < 8 else None

    def _tired_by_day(self) -> bool:
        """By day nothing comes near for the dozen steps that one point of energy takes."""
        tired = self._has("energy") < self._rules.items["energy"]["max"]
        return tired and self.sight.daylight > 0.7 and not self._threats(9)

    def _drink(self) -> str | None:
        return self._collect("water", 400)

    def _eat(self) -> str | None:
        return self._harvest() or self._use(self.sight.kinds("Cow"), limit=400)

    def _goals(self) -> str | None:
        return self._early() or self._late() or self._wait()

    def _early(self) -> str | None:
        """Up to stone tools: no way is long."""
        if not self._done("collect_sapling") and self.sight.cells("grass"):
            return self._sapling()
        if not self._done("make_wood_pickaxe") and not self.sight.cells("table"):
            table, pickaxe = self._uses("table"), self._uses("wood_pickaxe")
            if self._has("wood") < table["wood"] + 2 * pickaxe["wood"]:
                return self._collect("tree")
        for achievement, skill, limit in (("eat_cow", "Cow", 8), ("collect_drink", "water", 8)):
            if not self._done(achievement):
                cells = self.sight.kinds(skill) if skill == "Cow" else self.sight.cells(skill)
                action = self._use(cells, limit=limit)
                if action:
                    return action
        for tool in TOOLS:
            if not self._done(f"make_{tool}"):
                action = self._stock(tool) or self._make(tool)
                if action:
                    return action
        return None

    def _stock(self, tool: str) -> str | None:
        """Wood for all that follows, before the trees are left."""
        wooden = tool.startswith("wood") or self._has("stone") or self._done("make_stone_pickaxe")
        return self._collect("tree", 12) if not wooden and self._has("wood") < WOOD else None

    def _late(self) -> str | None:
        """Stones, a plant with a fence, iron tools, the diamond, fights."""
        s = self.sight
        if not self._done("eat_plant"):
            action = self._harvest()
            if action:
                return action
        if self._planted() and not self._growing() and not self._done("eat_plant"):
            action = self._plant()
            if action:
                return action
        if self._has("stone") < STONES and not self._plan:
            action = self._collect("stone")
            if action:
                return action
        if not self._done("place_stone"):
            return self._place("stone")
        if not self._done("eat_plant") and not self._growing():
            action = self._plant()
            if action:
                return action
        for tool in ("iron_pickaxe", "iron_sword"):
            if not self._done(f"make_{tool}"):
                if tool == "iron_sword" and not self._done("collect_diamond"):
                    action = self._collect("diamond")
                    if action:
                        return action
                action = self._make(tool)
                if action:
                    return action
        if not self._done("collect_diamond"):
            action = self._collect("diamond")
            if action:
                return action
        for achievement, kind in (("eat_cow", "Cow"), ("defeat_zombie", "Zombie"), ("defeat_skeleton", "Skeleton")):
            if not self._done(achievement):
                action = self._use(s.kinds(kind), limit=150)
                if action:
                    return action
        if not self._done("collect_drink"):
            return self._drink()
        return None

    def _wait(self) -> str | None:
        """Nothing is left but to wait, near the plant, or to take what there is."""
        s = self.sight
        growing = self._planted()
        if growing and s.distance(self._site, s.here) > GROWING - 4:
            action = self._use(s.fence, limit=400)
            if action:
                return action
        if self.sight.is_night or growing:
            action = self._shelter(12 if growing else 200)
            if action:
                return action
        for material in ("diamond", "iron", "coal", "stone", "tree", "water"):
            if self._has({"tree": "wood", "water": "drink"}.get(material, material)) < 9:
                action = self._collect(material, 20 if growing else None)
                if action:
                    return action
        return None
