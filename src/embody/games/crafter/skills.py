"""What the scripted player of Crafter can do: each skill gives the name of an action, or None where it can do nothing.

A skill looks at the true state each time, and remembers little: it goes on from actions it did not suggest. What things
cost and need is read from Crafter's own data.
"""

from collections.abc import Iterable
from math import inf
from typing import Any

from embody.games.crafter.planning import HOSTILE, Sight, Walls, route, wall_in

__all__ = ["Skills"]

MOVES = ("move_left", "move_right", "move_up", "move_down")  # in the order of Sight.directions
GROWING = 18  # a plant grows only while the player is nearer than this


class Skills:
    """Of one episode. `look` comes before anything else at each step."""

    def begin(self, game: Any) -> None:
        """Take up the episode of `game`, a `crafter.Env`."""
        import crafter

        self._game, self._rules = game, crafter.constants
        self._plan: list[tuple[str, int]] = []  # of walls, and
        self._next: tuple[int, int, int] | None = None  # where its next step finds the player, and its stones
        self._site = 0  # the cell of the sapling that was planted to be eaten

    def look(self) -> None:
        """See the world as it is now."""
        self.sight = Sight(self._game, self._rules, self._site)

    # --- what is so -------------------------------------------------------------------------------------------------

    def _done(self, achievement: str) -> bool:
        return self.sight.player.achievements[achievement] > 0

    def _has(self, item: str) -> int:
        return self.sight.inventory[item]

    def _uses(self, thing: str) -> dict[str, int]:
        rules = self._rules.make if thing in self._rules.make else self._rules.place
        return rules[thing]["uses"]

    def _near(self, thing: str) -> bool:
        return thing in self._game._world.nearby(self.sight.player.pos, 1)[0]

    def _threats(self, within: int) -> list[int]:
        s = self.sight
        return [cell for cell in s.kinds(*HOSTILE) if s.distance(cell, s.here) <= within]

    # --- skills -----------------------------------------------------------------------------------------------------

    def _turn(self, direction: int) -> str:
        """Face that way; where it is free, step there."""
        return MOVES[self.sight.directions.index(direction)]

    def _walk(self, way: list[int], then: str = "do") -> str | None:
        """One step along a way, through what can be dug, fought or bridged; `then` at its last cell."""
        s = self.sight
        if not way:
            return None
        direction = way[0] - s.here
        if s.facing != direction:
            return self._turn(direction)
        if len(way) == 1:
            return then
        if s.free(way[0]):
            return self._turn(direction)
        return "place_stone" if s.material(way[0]) == "water" and way[0] not in s.things else "do"

    @property
    def _far(self) -> float:
        """How much a way may cost: by night no field is crossed."""
        return 60 if self.sight.is_night else 400

    def _use(self, targets: Iterable[int], then: str = "do", limit: float | None = None) -> str | None:
        """Go to the nearest of these cells, and do that to it."""
        found = set(targets)
        return self._walk(route(self.sight, found, limit or self._far), then) if found else None

    def _stand(self, targets: Iterable[int], limit: float | None = None) -> str | None:
        """Go onto the nearest of these cells."""
        s, found = self.sight, set(targets)
        way = route(s, found, limit or self._far) if found else []
        if len(way) == 1 and s.free(way[0]):
            return self._turn(way[0] - s.here)
        return self._walk(way)

    def _collect(self, material: str, limit: float | None = None) -> str | None:
        return self._use(self.sight.cells(material), limit=limit) if self.sight.can_collect(material) else None

    def _sapling(self) -> str | None:
        """Grass gives one now and then; one walks over it, so whatever grass is faced will do."""
        s = self.sight
        faced = s.here + s.facing
        if s.material(faced) == "grass" and faced not in s.things:
            return "do"
        return self._stand(s.cells("grass"))

    def _place(self, thing: str) -> str | None:
        """Put it in front, after a turn or a step to where it can stand."""
        s, where = self.sight, self._rules.place[thing]["where"]

        def fits(cell: int) -> bool:
            return s.material(cell) in where and cell not in s.things

        if fits(s.here + s.facing) and s.material(s.here + s.facing) != "lava":
            return f"place_{thing}"
        for direction in s.directions:
            if fits(s.here + direction) and s.material(s.here + direction) == "water":
                return self._turn(direction)
        steps = [d for d in s.directions if s.free(s.here + d) and s.costs[s.here + d] < inf]
        for direction in steps:
            if fits(s.here + 2 * direction):
                return self._turn(direction)
        return self._collect("stone", 4) or self._collect("tree", 4) or (self._turn(steps[0]) if steps else None)

    def _bench(self, furnace: bool) -> str | None:
        """Have a table, and a furnace if asked for, at hand; None once it is so."""
        s = self.sight
        if not self._near("table"):
            tables = set(s.cells("table"))
            around = {t + dx * s.width + dy for t in tables for dx in (-1, 0, 1) for dy in (-1, 0, 1)} - tables
            way = route(s, around, 60) if tables else []
            wood = self._uses("table")["wood"]
            if way and (len(way) < 10 or self._has("wood") < wood):
                return self._stand({way[-1]})
            if self._has("wood") < wood:
                return self._collect("tree")
            return self._place("table")
        if furnace and not self._near("furnace"):
            if self._has("stone") < self._uses("furnace")["stone"]:
                return self._collect("stone")
            return self._place("furnace")
        return None

    def _make(self, tool: str) -> str | None:
        """Fetch what it takes, and make it at a table."""
        furnace = "furnace" in self._rules.make[tool]["nearby"]
        for item, source in (("wood", "tree"), ("stone", "stone"), ("coal", "coal"), ("iron", "iron")):
            needed = self._uses(tool).get(item, 0)
            if item == "wood" and not self._near("table") and not self.sight.cells("table"):
                needed += self._uses("table")["wood"]
            if self._has(item) < needed:
                return self._collect(source)
        return self._bench(furnace) or f"make_{tool}"

    # --- walls: a plan is followed as long as nothing comes between -------------------------------------------------

    def _follow(self) -> str | None:
        """The next action of the plan; None if there is none, or the player is not where it should be."""
        s = self.sight
        if not self._plan or self._next != (s.here, s.facing, self._has("stone")):
            self._plan = []
            return None
        what, direction = self._plan.pop(0)
        stones = self._has("stone") + {"dig": 1, "stone": -1}.get(what, 0)
        moved = what == "move" and s.free(s.here + direction)
        self._next = (s.here + direction * moved, direction, stones)
        return {"dig": "do", "stone": "place_stone", "plant": "place_plant"}.get(what) or self._turn(direction)

    def _start(self, plan: list[tuple[str, int]]) -> str | None:
        self._plan, self._next = plan, (self.sight.here, self.sight.facing, self._has("stone"))
        return self._follow()

    def _room(self, state: Walls, most: int) -> set[int]:
        """The cells that can be walked to, or the first more than `most` of them."""
        room, queue = {state.here}, [state.here]
        while queue and len(room) <= most:
            cell = queue.pop()
            for direction in self.sight.directions:
                beyond = cell + direction
                if beyond not in room and (state.passable(self.sight, beyond) or beyond in self.sight.things):
                    room.add(beyond)
                    queue.append(beyond)
        return room

    def _is_shelter(self, state: Walls, most: int = 2) -> bool:
        s, room = self.sight, self._room(state, most)
        lava = any(s.material(cell + d) == "lava" for cell in room for d in s.directions)
        return len(room) <= most and not lava and room.isdisjoint(s.kinds(*HOSTILE))

    def _shelter(self, within: float = 200) -> str | None:
        """Sleep, or rest, where nothing can come: in two cells inside a mountain, the entrance closed."""
        s = self.sight
        if self._is_shelter(Walls(s.here, s.facing), 6):
            return "sleep" if self._has("energy") < self._rules.items["energy"]["max"] else "noop"
        if not s.can_collect("stone"):
            return None
        action = self._follow()
        if action:
            return action
        near = {s.here + dx * s.width + dy for dx in (-2, -1, 0, 1, 2) for dy in (-2, -1, 0, 1, 2)}
        solid = sum(s.solid(s.here + d) for d in s.directions)
        if solid >= 3 or (solid == 2 and self._has("stone") > 1):
            plan = wall_in(s, lambda state: int(not self._is_shelter(state)), near, most=2_000)
            if plan:
                return self._start(plan)
        deep = [
            cell
            for cell in s.cells("stone", "path")
            if all(s.solid(cell + dx * s.width + dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if dx or dy)
        ]
        growing = [cell for cell in deep if s.fence and s.distance(cell, self._site) < GROWING - 2]
        return self._stand(growing, min(within, 40)) or self._stand(deep, within)

    def _plant(self) -> str | None:
        """Plant a sapling with stones, or whatever is there, on its four sides: cows and zombies trample it."""
        s = self.sight
        action = self._follow()
        if action:
            return action
        if not self._has("sapling") and not self._planted():
            return self._sapling()
        grass = set(s.cells("grass"))

        def walls(cell: int) -> int:
            return sum(s.solid(cell + d) for d in s.directions)

        if self._planted():
            cell = self._site
            site = route(s, {cell + d for d in s.directions if s.free(cell + d)} - {s.here}) or [cell]
        else:
            good = {c for c in grass if walls(c) >= 2} - {s.here}
            site = route(s, good or grass, 40) or route(s, grass)
            if not site:
                return None
            cell = site[-1]
        if 4 - walls(cell) > self._has("stone"):
            return self._collect("stone")
        if s.distance(cell, s.here) > 2:
            return self._walk(site)
        sides = {cell + d for d in s.directions}

        def missing(state: Walls) -> int:
            open_sides = sum(state.passable(s, side) for side in sides)
            return open_sides + (not state.sapling and cell not in s.things)

        plan = wall_in(s, missing, sides, cell)
        if not plan:
            return None
        self._site = cell
        return self._start(plan)

    def _planted(self) -> bool:
        return type(self.sight.things.get(self._site)).__name__ == "Plant"

    def _growing(self) -> bool:
        """Whether the sapling stands, with nothing able to come near."""
        s = self.sight
        return self._planted() and not any(s.free(self._site + d) for d in s.directions)

    def _harvest(self) -> str | None:
        """Eat the plant if it is ripe, through its fence."""
        s = self.sight
        if not self._planted() or not s.things[self._site].ripe:
            return None
        safe = all(s.distance(cell, self._site) > 4 for cell in s.kinds(*HOSTILE))
        return self._use({self._site}) if safe or s.distance(s.here, self._site) == 1 else None
