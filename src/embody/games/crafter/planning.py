"""Planning in Crafter's world: a view of the map, cheapest paths (Dijkstra), and plans that wall a cell in (A*).

A cell is an int, `x * width + y`, of the map padded with a border of one cell, so that every cell of the map has four
neighbours. A direction is the difference between two neighbouring cells.
"""

from collections.abc import Callable, Container
from functools import cached_property
from heapq import heappop, heappush
from math import inf
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["HOSTILE", "WallState", "WorldView", "cheapest_path", "plan_walls"]

WALKABLE = ("grass", "sand", "path")
HOSTILE = ("Zombie", "Skeleton")
DAY_STEPS = 300  # the length of Crafter's day
NIGHT_DAYLIGHT = 0.55  # it is night when the daylight, 0 to 1, is below this
# Costs of entering a cell, in steps. All but the last are added to the cost of the cell's material.
LAVA_COST = 3.0  # beside lava, where a random action can kill the player
CREATURE_COST = 5.0  # with a creature on it, which has to be fought
HOSTILE_COST, HOSTILE_RADIUS = 3.0, 3  # at most 3 cells away from a zombie or skeleton
NIGHT_GRASS_COST = 8.0  # grass at night, where zombies appear
BRIDGE_COST = 3.0  # water: place a stone, mine it, walk on


class WorldView:
    """The true state of a `crafter.Env` at one step."""

    def __init__(self, game: Any, rules: Any, plant: int = 0) -> None:
        """Read `game`, a `crafter.Env`, by its `rules`, `crafter.constants`.

        `plant` is the cell of the sapling that the player protects; 0 for none. While that sapling grows, its four
        neighbours are the `fence`: no path removes a block there.
        """
        world, player = game._world, game._player
        self.player, self.rules = player, rules
        self.step_of_day, self.daylight = game._step % DAY_STEPS, float(world.daylight)
        self.is_night = self.daylight < NIGHT_DAYLIGHT
        self.width = world.area[1] + 2
        self.directions = (-self.width, self.width, -1, 1)  # left, right, up, down, as the actions are ordered
        self.names: list[str | None] = [world._mat_names[i] for i in range(len(world._mat_names))]
        self._ids = world._mat_ids
        self.ground: NDArray[np.uint8] = np.pad(world._mat_map, 1)  # 0 is the border
        self.materials: list[int] = self.ground.ravel().tolist()
        self.position = self.cell(player.pos)
        self.facing = int(player.facing[0]) * self.width + int(player.facing[1])
        self.objects = {self.cell(thing.pos): thing for thing in world.objects if thing is not player}
        self.inventory: dict[str, int] = player.inventory
        grows = type(self.objects.get(plant)).__name__ == "Plant" and not self.objects[plant].ripe
        self.fence = frozenset(plant + direction for direction in self.directions) if grows else frozenset()

    def cell(self, position: Any) -> int:
        """The cell at Crafter's `position`, (x, y)."""
        return (int(position[0]) + 1) * self.width + int(position[1]) + 1

    def distance(self, a: int, b: int) -> int:
        """The Manhattan distance between two cells."""
        (ax, ay), (bx, by) = divmod(a, self.width), divmod(b, self.width)
        return abs(ax - bx) + abs(ay - by)

    def material(self, cell: int) -> str | None:
        """The material of a cell's ground, such as "grass"; None in the border."""
        return self.names[self.materials[cell]]

    def cells(self, *materials: str) -> list[int]:
        """All cells of these materials that hold no object and are not part of the fence."""
        found = np.isin(self.ground.ravel(), [self._ids[name] for name in materials])
        cells = np.flatnonzero(found).tolist()
        return [cell for cell in cells if cell not in self.objects and cell not in self.fence]

    def cells_with(self, *kinds: str) -> list[int]:
        """The cells of all objects of these kinds, such as "Cow"; plants are objects too."""
        return [cell for cell, thing in self.objects.items() if type(thing).__name__ in kinds]

    def walkable(self, cell: int) -> bool:
        """Whether the player can step onto the cell now."""
        return self.material(cell) in WALKABLE and cell not in self.objects

    def solid(self, cell: int) -> bool:
        """Whether the material keeps creatures out. Lava does not count: it kills the player."""
        return self.material(cell) not in (*WALKABLE, "lava")

    def can_collect(self, material: str | None) -> bool:
        """Whether the material can be collected, and the player has the tool that this requires."""
        need = self.rules.collect.get(material)
        return need is not None and all(self.inventory[name] >= n for name, n in need["require"].items())

    @cached_property
    def costs(self) -> list[float]:
        """The cost of entering each cell, in steps: 1 if it is walkable, more if it must be cleared or is dangerous.

        It is inf where the player cannot go.
        """
        table = np.full(len(self.names), inf)
        for name in WALKABLE:
            table[self._ids[name]] = 1
        for name in ("stone", "coal", "iron", "diamond"):
            if self.can_collect(name):
                table[self._ids[name]] = 2
        if self.inventory["stone"] > 1 and self.can_collect("stone"):
            table[self._ids["water"]] = BRIDGE_COST
        if self.is_night:
            table[self._ids["grass"]] += NIGHT_GRASS_COST
        costs = table[self.ground]
        lava = self.ground == self._ids["lava"]
        beside = np.zeros_like(lava)
        for axis in (0, 1):
            beside |= np.roll(lava, 1, axis) | np.roll(lava, -1, axis)
        flat: list[float] = (costs + LAVA_COST * beside).ravel().tolist()
        for cell, thing in self.objects.items():
            flat[cell] = inf if type(thing).__name__ == "Plant" else flat[cell] + CREATURE_COST
        for cell in self.fence:
            flat[cell] = flat[cell] if self.walkable(cell) else inf
        for foe in self.cells_with(*HOSTILE):
            for offset in self._around:
                if 0 <= foe + offset < len(flat):
                    flat[foe + offset] += HOSTILE_COST
        return flat

    @property
    def _around(self) -> list[int]:
        span = range(-HOSTILE_RADIUS, HOSTILE_RADIUS + 1)
        return [dx * self.width + dy for dx in span for dy in span if abs(dx) + abs(dy) <= HOSTILE_RADIUS]


