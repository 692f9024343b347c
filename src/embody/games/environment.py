"""The interfaces of a game's environment and of its demonstrator.

Shapes: A action factors, P achievements (0 if a game has none), H W pixels.
"""

from typing import Any, Protocol

import numpy as np

__all__ = ["Demonstrator", "DemonstratorLost", "PixelEnv"]


class PixelEnv(Protocol):
    """A gymnasium environment with the additions that embody needs."""

    actions: int  # the number of choices of its only action factor

    def reset(self, *, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """The first frame uint8 [H, W, 3] and `info`, which has "mission" (str) and "success" (bool)."""
        ...

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Frame, reward, terminated, truncated, `info`; `info` also has "events" (bool [P]) if P > 0."""
        ...


class DemonstratorLost(Exception):
    """The demonstrator has no plan: random actions made the mission impossible, such as opening a box that it needs."""


class Demonstrator(Protocol):
    """An expert that suggests the actions of one episode at a time."""

    def reset(self, env: Any) -> None:
        """Begin the episode that `env` was just reset to."""
        ...

    def action(self, previous: int | None) -> int:
        """The next action. `previous` is the action that was played last, which may be another one than suggested.

        It is None at the first step. Raises `DemonstratorLost` if the mission has become impossible.
        """
        ...
