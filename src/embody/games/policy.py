"""Whoever plays: the agent, chance, or anything else that takes frames and gives actions.

N environments, A action factors, H W pixels.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embody.config import ActionSpec

__all__ = ["Policy", "RandomPolicy", "TaskPolicy"]


class Policy(Protocol):
    """Something that plays N episodes at once."""

    def begin(self, frames: NDArray[np.uint8], labels: list[str]) -> None:
        """N episodes begin: their first frames `[N, H, W, 3]` and their missions. What came before is forgotten."""

    def act(self) -> NDArray[np.int64]:
        """Actions `[N, A]`, sampled, for all N; those of episodes that are over are not played."""

    def observe(self, actions: NDArray[np.int64], frames: NDArray[np.uint8]) -> None:
        """What was played `[N, A]` and the frames that came `[N, H, W, 3]`; of episodes that are over, the last one."""


class TaskPolicy(Policy, Protocol):
    """A policy whose task may change within an episode."""

    def relabel(self, labels: list[str]) -> None:
        """What the N episodes ask for from now on."""

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these of the N episodes only."""


class RandomPolicy:
    """Every choice of every factor equally likely."""

    def __init__(self, actions: ActionSpec, rng: np.random.Generator) -> None:
        self._sizes = actions.sizes
        self._rng = rng
        self._episodes = 0

    def begin(self, frames: NDArray[np.uint8], labels: list[str]) -> None:
        self._episodes = len(frames)

    def act(self) -> NDArray[np.int64]:
        return self._rng.integers(self._sizes, size=(self._episodes, len(self._sizes)))

    def observe(self, actions: NDArray[np.int64], frames: NDArray[np.uint8]) -> None:
        """Chance does not look."""

    def relabel(self, labels: list[str]) -> None:
        """Nor listen."""

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these of the N episodes only."""
        self._episodes = len(rows)