def cheapest_path(
    view: WorldView, targets: Container[int], limit: float = inf, costs: list[float] | None = None
) -> list[int]:
    """The cheapest path from the player to one of `targets`: its cells, from the first step to the target.

    Entering the target costs 1, whatever its cell holds. The path is empty if no target can be reached at a cost of at
    most `limit`. `costs` are by default those of the view.
    """
    costs, start = costs or view.costs, view.position
    best, previous = {start: 0.0}, {start: start}
    queue = [(0.0, start)]
    while queue:
        cost, cell = heappop(queue)
        if cost > best[cell]:
            continue
        if cell in targets and cell != start:
            path = [cell]
            while previous[path[-1]] != start:
                path.append(previous[path[-1]])
            return path[::-1]
        for direction in (view.facing, *view.directions):
            beyond = cell + direction
            total = cost + (1.0 if beyond in targets else costs[beyond])
            if total <= limit and total < best.get(beyond, inf):
                best[beyond], previous[beyond] = total, cell
                heappush(queue, (total, beyond))
    return []


# --- walls ----------------------------------------------------------------------------------------------------------

# Weighted A*: an action that is still missing counts twice, so plans may be a little longer but are found much sooner.
HEURISTIC_WEIGHT = 2


class WallState(NamedTuple):
    """A node of the search: where the player stands, and which cells it has changed so far."""

    position: int  # the player's cell
    facing: int  # the direction of the cell in front of the player
    dug: frozenset[int] = frozenset()  # cells whose stone was mined
    stones: frozenset[int] = frozenset()  # cells where a stone was placed
    sapling: int = 0  # the cell where the sapling was planted; 0 if it was not

    def passable(self, view: WorldView, cell: int) -> bool:
        """Whether the player or a creature could step onto the cell in this state."""
        if cell in self.stones or cell == self.sapling:
            return False
        return cell in self.dug or view.walkable(cell)


def plan_walls(
    view: WorldView,
    missing: Callable[[WallState], int],
    stone_cells: Container[int],
    plant: int = 0,
    max_states: int = 20_000,
) -> list[tuple[str, int]]:
    """A short plan, found by weighted A*, that leads to a state in which `missing` is 0.

    A plan is a list of (action, direction). "move" steps in that direction, or only turns if the cell is blocked; "dig"
    mines the stone in the faced cell; "stone" places one there; "plant" plants a sapling at the cell `plant` (0: plant
    nothing). Stones are placed on `stone_cells` only. `missing(state)` is a lower bound on the number of actions that
    are left. The plan is empty if none is found among the first `max_states` states.
    """
    begin = WallState(view.position, view.facing)
    parents: dict[WallState, tuple[WallState, tuple[str, int]]] = {begin: (begin, ("", 0))}
    queue = [(HEURISTIC_WEIGHT * missing(begin), 0, 0, begin)]
    while queue and len(parents) < max_states:
        expected, _, steps, state = heappop(queue)
        if expected == steps:
            actions = []
            while state != begin:
                state, action = parents[state]
                actions.append(action)
            return actions[::-1]
        for action, after in _moves(view, state, stone_cells, plant):
            if after not in parents:
                parents[after] = (state, action)
                heappush(queue, (steps + 1 + HEURISTIC_WEIGHT * missing(after), len(parents), steps + 1, after))
    return []


def _moves(
    view: WorldView, state: WallState, stone_cells: Container[int], plant: int
) -> list[tuple[tuple[str, int], WallState]]:
    moves = []
    for direction in view.directions:
        beyond = state.position + direction
        if view.material(beyond) != "lava":
            to = beyond if state.passable(view, beyond) else state.position
            moves.append((("move", direction), state._replace(position=to, facing=direction)))
    facing = state.facing
    faced = state.position + facing
    if state.passable(view, faced):
        if faced in stone_cells and view.inventory["stone"] + len(state.dug) > len(state.stones):
            moves.append((("stone", facing), state._replace(dug=state.dug - {faced}, stones=state.stones | {faced})))
        if faced == plant and view.material(faced) == "grass":
            moves.append((("plant", facing), state._replace(sapling=faced)))
    elif not plant and view.material(faced) == "stone" and faced not in state.stones and view.can_collect("stone"):
        moves.append((("dig", facing), state._replace(dug=state.dug | {faced})))
    return moves
