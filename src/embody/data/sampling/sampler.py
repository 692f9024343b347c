"""Which clip comes at which position: a pure function of (seed, position), so that any order resumes exactly."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embody.data.sampling.clip_spec import Placement
from embody.errors import UserError

__all__ = ["Anchors", "ClipSampler"]


@dataclass(frozen=True)
class Anchors:
    """Timesteps around which clips are to lie."""

    timesteps: Mapping[int, NDArray[np.int64]]  # of some episodes, by their place; at least one each, in order
    lead: int = 0  # clips may begin so many timesteps before they would hold one


class ClipSampler:
    """Draws clips from episodes of `lengths` timesteps: a group (a task) uniformly or by its share, then a timestep
    uniformly among those of its episodes.

    A clip never leaves its episode, but may begin up to `left_pad` virtual timesteps before timestep 0.

    - By default the drawn timestep is where the clip starts. With probability `padded_share` the start is drawn anew
      from the episode's virtual and real timesteps. A start that would leave the clip part empty moves back to the last
      full clip, so that the end of an episode, where rewards come, is seen as often as its middle.
    - Of `contexts` the drawn timestep, never an episode's last, is where the clip ends but for `after` timesteps behind
      it: what imagination starts from, and what then happened.
    - An episode with `anchors` is drawn by one of them in place of its timesteps, and the clip holds it, anywhere, or
      begins up to `lead` timesteps earlier; a context ends 1 to `lead` timesteps before it.

    A `UserError` if there is no episode, or, of `contexts`, a task whose episodes all have a single timestep.
    """

    def __init__(
        self,
        lengths: Sequence[int] | NDArray[np.int64],  # [E], >= 1
        group_index: Sequence[int] | NDArray[np.int64],  # [E]: equal numbers are one group
        seed: int,
        placement: Placement,
        *,
        shares: Sequence[float] | None = None,  # [G], of the groups in ascending order; None: all alike
        anchors: Anchors | None = None,
    ) -> None:
        self.lengths = np.asarray(lengths, np.int64)
        if not self.lengths.size:
            raise UserError("no episode to draw clips from, or none that achieves its task: collect some")
        assert (self.lengths >= 1).all() and len(group_index) == len(self.lengths)
        self.anchors, self.lead = ({}, 0) if anchors is None else (anchors.timesteps, anchors.lead)
        self._random = np.random.Generator(np.random.Philox(key=np.array([seed % 2**64, 0], np.uint64)))
        self._origin: Any = self._random.bit_generator.state
        assert not placement.contexts or not self.anchors or self.lead >= 1
        self.seed, self.placement = seed, placement
        groups = np.asarray(group_index)
        self._episodes = [np.flatnonzero(groups == group) for group in np.unique(groups)]
        # Where each episode's timesteps, or anchors, stop when those of its group stand in one row.
        drawable = self.lengths - int(placement.contexts)
        drawable[list(self.anchors)] = [len(timesteps) for timesteps in self.anchors.values()]
        self._stops = [np.cumsum(drawable[episodes]) for episodes in self._episodes]
        self._shares: NDArray[np.float64] | None = None
        if shares is not None:
            assert len(shares) == len(self._episodes) and min(shares) > 0
            self._shares = np.cumsum(shares) / np.sum(shares)
        if any(stops[-1] == 0 for stops in self._stops):
            raise UserError("a task has only episodes of one timestep, after which nothing can be imagined")

    def clip(self, position: int, length: int) -> tuple[int, int]:
        """Clip `position` (>= 0), of `length` timesteps: its episode and first timestep, negative if left-padded."""
        random, placement = self._at(position), self.placement
        if self._shares is None:
            group = int(random.integers(len(self._episodes)))
        else:
            group = min(int(self._shares.searchsorted(random.random(), side="right")), len(self._shares) - 1)
        stops = self._stops[group]
        drawn = int(random.integers(stops[-1]))
        place = int(stops.searchsorted(drawn, side="right"))
        episode = int(self._episodes[group][place])
        size = int(self.lengths[episode])
        timestep = drawn - (int(stops[place - 1]) if place else 0)
        if placement.contexts:
            if episode in self.anchors:
                timestep = max(0, int(self.anchors[episode][timestep]) - 1 - int(random.integers(self.lead)))
            return episode, timestep - (length - placement.after) + 1
        before = min(placement.left_pad, length - 1)  # so that a clip shows timestep 0 at least
        if episode in self.anchors:
            timestep = max(-before, int(self.anchors[episode][timestep]) - int(random.integers(length + self.lead)))
        elif random.random() < placement.padded_share:
            timestep = int(random.integers(-before, size))
        return episode, min(timestep, max(0, size - length))

    def _at(self, position: int) -> np.random.Generator:
        """The random numbers of a position: one generator, moved, which is faster than a new one."""
        # Philox counts upwards from its counter's lowest word: a position in the next word has a stream of its own.
        self._origin["state"]["counter"][1] = position
        self._random.bit_generator.state = self._origin
        return self._random
