"""Planning in Crafter's world: what lies where, the cheapest way to something, and how to wall something in.

A cell is a number: `x * width + y` of the map with a border of one cell, so that no neighbour leaves it.
"""

from collections.abc import Callable, Container
from functools import cached_property
from heapq import heappop, heappush
from math import inf
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["HOSTILE", "Sight", "Walls", "route", "wall_in"]

WALKABLE = ("grass", "sand", "path")
HOSTILE = ("Zombie", "Skeleton")
DAY = 300  # steps
NIGHT = 0.55  # daylight below which it is night, 0..1
BY_LAVA = 3.0  # what a cell beside lava costs more: a random step from there is the last one
FIGHT = 5.0  # what a creature in the way costs
NEAR_FOE, REACH = 3.0, 3  # what a cell within reach of a zombie or skeleton costs more
IN_THE_DARK = 8.0  # grass by night, where zombies come from
BRIDGE = 3.0  # a stone put into water, mined, walked on


class Sight:
    """The world as it is now, read from a `crafter.Env`."""

    def __init__(self, game: Any, rules: Any, plant: int = 0) -> None:
        """`rules`: `crafter.constants`. `plant`: the cell of a plant whose fence is neither dug nor walked through."""
        world, player = game._world, game._player
        self.player, self.rules = player, rules
        self.hour, self.daylight = game._step % DAY, float(world.daylight)
        self.is_night = self.daylight < NIGHT
        self.width = world.area[1] + 2
        self.directions = (-self.width, self.width, -1, 1)  # left, right, up, down, as the actions are ordered
        self.names: list[str | None] = [world._mat_names[i] for i in range(len(world._mat_names))]
        self._ids = world._mat_ids
        self.ground: NDArray[np.uint8] = np.pad(world._mat_map, 1)  # 0 is the border
        self.materials: list[int] = self.ground.ravel().tolist()
        self.here = self.cell(player.pos)
        self.facing = int(player.facing[0]) * self.width + int(player.facing[1])
        self.things = {self.cell(thing.pos): thing for thing in world.objects if thing is not player}
        self.inventory: dict[str, int] = player.inventory
        grows = type(self.things.get(plant)).__name__ == "Plant" and not self.things[plant].ripe
        self.fence = frozenset(plant + direction for direction in self.directions) if grows else frozenset()

    def cell(self, position: Any) -> int:
        return (int(position[0]) + 1) * self.width + int(position[1]) + 1

    def distance(self, a: int, b: int) -> int:
        """Steps between two cells, if nothing were in the way."""
        (ax, ay), (bx, by) = divmod(a, self.width), divmod(b, self.width)
        return abs(ax - bx) + abs(ay - by)

    def material(self, cell: int) -> str | None:
        return self.names[self.materials[cell]]

    def cells(self, *materials: str) -> list[int]:
        """All cells of these materials on which nothing stands."""
        found = np.isin(self.ground.ravel(), [self._ids[name] for name in materials])
        cells = np.flatnonzero(found).tolist()
        return [cell for cell in cells if cell not in self.things and cell not in self.fence]

    def kinds(self, *kinds: str) -> list[int]:
        """The cells of all creatures and plants of these kinds."""
        return [cell for cell, thing in self.things.items() if type(thing).__name__ in kinds]

    def free(self, cell: int) -> bool:
        """Whether one can walk there."""
        return self.material(cell) in WALKABLE and cell not in self.things

    def solid(self, cell: int) -> bool:
        """Whether nothing walks there, as long as nobody digs."""
        return self.material(cell) not in (*WALKABLE, "lava")

    def can_collect(self, material: str | None) -> bool:
        need = self.rules.collect.get(material)
        return need is not None and all(self.inventory[name] >= n for name, n in need["require"].items())

    @cached_property
    def costs(self) -> list[float]:
        """What it costs to enter each cell: 1 if free, more if something must be done first, inf if it cannot be."""
        table = np.full(len(self.names), inf)
        for name in WALKABLE:
            table[self._ids[name]] = 1
        for name in ("stone", "coal", "iron", "diamond"):
            if self.can_collect(name):
                table[self._ids[name]] = 2
        if self.inventory["stone"] > 1 and self.can_collect("stone"):
            table[self._ids["water"]] = BRIDGE
        if self.is_night:
            table[self._ids["grass"]] += IN_THE_DARK
        costs = table[self.ground]
        lava = self.ground == self._ids["lava"]
        beside = np.zeros_like(lava)
        for axis in (0, 1):
            beside |= np.roll(lava, 1, axis) | np.roll(lava, -1, axis)
        flat: list[float] = (costs + BY_LAVA * beside).ravel().tolist()
        for cell, thing in self.things.items():
            flat[cell] = inf if type(thing).__name__ == "Plant" else flat[cell] + FIGHT
        for cell in self.fence:
            flat[cell] = flat[cell] if self.free(cell) else inf
        for foe in self.kinds(*HOSTILE):
            for offset in self._around:
                if 0 <= foe + offset < len(flat):
                    flat[foe + offset] += NEAR_FOE
        return flat

    @property
    def _around(self) -> list[int]:
        span = range(-REACH, REACH + 1)
        return [dx * self.width + dy for dx in span for dy in span if abs(dx) + abs(dy) <= REACH]


