"""Many environments of one task, stepped together.

Shapes: N environments, A action factors, P achievements (0 where a game has none), H W pixels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embody.config import EnvConfig
from embody.games.registry import game, make_env

__all__ = ["LockstepEnvs"]


class LockstepEnvs:
    """N environments of one task that are stepped together; each plays one episode (there is no autoreset)."""

    def __init__(self, config: EnvConfig, task: str, seeds: Sequence[int]) -> None:
        self._envs = [make_env(config, task) for _ in seeds]
        self._seeds = list(seeds)
        self._actions = len(config.actions.sizes)
        self._frames = np.zeros((len(seeds), config.height, config.width, 3), np.uint8)
        self._over = np.ones(len(seeds), bool)
        self._achievements = len(game(config.game).achievements)
        self.labels: list[str] = []  # the missions, set by `reset`; empty strings if the policy chooses its task
        self.infos: list[dict[str, Any]] = []  # the `info` of each environment's last step or reset
        self.events: NDArray[np.bool_] = np.zeros((len(seeds), self._achievements), bool)  # [N, P] of the last step

    def reset(self) -> np.ndarray:
        """Begin the episodes; returns the first frames, uint8 [N, H, W, 3], and sets `labels`."""
        first = [env.reset(seed=seed) for env, seed in zip(self._envs, self._seeds, strict=True)]
        self._frames = np.stack([frame for frame, _ in first])
        self._over = np.zeros(len(first), bool)
        self.labels = [info["mission"] for _, info in first]
        self.events = np.zeros_like(self.events)
        self.infos = [info for _, info in first]
        return self._frames.copy()

    def step(
        self, actions: np.ndarray, active: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Play int64 `actions` [N, A] in the environments that are `active` (bool [N]) and whose episode is not over.

        Returns frames uint8 [N, H, W, 3], rewards float32 [N], and terminated, truncated and success, bool [N], of this
        step; sets `events`. In the other environments the last frame is repeated, and everything else is 0.
        """
        n = len(self._envs)
        assert actions.shape == (n, self._actions) and active.shape == (n,), (actions.shape, active.shape)
        rewards = np.zeros(n, np.float32)
        terminated, truncated, success = (np.zeros(n, bool) for _ in range(3))
        self.events = np.zeros_like(self.events)
        for i in np.flatnonzero(active & ~self._over):
            self._frames[i], rewards[i], terminated[i], truncated[i], info = self._envs[i].step(actions[i])
            success[i], self.infos[i] = info["success"], info
            if self._achievements:
                self.events[i] = info["events"]
        self._over |= terminated | truncated
        return self._frames.copy(), rewards, terminated, truncated, success
