"""Which clip comes at which position: a pure function of (seed, position), so that any order resumes exactly."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embody.errors import UserError

__all__ = ["ClipSampler"]


class ClipSampler:
    """Draws clips from episodes of `lengths` slots: a group (a task) uniformly or by its share, then a slot uniformly
    among its episodes' slots.

    A clip never leaves its episode, but may begin before it: up to `left_pad` virtual slots stand in front of slot 0.

    - `ends` False: the drawn slot is where the clip starts. With probability `virtual` the start is drawn anew from the
      episode's virtual and real slots. A start that would leave the clip part empty moves back to the last full clip,
      so that the end of an episode, where rewards come, is seen as often as its middle.
    - `ends` True: the drawn slot, never an episode's last, is where the clip ends but for `after` slots behind it: what
      imagination starts from, and what then happened.
    - An episode with `events` is drawn by one of them in place of its slots, and the clip holds it, anywhere, or
      begins up to `lead` slots earlier; with `ends` its context ends 1 to `lead` slots before it.

    A `UserError` if there is no episode, or, with `ends`, a task whose episodes all have a single slot.
    """

    def __init__(
        self,
        lengths: Sequence[int] | NDArray[np.int64],  # [E], >= 1
        group_index: Sequence[int] | NDArray[np.int64],  # [E]: equal numbers are one group
        seed: int,
        left_pad: int = 0,
        virtual: float = 0.25,
        ends: bool = False,
        after: int = 0,
        shares: Sequence[float] | None = None,  # [G], of the groups in ascending order; None: all alike
        events: Mapping[int, NDArray[np.int64]] | None = None,  # of some episodes, >= 1 each: the slots of the events
        lead: int = 0,
    ) -> None:
        self.lengths = np.asarray(lengths, np.int64)
        if not self.lengths.size:
            raise UserError("no episode to draw clips from, or none that achieves its task: collect some")
        assert (self.lengths >= 1).all() and len(group_index) == len(self.lengths)
        self.events = events or {}
        self._random = np.random.Generator(np.random.Philox(key=np.array([seed % 2**64, 0], np.uint64)))
        self._origin: Any = self._random.bit_generator.state
        assert not ends or not self.events or lead >= 1
        self.seed, self.left_pad, self.virtual, self.ends, self.after = seed, left_pad, virtual, ends, after
        self.lead = lead
        groups = np.asarray(group_index)
        self._episodes = [np.flatnonzero(groups == group) for group in np.unique(groups)]
        # Where each episode's slots, or events, stop when those of its group stand in one row.
        drawable = self.lengths - int(ends)
        drawable[list(self.events)] = [len(slots) for slots in self.events.values()]
        self._stops = [np.cumsum(drawable[episodes]) for episodes in self._episodes]
        self._shares: NDArray[np.float64] | None = None
        if shares is not None:
            assert len(shares) == len(self._episodes) and min(shares) > 0
            self._shares = np.cumsum(shares) / np.sum(shares)
        if any(stops[-1] == 0 for stops in self._stops):
            raise UserError("a task has only episodes of one slot, after which nothing can be imagined")

    def clip(self, position: int, length: int) -> tuple[int, int]:
        """Clip number `position` (>= 0), of `length` slots: its episode and its first slot, negative if left-padded."""
        random = self._at(position)
        if self._shares is None:
            group = int(random.integers(len(self._episodes)))
        else:
            group = min(int(self._shares.searchsorted(random.random(), side="right")), len(self._shares) - 1)
        stops = self._stops[group]
        drawn = int(random.integers(stops[-1]))
        place = int(stops.searchsorted(drawn, side="right"))
        episode = int(self._episodes[group][place])
        size = int(self.lengths[episode])
        slot = drawn - (int(stops[place - 1]) if place else 0)
        if self.ends:
            if episode in self.events:
                slot = max(0, int(self.events[episode][slot]) - 1 - int(random.integers(self.lead)))
            return episode, slot - (length - self.after) + 1
        before = min(self.left_pad, length - 1)  # so that a clip shows slot 0 at least
        if episode in self.events:
            slot = max(-before, int(self.events[episode][slot]) - int(random.integers(length + self.lead)))
        elif random.random() < self.virtual:
            slot = int(random.integers(-before, size))
        return episode, min(slot, max(0, size - length))

    def _at(self, position: int) -> np.random.Generator:
        """The random numbers of a position: one generator, moved, which is faster than a new one."""
        # Philox counts upwards from its counter's lowest word: a position in the next word has a stream of its own.
        self._origin["state"]["counter"][1] = position
        self._random.bit_generator.state = self._origin
        return self._random
