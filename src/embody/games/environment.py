"""What a game's environment and its demonstrator are.

Shapes: A action factors, P achievements (none where a game has none), H W pixels.
"""

from typing import Any, Protocol

import numpy as np

__all__ = ["Demonstrator", "DemonstratorLost", "PixelEnv"]


class PixelEnv(Protocol):
    """What a game's environment is, beside gymnasium's."""

    actions: int  # choices of the one factor

    def reset(self, *, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """First frame uint8 [H, W, 3]; `info` has "mission" (str) and "success" (bool)."""
        ...

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Frame, reward, terminated, truncated, info; that has "events" (bool [P]) too where there are achievements."""
        ...


class DemonstratorLost(Exception):
    """It knows no way on: a random action has made the mission impossible, such as opening the box to move."""


class Demonstrator(Protocol):
    """Suggests actions for one episode at a time."""

    def reset(self, env: Any) -> None:
        """Take up the episode that `env` has just begun."""
        ...

    def action(self, previous: int | None) -> int:
        """The next action. `previous` is what was really played last, None at first. May raise `DemonstratorLost`."""
        ...