def route(sight: Sight, targets: Container[int], limit: float = inf, costs: list[float] | None = None) -> list[int]:
    """The cells of the cheapest way from the player to the nearest of `targets`, that one included, without the start.

    To enter the target itself costs 1, whatever it is. Empty if none can be reached at a cost of at most `limit`.
    """
    costs, start = costs or sight.costs, sight.here
    best, before = {start: 0.0}, {start: start}
    queue = [(0.0, start)]
    while queue:
        cost, cell = heappop(queue)
        if cost > best[cell]:
            continue
        if cell in targets and cell != start:
            way = [cell]
            while before[way[-1]] != start:
                way.append(before[way[-1]])
            return way[::-1]
        for direction in (sight.facing, *sight.directions):
            beyond = cell + direction
            total = cost + (1.0 if beyond in targets else costs[beyond])
            if total <= limit and total < best.get(beyond, inf):
                best[beyond], before[beyond] = total, cell
                heappush(queue, (total, beyond))
    return []


# --- walls ----------------------------------------------------------------------------------------------------------

HASTE = 2  # how much more a missing action counts than one done: a little longer, found many times sooner


class Walls(NamedTuple):
    """What the player could have made of its surroundings."""

    here: int
    facing: int
    dug: frozenset[int] = frozenset()
    stones: frozenset[int] = frozenset()
    sapling: int = 0  # its cell; 0: none is put

    def passable(self, sight: Sight, cell: int) -> bool:
        if cell in self.stones or cell == self.sapling:
            return False
        return cell in self.dug or sight.free(cell)


def wall_in(
    sight: Sight, missing: Callable[[Walls], int], sites: Container[int], plant: int = 0, most: int = 20_000
) -> list[tuple[str, int]]:
    """A short series of (what, direction) until nothing is `missing`; empty if there is none of a few actions.

    What: "move", which only turns where the way is blocked; "dig" or "stone" at the faced cell; "plant" a sapling at
    the cell `plant`. Stones are put at `sites` alone. `missing` is a lower bound on the actions still to come,
    `most` how many states are looked at.
    """
    begin = Walls(sight.here, sight.facing)
    came: dict[Walls, tuple[Walls, tuple[str, int]]] = {begin: (begin, ("", 0))}
    queue = [(HASTE * missing(begin), 0, 0, begin)]
    while queue and len(came) < most:
        expected, _, steps, state = heappop(queue)
        if expected == steps:
            actions = []
            while state != begin:
                state, action = came[state]
                actions.append(action)
            return actions[::-1]
        for action, after in _moves(sight, state, sites, plant):
            if after not in came:
                came[after] = (state, action)
                heappush(queue, (steps + 1 + HASTE * missing(after), len(came), steps + 1, after))
    return []


def _moves(sight: Sight, state: Walls, sites: Container[int], plant: int) -> list[tuple[tuple[str, int], Walls]]:
    moves = []
    for direction in sight.directions:
        beyond = state.here + direction
        if sight.material(beyond) != "lava":
            to = beyond if state.passable(sight, beyond) else state.here
            moves.append((("move", direction), state._replace(here=to, facing=direction)))
    facing = state.facing
    faced = state.here + facing
    if state.passable(sight, faced):
        if faced in sites and sight.inventory["stone"] + len(state.dug) > len(state.stones):
            moves.append((("stone", facing), state._replace(dug=state.dug - {faced}, stones=state.stones | {faced})))
        if faced == plant and sight.material(faced) == "grass":
            moves.append((("plant", facing), state._replace(sapling=faced)))
    elif not plant and sight.material(faced) == "stone" and faced not in state.stones and sight.can_collect("stone"):
        moves.append((("dig", facing), state._replace(dug=state.dug | {faced})))
    return moves
