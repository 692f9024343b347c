"""MiniGrid seen in full, as 48x48 pixels: single environments, and many played side by side.

Shapes: N environments, A action factors (1 here), H = W = 48 pixels.
"""

import os
from collections.abc import Sequence
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium import spaces

from embody.config import EnvConfig

__all__ = ["ACTION_NAMES", "TASKS", "VOCABULARY", "LockstepEnvs", "MiniGridPixels", "make_env"]

TASKS = (
    "BabyAI-GoToLocalS5N2-v0",
    "BabyAI-PutNextLocalS5N3-v0",
    "MiniGrid-DoorKey-5x5-v0",
    "MiniGrid-DoorKey-6x6-v0",
    "MiniGrid-Fetch-5x5-N2-v0",
    "MiniGrid-Fetch-6x6-N2-v0",
)

TILE = 8  # pixels
ACTION_NAMES = (("left", "right", "forward", "pick up", "drop", "toggle", "done"),)  # of each factor
ACTIONS = len(ACTION_NAMES[0])

# Every word of these tasks' missions; datasets keep it, so new words go to the end.
VOCABULARY: tuple[str, ...] = (
    "<pad>", "<unknown>",
    "a", "and", "ball", "blue", "box", "door", "fetch", "get", "go", "goal", "green", "grey", "key", "must", "next",
    "open", "purple", "put", "red", "the", "then", "to", "use", "yellow", "you",
)  # fmt: skip


class MiniGridPixels(gymnasium.Env[np.ndarray, Any]):
    """One MiniGrid environment. Observation: uint8 [H, W, 3], the whole grid, black to the right of and below it.

    Action: int64 [1], or an int, of 0..6. Reward: 1 on success, else 0. `info`: "mission" (str) and "success" (bool).
    """

    def __init__(self, task: str, max_steps: int, height: int, width: int) -> None:
        """`ValueError` if `height` x `width` pixels do not hold the grid in whole tiles, or minigrid is missing."""
        _load_minigrid()
        from minigrid.core.grid import Grid

        self.game = cast(Any, gymnasium.make(task, disable_env_checker=True, max_steps=max_steps).unwrapped)
        rows, columns = height // TILE, width // TILE
        fits = self.game.height <= rows and self.game.width <= columns
        if not fits or height % TILE or width % TILE:
            raise ValueError(
                f"env.height, env.width: {task} has {self.game.height}x{self.game.width} cells of {TILE} pixels,"
                f" a frame of {height}x{width} must be at least that, and a multiple of {TILE}"
            )
        # The partial view that MiniGrid computes at every step is read by nobody: skip it.
        self.game.gen_obs = lambda: {}
        self._render_tile = Grid.render_tile
        self._floor = Grid.render_tile(None, tile_size=TILE)
        self._canvas = np.zeros((rows, TILE, columns, TILE, 3), np.uint8)
        self.observation_space = spaces.Box(0, 255, (height, width, 3), np.uint8)
        self.actions = ACTIONS
        self.action_space = spaces.MultiDiscrete([ACTIONS])

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """The first frame of the episode that `seed` gives."""
        self.game.reset(seed=seed)
        return self._frame(), self._info(False)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        """Frame, reward, terminated, truncated, info after one action."""
        _, reward, terminated, truncated, _ = self.game.step(int(np.asarray(action).item()))
        # MiniGrid's reward falls with a step counter that no frame shows.
        success = reward > 0
        return self._frame(), float(success), terminated, truncated and not terminated, self._info(success)

    def _info(self, success: bool) -> dict[str, Any]:
        return {"mission": self.game.mission, "success": bool(success)}

    def _frame(self) -> np.ndarray:
        """MiniGrid's `get_frame(highlight=False, tile_size=8)`, without the visibility that it computes and drops."""
        game, canvas = self.game, self._canvas
        for index, cell in enumerate(game.grid.grid):  # row-major
            row, column = divmod(index, game.width)
            canvas[row, :, column] = self._floor if cell is None else self._render_tile(cell, tile_size=TILE)
        column, row = game.agent_pos
        canvas[row, :, column] = self._render_tile(game.grid.get(column, row), game.agent_dir, tile_size=TILE)
        rows, _, columns, _, _ = canvas.shape
        return canvas.reshape(rows * TILE, columns * TILE, 3).copy()


def make_env(config: EnvConfig, task: str) -> MiniGridPixels:
    """The environment of `task` with its step limit; `ValueError` for an unknown task lists the known ones."""
    if config.family != "minigrid":
        raise ValueError(
            f"env.family {config.family} has no environment here yet: nothing can be collected, and"
            " `embody evaluate --env minerl:NAME` plays it elsewhere (docs/simulator.md)"
        )
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}: choose from {', '.join(TASKS)}")
    if task not in config.tasks:
        raise ValueError(f"task {task!r} is not in env.tasks, which has {', '.join(config.tasks)}")
    if config.actions.sizes != (ACTIONS,):
        raise ValueError(f"env.actions: MiniGrid has one factor of {ACTIONS} choices, got {config.actions.sizes}")
    return MiniGridPixels(task, config.max_steps[config.tasks.index(task)], config.height, config.width)


def _load_minigrid() -> None:
    """Import minigrid, which registers its environments, without the greeting and the prints."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        import minigrid.core.roomgrid  # noqa: F401
        from minigrid.envs.babyai.core import roomgrid_level
    except ImportError as error:
        raise ValueError("minigrid is not installed: pip install embody[minigrid]") from error
    vars(roomgrid_level)["print"] = lambda *_: None  # BabyAI levels print every rejected draw


class LockstepEnvs:
    """N environments of one task side by side; each plays one episode and is then left alone (no autoreset)."""

    def __init__(self, config: EnvConfig, task: str, seeds: Sequence[int]) -> None:
        self._envs = [make_env(config, task) for _ in seeds]
        self._seeds = list(seeds)
        self._actions = len(config.actions.sizes)
        self._frames = np.zeros((len(seeds), config.height, config.width, 3), np.uint8)
        self._over = np.ones(len(seeds), bool)
        self.labels: list[str] = []  # missions, set by reset

    def reset(self) -> np.ndarray:
        """First frames, uint8 [N, H, W, 3]; sets `labels`."""
        first = [env.reset(seed=seed) for env, seed in zip(self._envs, self._seeds, strict=True)]
        self._frames = np.stack([frame for frame, _ in first])
        self._over = np.zeros(len(first), bool)
        self.labels = [info["mission"] for _, info in first]
        return self._frames.copy()

    def step(
        self, actions: np.ndarray, active: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Play int64 `actions` [N, A] where bool `active` [N] and the episode is not over.

        Returns frames uint8 [N, H, W, 3], rewards float32 [N], terminated, truncated and success bool [N]: those of
        this step, so the last four are 0 where nothing was played; frames repeat there.
        """
        n = len(self._envs)
        if actions.shape != (n, self._actions) or active.shape != (n,):
            raise ValueError(
                f"lockstep: actions {actions.shape} and active {active.shape}, expected {(n, self._actions)} and {(n,)}"
            )
        rewards = np.zeros(n, np.float32)
        terminated, truncated, success = (np.zeros(n, bool) for _ in range(3))
        for i in np.flatnonzero(active & ~self._over):
            self._frames[i], rewards[i], terminated[i], truncated[i], info = self._envs[i].step(actions[i])
            success[i] = info["success"]
        self._over |= terminated | truncated
        return self._frames.copy(), rewards, terminated, truncated, success
