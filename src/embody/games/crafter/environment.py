"""Crafter as a gymnasium environment of 64x64 pixels with reproducible episodes and the achievements of each step.

Shapes: H = W = 64 pixels, P = 22 achievements. Crafter indexes its map by [x, y] and its frames by [y, x].
"""

import copy
from functools import lru_cache
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from embody.errors import UserError, install_extra
from embody.games.crafter.tasks import ACHIEVEMENTS, ACTION_NAMES

__all__ = ["CrafterPixels"]

ACTIONS = len(ACTION_NAMES[0])
DIAMOND = ACHIEVEMENTS.index("collect_diamond")


class CrafterPixels(gymnasium.Env[np.ndarray, Any]):
    """One Crafter world.

    Observation: uint8 [H, W, 3], equal bit for bit to the frame of `crafter.Env`. Action: an int from 0 to 16, or int64
    [1]. Reward: Crafter's own, which is 1 in a step that unlocks an achievement, plus a tenth of the change in health.
    An episode is terminated by death and truncated after `max_steps`.

    `info` is Crafter's with three additions: "mission" (an empty str, since the player chooses the task), "events"
    (bool [P]: the achievements of this step, also repeated ones) and "success" (bool: this step collected a diamond).
    """

    def __init__(self, max_steps: int, height: int, width: int) -> None:
        """Frames have `height` x `width` pixels; an episode is truncated after `max_steps` actions.

        Raises a `UserError` if a frame has fewer than 9 pixels a side, one for each of Crafter's 9x9 cells, or if
        crafter is not installed.
        """
        if min(height, width) < 9:
            raise UserError(f"env.height, env.width: Crafter shows 9x9 cells, a frame of {height}x{width} is too small")
        _load_crafter()  # a missing package is an error now and not at the first reset
        self._size = (width, height)
        self.max_steps = max_steps
        self.observation_space = spaces.Box(0, 255, (height, width, 3), np.uint8)
        self.actions = ACTIONS
        self.action_space = spaces.MultiDiscrete([ACTIONS])
        self.game: Any = None  # crafter.Env of this episode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """The first frame and `info` of the episode of `seed`, which is the first one of `crafter.Env(seed=seed)`."""
        super().reset(seed=seed)
        own = int(self.np_random.integers(2**31 - 1)) if seed is None else seed
        new, frame = _new_game(own, self._size)
        self.game, frame = new.copy(), frame.copy()
        self._step, self._counts = 0, self._count()
        info = {"inventory": self.game._player.inventory.copy()}
        return frame, info | {"mission": "", "events": np.zeros(len(ACHIEVEMENTS), bool), "success": False}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Frame, reward, terminated, truncated, info after one action."""
        frame, reward, over, info = self.game.step(int(np.asarray(action).item()))
        self._step += 1
        counts = self._count()
        events, self._counts = counts > self._counts, counts
        info |= {"mission": "", "events": events, "success": bool(events[DIAMOND])}
        info["player_pos"] = info["player_pos"].copy()
        return frame, float(reward), bool(over), self._step >= self.max_steps and not over, info

    def _count(self) -> NDArray[np.int64]:
        achieved = self.game._player.achievements
        return np.array([achieved[name] for name in ACHIEVEMENTS])


@lru_cache(maxsize=512)  # a world takes a second to generate and 0.1 MB to keep, and several policies play the same one
def _new_game(seed: int, size: tuple[int, int]) -> tuple[Any, NDArray[np.uint8]]:
    """A new game and its first frame. It must not be reset again: Crafter adds the number of resets to the seed."""
    game = _load_crafter()(seed=seed, size=size, length=None)
    return game, game.reset()


@lru_cache(maxsize=1)
def _load_crafter() -> Any:
    """`crafter.Env` with faster rendering, and without a random choice that depends on memory addresses."""
    try:
        import crafter
        from crafter import engine
    except ImportError as error:
        raise UserError(f"crafter is not installed: {install_extra('crafter')}") from error
    known = tuple(name.replace(" ", "_") for name in ACTION_NAMES[0]), ACHIEVEMENTS
    if (tuple(crafter.constants.actions), tuple(sorted(crafter.constants.achievements))) != known:
        raise UserError(f"this crafter has other actions or achievements than 1.8.3: {install_extra('crafter')}")

    class Game(crafter.Env):
        def _balance_object(self, chunk: Any, objs: Any, *rest: Any) -> None:
            """Sort the objects by age: Crafter draws one to remove from a set, which is ordered by memory address."""
            place = self._world._obj_map
            super()._balance_object(chunk, sorted(objs, key=lambda obj: place[tuple(obj.pos)]), *rest)

        def reset(self) -> NDArray[np.uint8]:
            self._draw = _Renderer(self, engine)
            return super().reset()

        def render(self, size: Any = None) -> NDArray[np.uint8]:
            return self._draw() if size is None else super().render(size)

        def copy(self) -> "Game":
            """An independent copy of the game in its present state; it shares the textures."""
            other: Game = copy.deepcopy(self, {id(shared): shared for shared in (self._draw, self._textures)})
            other._draw = _Renderer(other, engine)
            return other

    return Game


class _Renderer:
    """Crafter's `render` with cached tiles: each material is scaled once, each object on a material blended once."""

    def __init__(self, game: Any, engine: Any) -> None:
        self._game, self._engine = game, engine
        self._unit = game._size // game._view
        self._grid = game._local_view._grid
        self._margin = int(max(self._grid))
        names = game._world._mat_names
        ground = [self._ground(names[i]) for i in range(len(names))]
        outside = np.full((*self._unit, 3), 127, np.uint8)
        self._tiles = np.stack([*ground, outside])  # [kinds, w, h, 3]
        self._things: dict[tuple[int, str], NDArray[np.uint8]] = {}
        self._inventory: tuple[dict[str, int], NDArray[np.uint8]] | None = None

    def __call__(self) -> NDArray[np.uint8]:
        game = self._game
        canvas = np.zeros((*game._size, 3), np.uint8)
        view = game._local_view._light(self._cells(), game._world.daylight)
        if game._player.sleeping:
            view = game._local_view._sleep(view)
        items = self._items()
        x, y = (game._size - self._unit * game._view) // 2
        width, height = view.shape[:2]
        canvas[x : x + width, y : y + height] = view
        canvas[x : x + width, y + height : y + height + items.shape[1]] = items
        return canvas.transpose((1, 0, 2))

    def _ground(self, name: str | None) -> NDArray[np.uint8]:
        tile = np.zeros((*self._unit, 3), np.uint8)
        self._engine._draw(tile, (0, 0), self._game._textures.get(name, self._unit))
        return tile

    def _cells(self) -> NDArray[np.uint8]:
        """The local view in full daylight, uint8 [w, h, 3]."""
        world, margin, (columns, rows) = self._game._world, self._margin, self._grid
        left, top = np.array(self._game._player.pos) - self._grid // 2 + margin
        kinds = np.pad(world._mat_map, margin, constant_values=len(self._tiles) - 1)
        kinds = kinds[left : left + columns, top : top + rows]
        things = np.pad(world._obj_map, margin)[left : left + columns, top : top + rows]
        cells = self._tiles[kinds]  # [columns, rows, w, h, 3]
        for x, y in zip(*np.nonzero(things), strict=True):
            cells[x, y] = self._thing(int(kinds[x, y]), world._objects[things[x, y]].texture)
        return cells.transpose(0, 2, 1, 3, 4).reshape(columns * self._unit[0], rows * self._unit[1], 3)

    def _thing(self, kind: int, texture: str) -> NDArray[np.uint8]:
        if (kind, texture) not in self._things:
            tile = self._tiles[kind].copy()
            self._engine._draw_alpha(tile, (0, 0), self._game._textures.get(texture, self._unit))
            self._things[kind, texture] = tile
        return self._things[kind, texture]

    def _items(self) -> NDArray[np.uint8]:
        now = self._game._player.inventory
        if self._inventory is None or self._inventory[0] != now:
            self._inventory = now.copy(), self._game._item_view(now, self._unit)
        return self._inventory[1]
