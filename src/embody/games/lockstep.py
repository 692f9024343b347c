"""An environment of any family by its task, and many played side by side.

Shapes: N environments, A action factors, P achievements (0 where a family has none), H W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embody.config import EnvConfig
from embody.errors import UserError
from embody.games.crafter import environment as crafter
from embody.games.minigrid import environment as minigrid

__all__ = ["FAMILIES", "Family", "LockstepEnvs", "PixelEnv", "make_env"]


class PixelEnv(Protocol):
    """What both families' environments are, beside gymnasium's."""

    actions: int  # choices of the one factor

    def reset(self, *, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """First frame uint8 [H, W, 3]; `info` has "mission" (str) and "success" (bool)."""
        ...

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Frame, reward, terminated, truncated, info; that has "events" (bool [P]) too where there are achievements."""
        ...


@dataclass(frozen=True)
class Family:
    """What the environments of one family have in common."""

    tasks: tuple[str, ...]
    action_names: tuple[tuple[str, ...], ...]  # of each factor
    vocabulary: tuple[str, ...]  # every word of the missions or labels
    achievements: tuple[str, ...] = ()  # [P]; a recording of such a family has their events
    labels: tuple[str, ...] = ()  # [P]: what each asks for, in words


FAMILIES: Mapping[str, Family] = {
    "minigrid": Family(minigrid.TASKS, minigrid.ACTION_NAMES, minigrid.VOCABULARY),
    "crafter": Family(crafter.TASKS, crafter.ACTION_NAMES, crafter.VOCABULARY, crafter.ACHIEVEMENTS, crafter.LABELS),
}


def make_env(config: EnvConfig, task: str) -> PixelEnv:
    """The environment of `task` with its step limit; `UserError` for an unknown task lists the known ones."""
    if config.family not in FAMILIES:
        raise UserError(
            f"env.family {config.family} has no environment here yet: nothing can be collected, and"
            " `embody evaluate --env minerl:NAME` plays it elsewhere (docs/simulator.md)"
        )
    family = FAMILIES[config.family]
    if task not in family.tasks:
        raise UserError(f"unknown task {task!r}: choose from {', '.join(family.tasks)}")
    if task not in config.tasks:
        raise UserError(f"task {task!r} is not in env.tasks, which has {', '.join(config.tasks)}")
    sizes = tuple(map(len, family.action_names))
    if config.actions.sizes != sizes:
        raise UserError(f"env.actions: {config.family} has sizes {sizes}, got {config.actions.sizes}")
    limit = config.max_steps[config.tasks.index(task)]
    if config.family == "crafter":
        return crafter.CrafterPixels(limit, config.height, config.width)
    return minigrid.MiniGridPixels(task, limit, config.height, config.width)


class LockstepEnvs:
    """N environments of one task side by side; each plays one episode and is then left alone (no autoreset)."""

    def __init__(self, config: EnvConfig, task: str, seeds: Sequence[int]) -> None:
        self._envs = [make_env(config, task) for _ in seeds]
        self._seeds = list(seeds)
        self._actions = len(config.actions.sizes)
        self._frames = np.zeros((len(seeds), config.height, config.width, 3), np.uint8)
        self._over = np.ones(len(seeds), bool)
        self._achievements = len(FAMILIES[config.family].achievements)
        self.labels: list[str] = []  # missions, set by reset; empty ones where whoever plays says what for
        self.infos: list[dict[str, Any]] = []  # of each environment's last step or reset
        self.events: NDArray[np.bool_] = np.zeros((len(seeds), self._achievements), bool)  # [N, P], of the last step

    def reset(self) -> np.ndarray:
        """First frames, uint8 [N, H, W, 3]; sets `labels`."""
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
        """Play int64 `actions` [N, A] where bool `active` [N] and the episode is not over; sets `events`.

        Returns frames uint8 [N, H, W, 3], rewards float32 [N], terminated, truncated and success bool [N]: those of
        this step, so the last four, and the events, are 0 where nothing was played; frames repeat there.
        """
        n = len(self._envs)
        if actions.shape != (n, self._actions) or active.shape != (n,):
            raise UserError(
                f"lockstep: actions {actions.shape} and active {active.shape}, expected {(n, self._actions)} and {(n,)}"
            )
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
