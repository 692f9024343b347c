"""The interface of policies, which get frames and return actions, and the random policy.

Shapes: N environments, A action factors, H W pixels.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embody.config import ActionSpec

__all__ = ["Policy", "RandomPolicy", "TaskPolicy"]


class Policy(Protocol):
    """A policy that plays N episodes at once."""

    def begin(self, frames: NDArray[np.uint8], labels: list[str]) -> None:
        """Begin N new episodes with their first frames `[N, H, W, 3]` and missions; earlier episodes are forgotten."""

    def act(self) -> NDArray[np.int64]:
        """Sample the next actions `[N, A]` of all episodes; those of episodes that are over are ignored."""

    def observe(self, actions: NDArray[np.int64], frames: NDArray[np.uint8]) -> None:
        """Receive the played actions `[N, A]` and the next frames `[N, H, W, 3]`; finished episodes repeat theirs."""


class TaskPolicy(Policy, Protocol):
    """A policy whose task may change within an episode."""

    def relabel(self, labels: list[str]) -> None:
        """Set the labels of the N episodes' tasks from now on."""

    def keep(self, rows: Sequence[int]) -> None:
        """Continue with the episodes of these indices only."""


class RandomPolicy:
    """A policy that chooses uniformly among the choices of each action factor."""

    def __init__(self, actions: ActionSpec, rng: np.random.Generator) -> None:
        self._sizes = actions.sizes
        self._rng = rng
        self._episodes = 0

    def begin(self, frames: NDArray[np.uint8], labels: list[str]) -> None:
        self._episodes = len(frames)

    def act(self) -> NDArray[np.int64]:
        return self._rng.integers(self._sizes, size=(self._episodes, len(self._sizes)))

    def observe(self, actions: NDArray[np.int64], frames: NDArray[np.uint8]) -> None:
        """Ignored: actions do not depend on frames."""

    def relabel(self, labels: list[str]) -> None:
        """Ignored: actions do not depend on the task."""

    def keep(self, rows: Sequence[int]) -> None:
        """Continue with the episodes of these indices only."""
        self._episodes = len(rows)
