"""MiniGrid as a gymnasium environment of 48x48 pixels that shows the whole grid.

Shapes: H = W = 48 pixels.
"""

import os
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces

from embody.errors import UserError, install_extra
from embody.games.minigrid.tasks import ACTION_NAMES

__all__ = ["MiniGridPixels"]

TILE = 8  # pixels
ACTIONS = len(ACTION_NAMES[0])


class MiniGridPixels(gymnasium.Env[np.ndarray, Any]):
    """One MiniGrid environment.

    Observation: uint8 [H, W, 3], the whole grid; the frame is black to the right of and below it. Action: an int from 0
    to 6, or int64 [1]. Reward: 1 on success, else 0. `info` has "mission" (str) and "success" (bool).
    """

    def __init__(self, task: str, max_steps: int, height: int, width: int) -> None:
        """Frames have `height` x `width` pixels; an episode is truncated after `max_steps` actions.

        Raises a `UserError` if the frame is smaller than the grid or not a multiple of 8 pixels, or if minigrid is not
        installed.
        """
        _load_minigrid()
        from minigrid.core.grid import Grid

        self.game = cast(Any, gymnasium.make(task, disable_env_checker=True, max_steps=max_steps).unwrapped)
        rows, columns = height // TILE, width // TILE
        fits = self.game.height <= rows and self.game.width <= columns
        if not fits or height % TILE or width % TILE:
            raise UserError(
                f"env.height, env.width: {task} has {self.game.height}x{self.game.width} cells of {TILE} pixels,"
                f" a frame of {height}x{width} must be at least that, and a multiple of {TILE}"
            )
        # Skip the partial view that MiniGrid computes at every step, since it is not used.
        self.game.gen_obs = lambda: {}
        self._render_tile = Grid.render_tile
        self._floor = Grid.render_tile(None, tile_size=TILE)
        self._canvas = np.zeros((rows, TILE, columns, TILE, 3), np.uint8)
        self.observation_space = spaces.Box(0, 255, (height, width, 3), np.uint8)
        self.actions = ACTIONS
        self.action_space = spaces.MultiDiscrete([ACTIONS])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """The first frame and `info` of the episode of `seed`."""
        self.game.reset(seed=seed)
        return self._frame(), self._info(False)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Frame, reward, terminated, truncated, info after one action."""
        _, reward, terminated, truncated, _ = self.game.step(int(np.asarray(action).item()))
        # MiniGrid's own reward falls with the number of steps, which no frame shows; use 1 instead.
        success = reward > 0
        return self._frame(), float(success), terminated, truncated and not terminated, self._info(success)

    def _info(self, success: bool) -> dict[str, Any]:
        return {"mission": self.game.mission, "success": bool(success)}

    def _frame(self) -> np.ndarray:
        """Equal to MiniGrid's `get_frame(highlight=False, tile_size=8)`, but faster: no visibility is computed."""
        game, canvas = self.game, self._canvas
        for index, cell in enumerate(game.grid.grid):  # row-major
            row, column = divmod(index, game.width)
            canvas[row, :, column] = self._floor if cell is None else self._render_tile(cell, tile_size=TILE)
        column, row = game.agent_pos
        canvas[row, :, column] = self._render_tile(game.grid.get(column, row), game.agent_dir, tile_size=TILE)
        rows, _, columns, _, _ = canvas.shape
        return canvas.reshape(rows * TILE, columns * TILE, 3).copy()


def _load_minigrid() -> None:
    """Import minigrid, which registers its environments, and suppress what it and pygame print."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        import minigrid.core.roomgrid  # noqa: F401
        from minigrid.envs.babyai.core import roomgrid_level
    except ImportError as error:
        raise UserError(f"minigrid is not installed: {install_extra('minigrid')}") from error
    vars(roomgrid_level)["print"] = lambda *_: None  # BabyAI levels print every rejected draw
