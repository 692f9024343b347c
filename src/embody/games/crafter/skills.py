"""The skills of Crafter's scripted player, such as collecting wood or building a shelter.

A skill returns the name of the next action, or None if it has nothing to do or cannot do it. Skills read the true state
at every step and remember only a plan of walls and the cell of one sapling, so they continue from any action, also from
one that they did not suggest. Costs and requirements are read from Crafter's own data.
"""

from collections.abc import Iterable
from math import inf
from typing import Any

from embody.games.crafter.planning import HOSTILE, WallState, WorldView, cheapest_path, plan_walls

__all__ = ["Skills"]

MOVES = ("move_left", "move_right", "move_up", "move_down")  # in the order of WorldView.directions
GROWTH_RADIUS = 18  # cells; a sapling grows only while the player is nearer than this


class Skills:
    """The skills in one episode: `start` it, then call `observe` at each step before any skill."""

    def start(self, game: Any) -> None:
        """Begin an episode of `game`, a `crafter.Env`."""
        import crafter

        self._game, self._rules = game, crafter.constants
        self._plan: list[tuple[str, int]] = []  # the rest of a plan of walls: (action, direction)
        # The player's cell, direction and number of stones before the plan's next action, if all went as planned.
        self._expected: tuple[int, int, int] | None = None
        self._plant_cell = 0  # the cell of the sapling that is to be eaten once ripe; 0 if none was planted

    def observe(self) -> None:
        """Read the true state of the world."""
        self.view = WorldView(self._game, self._rules, self._plant_cell)

    # --- queries ----------------------------------------------------------------------------------------------------

    def _achieved(self, achievement: str) -> bool:
        """Whether the achievement was unlocked in this episode."""
        return self.view.player.achievements[achievement] > 0

    def _amount(self, item: str) -> int:
        """How much of an item, or of health, food, drink or energy, the player has, 0 to 9."""
        return self.view.inventory[item]

    def _cost(self, thing: str) -> dict[str, int]:
        """The items that making or placing a thing uses up."""
        rules = self._rules.make if thing in self._rules.make else self._rules.place
        return rules[thing]["uses"]

    def _is_nearby(self, thing: str) -> bool:
        """Whether such a thing is one of the eight cells around the player, as crafting requires."""
        return thing in self._game._world.nearby(self.view.player.pos, 1)[0]

    def _hostile_cells(self, within: int) -> list[int]:
        """The cells of zombies and skeletons at a distance of at most `within`."""
        view = self.view
        return [cell for cell in view.cells_with(*HOSTILE) if view.distance(cell, view.position) <= within]

    # --- skills -----------------------------------------------------------------------------------------------------

    def _move(self, direction: int) -> str:
        """Step in a direction; where the cell there is blocked, Crafter's move only turns the player to it."""
        return MOVES[self.view.directions.index(direction)]

    def _follow_path(self, path: list[int], then: str = "do") -> str | None:
        """The next action along `path`; once only its last cell is left and is faced, `then`.

        A cell on the path that cannot be walked on is cleared first: blocks are mined, creatures are fought, and stones
        are placed on water.
        """
        view = self.view
        if not path:
            return None
        direction = path[0] - view.position
        if view.facing != direction:
            return self._move(direction)
        if len(path) == 1:
            return then
        if view.walkable(path[0]):
            return self._move(direction)
        return "place_stone" if view.material(path[0]) == "water" and path[0] not in view.objects else "do"

    @property
    def _max_path_cost(self) -> float:
        """The highest cost of a path, in steps; at night it is low, so that the player does not cross grassland."""
        return 60 if self.view.is_night else 400

    def _interact(self, targets: Iterable[int], then: str = "do", limit: float | None = None) -> str | None:
        """Go beside the nearest of `targets`, face it and do `then`; None if the path costs more than `limit`."""
        found = set(targets)
        return self._follow_path(cheapest_path(self.view, found, limit or self._max_path_cost), then) if found else None

    def _go_to(self, targets: Iterable[int], limit: float | None = None) -> str | None:
        """Step onto the nearest of `targets`; None if the path costs more than `limit`."""
        view, found = self.view, set(targets)
        path = cheapest_path(view, found, limit or self._max_path_cost) if found else []
        if len(path) == 1 and view.walkable(path[0]):
            return self._move(path[0] - view.position)
        return self._follow_path(path)

    def _collect(self, material: str, limit: float | None = None) -> str | None:
        """Collect the material from the nearest cell of it; None without the tool for it."""
        return self._interact(self.view.cells(material), limit=limit) if self.view.can_collect(material) else None

    def _collect_sapling(self) -> str | None:
        """Collect a sapling: interact with any grass in front, which gives one with a probability of 10%."""
        view = self.view
        faced = view.position + view.facing
        if view.material(faced) == "grass" and faced not in view.objects:
            return "do"
        return self._go_to(view.cells("grass"))

    def _place(self, thing: str) -> str | None:
        """Place a thing in the cell in front, after turning or stepping until that cell can hold it."""
        view, where = self.view, self._rules.place[thing]["where"]

        def fits(cell: int) -> bool:
            return view.material(cell) in where and cell not in view.objects

        if fits(view.position + view.facing) and view.material(view.position + view.facing) != "lava":
            return f"place_{thing}"
        for direction in view.directions:
            if fits(view.position + direction) and view.material(view.position + direction) == "water":
                return self._move(direction)
        steps = [d for d in view.directions if view.walkable(view.position + d) and view.costs[view.position + d] < inf]
        for direction in steps:
            if fits(view.position + 2 * direction):
                return self._move(direction)
        return self._collect("stone", 4) or self._collect("tree", 4) or (self._move(steps[0]) if steps else None)

    def _reach_table(self, furnace: bool) -> str | None:
        """Go to a table or place one and, with `furnace`, place a furnace beside it; None once both are nearby."""
        view = self.view
        if not self._is_nearby("table"):
            tables = set(view.cells("table"))
            around = {t + dx * view.width + dy for t in tables for dx in (-1, 0, 1) for dy in (-1, 0, 1)} - tables
            path = cheapest_path(view, around, 60) if tables else []
            wood = self._cost("table")["wood"]
            if path and (len(path) < 10 or self._amount("wood") < wood):
                return self._go_to({path[-1]})
            if self._amount("wood") < wood:
                return self._collect("tree")
            return self._place("table")
        if furnace and not self._is_nearby("furnace"):
            if self._amount("stone") < self._cost("furnace")["stone"]:
                return self._collect("stone")
            return self._place("furnace")
        return None

    def _make(self, tool: str) -> str | None:
        """Collect the materials of a tool, reach a table (and a furnace if the tool needs one), and make the tool."""
        furnace = "furnace" in self._rules.make[tool]["nearby"]
        for item, source in (("wood", "tree"), ("stone", "stone"), ("coal", "coal"), ("iron", "iron")):
            needed = self._cost(tool).get(item, 0)
            if item == "wood" and not self._is_nearby("table") and not self.view.cells("table"):
                needed += self._cost("table")["wood"]
            if self._amount(item) < needed:
                return self._collect(source)
        return self._reach_table(furnace) or f"make_{tool}"

    # --- plans of walls: a plan is dropped as soon as the state differs from the planned one ------------------------

    def _continue_plan(self) -> str | None:
        """The next action of the plan; None if no plan is left or the state is not the one that was planned for."""
        view = self.view
        if not self._plan or self._expected != (view.position, view.facing, self._amount("stone")):
            self._plan = []
            return None
        what, direction = self._plan.pop(0)
        stones = self._amount("stone") + {"dig": 1, "stone": -1}.get(what, 0)
        moved = what == "move" and view.walkable(view.position + direction)
        self._expected = (view.position + direction * moved, direction, stones)
        return {"dig": "do", "stone": "place_stone", "plant": "place_plant"}.get(what) or self._move(direction)

    def _start_plan(self, plan: list[tuple[str, int]]) -> str | None:
        self._plan, self._expected = plan, (self.view.position, self.view.facing, self._amount("stone"))
        return self._continue_plan()

    def _reachable(self, state: WallState, max_cells: int) -> set[int]:
        """The cells that a creature could reach from the player's; the search stops above `max_cells` of them."""
        room, queue = {state.position}, [state.position]
        while queue and len(room) <= max_cells:
            cell = queue.pop()
            for direction in self.view.directions:
                beyond = cell + direction
                if beyond not in room and (state.passable(self.view, beyond) or beyond in self.view.objects):
                    room.add(beyond)
                    queue.append(beyond)
        return room

    def _is_shelter(self, state: WallState, max_cells: int = 2) -> bool:
        """Whether walls enclose the player in at most `max_cells` cells without a zombie, a skeleton or lava."""
        view, room = self.view, self._reachable(state, max_cells)
        lava = any(view.material(cell + d) == "lava" for cell in room for d in view.directions)
        return len(room) <= max_cells and not lava and room.isdisjoint(view.cells_with(*HOSTILE))

    def _shelter(self, within: float = 200) -> str | None:
        """Sleep, or rest at full energy, inside a shelter, or go and build one.

        A shelter is at most two cells inside a mountain with the entrance closed by a stone. `within` is the highest
        cost of the path to its place.
        """
        view = self.view
        if self._is_shelter(WallState(view.position, view.facing), 6):
            return "sleep" if self._amount("energy") < self._rules.items["energy"]["max"] else "noop"
        if not view.can_collect("stone"):
            return None
        action = self._continue_plan()
        if action:
            return action
        near = {view.position + dx * view.width + dy for dx in (-2, -1, 0, 1, 2) for dy in (-2, -1, 0, 1, 2)}
        solid = sum(view.solid(view.position + d) for d in view.directions)
        if solid >= 3 or (solid == 2 and self._amount("stone") > 1):
            plan = plan_walls(view, lambda state: int(not self._is_shelter(state)), near, max_states=2_000)
            if plan:
                return self._start_plan(plan)
        deep = [
            cell
            for cell in view.cells("stone", "path")
            if all(view.solid(cell + dx * view.width + dy) for dx in (-1, 0, 1) for dy in (-1, 0, 1) if dx or dy)
        ]
        growing = [cell for cell in deep if view.fence and view.distance(cell, self._plant_cell) < GROWTH_RADIUS - 2]
        return self._go_to(growing, min(within, 40)) or self._go_to(deep, within)

    def _plant_sapling(self) -> str | None:
        """Plant a sapling and place stones on its open sides, since creatures damage it; later repair these walls."""
        view = self.view
        action = self._continue_plan()
        if action:
            return action
        if not self._amount("sapling") and not self._plant_stands():
            return self._collect_sapling()
        grass = set(view.cells("grass"))

        def walls(cell: int) -> int:
            """How many of the four sides are already blocked."""
            return sum(view.solid(cell + d) for d in view.directions)

        if self._plant_stands():
            cell = self._plant_cell
            site = cheapest_path(
                view, {cell + d for d in view.directions if view.walkable(cell + d)} - {view.position}
            ) or [cell]
        else:
            good = {c for c in grass if walls(c) >= 2} - {view.position}
            site = cheapest_path(view, good or grass, 40) or cheapest_path(view, grass)
            if not site:
                return None
            cell = site[-1]
        if 4 - walls(cell) > self._amount("stone"):
            return self._collect("stone")
        if view.distance(cell, view.position) > 2:
            return self._follow_path(site)
        sides = {cell + d for d in view.directions}

        def missing(state: WallState) -> int:
            open_sides = sum(state.passable(view, side) for side in sides)
            return open_sides + (not state.sapling and cell not in view.objects)

        plan = plan_walls(view, missing, sides, cell)
        if not plan:
            return None
        self._plant_cell = cell
        return self._start_plan(plan)

    def _plant_stands(self) -> bool:
        """Whether the sapling, or the plant that it became, is still there."""
        return type(self.view.objects.get(self._plant_cell)).__name__ == "Plant"

    def _plant_is_fenced(self) -> bool:
        """Whether the sapling stands and all four cells beside it are blocked."""
        view = self.view
        return self._plant_stands() and not any(view.walkable(self._plant_cell + d) for d in view.directions)

    def _eat_plant(self) -> str | None:
        """Go through the walls to the ripe plant and eat it; None while a zombie or skeleton is near the plant.

        A player that already stands beside the plant eats it in any case.
        """
        view = self.view
        if not self._plant_stands() or not view.objects[self._plant_cell].ripe:
            return None
        safe = all(view.distance(cell, self._plant_cell) > 4 for cell in view.cells_with(*HOSTILE))
        return (
            self._interact({self._plant_cell}) if safe or view.distance(view.position, self._plant_cell) == 1 else None
        )
