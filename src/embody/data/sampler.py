"""Which clip comes at which position: a pure function of (seed, position), so that any order resumes exactly."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["ClipSampler"]


class ClipSampler:
    """Draws clips from episodes of `lengths` slots: a task uniformly, then a slot uniformly among its episodes' slots.

    A clip never leaves its episode, but may begin before it: up to `left_pad` virtual slots stand in front of slot 0.

    - `ends` False: the drawn slot is where the clip starts. With probability `virtual` the start is drawn anew from the
      episode's virtual and real slots. A start that would leave the clip part empty moves back to the last full clip,
      so that the end of an episode, where rewards come, is seen as often as its middle.
    - `ends` True: the drawn slot, never an episode's last, is where the clip ends but for `after` slots behind it: what
      imagination starts from, and what then happened.

    A `ValueError` if there is no episode, or, with `ends`, a task whose episodes all have a single slot.
    """

    def __init__(
        self,
        lengths: Sequence[int] | NDArray[np.int64],  # [E], >= 1
        task_index: Sequence[int] | NDArray[np.int64],  # [E]: equal numbers are one task
        seed: int,
        left_pad: int = 0,
        virtual: float = 0.25,
        ends: bool = False,
        after: int = 0,
    ) -> None:
        self.lengths = np.asarray(lengths, np.int64)
        if not self.lengths.size:
            raise ValueError("no episode to draw clips from, or none that achieves its task: collect some")
        assert (self.lengths >= 1).all() and len(task_index) == len(self.lengths)
        self.seed, self.left_pad, self.virtual, self.ends, self.after = seed, left_pad, virtual, ends, after
        tasks = np.asarray(task_index)
        self._episodes = [np.flatnonzero(tasks == task) for task in np.unique(tasks)]
        # Where each episode's slots stop when those of its task stand in one row.
        self._stops = [np.cumsum(self.lengths[episodes] - int(ends)) for episodes in self._episodes]
        if any(stops[-1] == 0 for stops in self._stops):
            raise ValueError("a task has only episodes of one slot, after which nothing can be imagined")

    def clip(self, position: int, length: int) -> tuple[int, int]:
        """Clip number `position` (>= 0), of `length` slots: its episode and its first slot, negative if left-padded."""
        # Philox counts upwards from its counter's lowest word: a position in the next word has a stream of its own.
        key = np.array([self.seed % 2**64, 0], np.uint64)
        random = np.random.Generator(np.random.Philox(key=key, counter=np.array([0, position, 0, 0], np.uint64)))
        task = int(random.integers(len(self._episodes)))
        stops = self._stops[task]
        drawn = int(random.integers(stops[-1]))
        place = int(np.searchsorted(stops, drawn, side="right"))
        episode = int(self._episodes[task][place])
        size = int(self.lengths[episode])
        slot = drawn - (int(stops[place - 1]) if place else 0)
        if self.ends:
            return episode, slot - (length - self.after) + 1
        if random.random() < self.virtual:
            before = min(self.left_pad, length - 1)  # so that a clip shows slot 0 at least
            slot = int(random.integers(-before, size))
        return episode, min(slot, max(0, size - length))
