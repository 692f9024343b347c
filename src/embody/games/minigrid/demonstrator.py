"""MiniGrid's experts: the package's own bot for BabyAI, and a breadth-first planner for DoorKey and Fetch.

Every expert reads the true state at each step, so it continues from actions that it did not suggest.
"""

import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

from embody.errors import UserError
from embody.games.environment import Demonstrator, DemonstratorLost

__all__ = ["make_demonstrator", "make_off_task_demonstrator"]

LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE, DONE = range(7)
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # (column, row) of a step in each direction; RIGHT turns to the next one
# What the bot raises after random actions that it does not expect.
BOT_ERRORS = (AssertionError, AttributeError, IndexError, TypeError)

Cell = tuple[int, int]  # column, row


def make_demonstrator(task: str) -> Demonstrator:
    """The expert of a task; a `UserError` if the task has none."""
    if task.startswith("BabyAI-"):
        return BotExpert()
    planners = {"MiniGrid-DoorKey": unlock_and_leave, "MiniGrid-Fetch": fetch}
    for kind, planner in planners.items():
        if task.startswith(kind):
            return PlannerExpert(planner)
    raise UserError(f"no expert plays {task}: only {', '.join(('BabyAI', *planners))} have one")


def make_off_task_demonstrator(task: str) -> Demonstrator | None:
    """An expert that pursues another mission of the same room; None if the task's rooms allow only one mission."""
    if task.startswith("BabyAI-"):
        return BotExpert(another_mission)
    return PlannerExpert(fetch_another) if task.startswith("MiniGrid-Fetch") else None


class BotExpert:
    """The package's `BabyAIBot`, which sees the whole room as the agent does; it is rebuilt when its plan fails."""

    def __init__(self, mission: Callable[[Any], Any] = lambda game: game) -> None:
        """`mission` maps the game of an episode to the one that the bot plays, which may have other instructions."""
        self._mission = mission

    def reset(self, env: Any) -> None:
        self._game = self._mission(env.game)
        self._build()

    def action(self, previous: int | None) -> int:
        from minigrid.utils.baby_ai_bot import DisappearedBoxError

        if not _objects_exist(self._game):
            raise DemonstratorLost(self._game.mission)
        try:
            action = int(self._bot.replan(previous))
            if action != DONE:
                return action
        except (DisappearedBoxError, *BOT_ERRORS):
            pass
        try:
            self._build()
            return int(self._bot.replan())
        except BOT_ERRORS as error:
            if self._game.carrying is None:
                raise DemonstratorLost(self._game.mission) from error
            # A new bot cannot start while the agent carries something: drop it first.
            return DROP if self._game.grid.get(*self._game.front_pos) is None else RIGHT

    def _build(self) -> None:
        from minigrid.utils.baby_ai_bot import BabyAIBot

        self._bot: Any = BabyAIBot(self._game)
        self._bot.vis_mask[:] = True


def _objects_exist(game: Any) -> bool:
    """Whether every object that a BabyAI mission names still exists; opening a box destroys it."""
    present = {id(cell) for cell in (*game.grid.grid, game.carrying) if cell is not None}
    return all(any(id(thing) in present for thing in description.obj_set) for description in _named(game.instrs))


def _named(instructions: Any) -> list[Any]:
    """The descriptions of the objects that a BabyAI mission names, in the order of its words."""
    names = ("desc", "desc_move", "desc_fixed")
    return [getattr(instructions, name) for name in names if hasattr(instructions, name)]


def another_mission(game: Any) -> Any:
    """The game with a random other mission of the same kind about its objects; the game itself if there is none."""
    from minigrid.envs.babyai.core.verifier import ObjDesc

    kinds = sorted({(thing.type, thing.color) for thing in game.grid.grid if thing is not None and thing.can_pickup()})
    asked = tuple((description.type, description.color) for description in _named(game.instrs))
    others = [named for named in itertools.permutations(kinds, len(asked)) if named != asked]
    if not others:
        return game
    chosen = others[game.np_random.integers(len(others))]
    other = type(game.instrs)(*(ObjDesc(*kind) for kind in chosen))
    other.reset_verifier(game)
    return _GameWithMission(game, other)


class _GameWithMission:
    """A game whose instructions are replaced."""

    def __init__(self, game: Any, instructions: Any) -> None:
        self._game, self.instrs, self.unwrapped = game, instructions, self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._game, name)


class PlannerExpert:
    """Replans from the true state at every step."""

    def __init__(self, planner: Callable[[Any], int | None]) -> None:
        self._planner = planner

    def reset(self, env: Any) -> None:
        self._game = env.game

    def action(self, previous: int | None) -> int:
        action = self._planner(self._game)
        if action is None:
            raise DemonstratorLost(self._game.mission)
        return action


def unlock_and_leave(game: Any) -> int | None:
    """DoorKey: walk to the goal if it can be reached; else open the door or, without the key, pick up the key.

    A door that is closed but unlocked is opened too; a key that blocks the way to it is picked up.
    """
    at = {cell.type: (i % game.width, i // game.width) for i, cell in enumerate(game.grid.grid) if cell is not None}
    action = _route(game, lambda position, ahead: position == at["goal"])
    if action is not None:
        return action
    door = game.grid.get(*at["door"])
    if game.carrying is not None or not door.is_locked:
        action = _face(game, {at["door"]}, TOGGLE) if not door.is_open else None
        if action is not None:
            return action
    return _face(game, {at["key"]}, PICKUP) if "key" in at else None


def fetch(game: Any) -> int | None:
    """Fetch: walk to the nearest object that the mission names, and pick it up."""
    return _fetch(game, lambda kind: kind == (game.targetType, game.targetColor))


def fetch_another(game: Any) -> int | None:
    """Fetch, off-task: pick up the nearest object that the mission does not name; None if it names all."""
    return _fetch(game, lambda kind: kind != (game.targetType, game.targetColor))


def _fetch(game: Any, wanted: Callable[[tuple[str, str]], bool]) -> int | None:
    cells = {
        (i % game.width, i // game.width)
        for i, cell in enumerate(game.grid.grid)
        if cell is not None and cell.can_pickup() and wanted((cell.type, cell.color))
    }
    return _face(game, cells, PICKUP)


def _face(game: Any, cells: set[Cell], then: int) -> int | None:
    """`then` if the agent faces one of `cells`, else the next action towards the nearest; None if none is reachable."""
    column, row = STEPS[game.agent_dir]
    if (game.agent_pos[0] + column, game.agent_pos[1] + row) in cells:
        return then
    return _route(game, lambda position, ahead: ahead in cells)


def _route(game: Any, arrived: Callable[[Cell, Cell], bool]) -> int | None:
    """The first action of a shortest path to a state in which `arrived(position, cell ahead)`; None if none exists."""
    start = (int(game.agent_pos[0]), int(game.agent_pos[1]), int(game.agent_dir))
    queue = deque([(start, -1)])  # state, the first action that led to it
    seen = {start}
    while queue:
        (column, row, direction), first = queue.popleft()
        ahead = (column + STEPS[direction][0], row + STEPS[direction][1])
        if first >= 0 and arrived((column, row), ahead):
            return first
        moves = [(LEFT, (column, row, (direction - 1) % 4)), (RIGHT, (column, row, (direction + 1) % 4))]
        cell = game.grid.get(*ahead)
        if cell is None or cell.can_overlap():
            moves.insert(0, (FORWARD, (*ahead, direction)))
        for action, state in moves:
            if state not in seen:
                seen.add(state)
                queue.append((state, action if first < 0 else first))
    return None
