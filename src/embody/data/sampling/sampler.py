"""Drawing clips: clip number n is a pure function of (seed, n), so that training resumes exactly."""

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
    """Timesteps (events or misses) that clips must contain or approach."""

    timesteps: Mapping[int, NDArray[np.int64]]  # anchors of some episodes, by their index; ascending, at least one each
    lead: int = 0  # timesteps by which a clip may end before its anchor


class ClipSampler:
    """Draws clips from episodes of `lengths` timesteps.

    First a group (such as a task) is drawn, uniformly or by `shares`; then a timestep, uniformly over all timesteps of
    the group's episodes. A clip may begin up to `left_pad` padded timesteps before timestep 0.

    - By default the clip starts at the drawn timestep. With probability `padded_share` the start is drawn again, from
      the episode's padded and real timesteps. If the clip would end after the episode, it is moved back to end with it;
      so the end of an episode, where rewards come, is drawn as often as its middle.
    - With `contexts` the drawn timestep, never the last of an episode, is the last one of the context. The clip
      continues for `after` timesteps.
    - In an episode with `anchors`, one of these is drawn instead of any timestep. The clip contains it at a uniform
      position, or ends up to `lead` timesteps before it. A context ends 1 to `lead` timesteps before its anchor.

    A `UserError` if there is no episode; with `contexts` also if all episodes of a task have a single timestep.
    """

    def __init__(
        self,
        lengths: Sequence[int] | NDArray[np.int64],  # [E], >= 1
        group_index: Sequence[int] | NDArray[np.int64],  # [E]: the group of each episode
        seed: int,
        placement: Placement,
        *,
        shares: Sequence[float] | None = None,  # [G], above 0, in ascending order of the groups; None: uniform
        anchors: Anchors | None = None,
    ) -> None:
        self.lengths = np.asarray(lengths, np.int64)
        if not self.lengths.size:
            raise UserError(
                "no episode to draw clips from: collect or import demonstrations, some of which achieve their task"
            )
        assert (self.lengths >= 1).all() and len(group_index) == len(self.lengths)
        self.anchors, self.lead = ({}, 0) if anchors is None else (anchors.timesteps, anchors.lead)
        self._random = np.random.Generator(np.random.Philox(key=np.array([seed % 2**64, 0], np.uint64)))
        self._origin: Any = self._random.bit_generator.state
        assert not placement.contexts or not self.anchors or self.lead >= 1
        self.seed, self.placement = seed, placement
        groups = np.asarray(group_index)
        self._episodes = [np.flatnonzero(groups == group) for group in np.unique(groups)]
        # The timesteps (or anchors) of all episodes of a group are numbered consecutively; each stop ends an episode's
        # numbers.
        drawable = self.lengths - int(placement.contexts)
        drawable[list(self.anchors)] = [len(timesteps) for timesteps in self.anchors.values()]
        self._stops = [np.cumsum(drawable[episodes]) for episodes in self._episodes]
        self._shares: NDArray[np.float64] | None = None
        if shares is not None:
            assert len(shares) == len(self._episodes) and min(shares) > 0
            self._shares = np.cumsum(shares) / np.sum(shares)
        if any(stops[-1] == 0 for stops in self._stops):
            raise UserError(
                "all episodes of a task have a single timestep, so nothing follows their context: collect longer ones"
            )

    def clip(self, position: int, length: int) -> tuple[int, int]:
        """The episode and first timestep (negative: padded) of clip number `position` (>= 0), of `length` timesteps."""
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
        padding = min(placement.left_pad, length - 1)  # at least timestep 0 of a clip is real
        if episode in self.anchors:
            timestep = max(-padding, int(self.anchors[episode][timestep]) - int(random.integers(length + self.lead)))
        elif random.random() < placement.padded_share:
            timestep = int(random.integers(-padding, size))
        return episode, min(timestep, max(0, size - length))

    def _at(self, position: int) -> np.random.Generator:
        """The random generator of a clip: one generator, repositioned, which is faster than making a new one."""
        # Philox increments the lowest word of its counter; `position` in the next word selects a separate stream.
        self._origin["state"]["counter"][1] = position
        self._random.bit_generator.state = self._origin
        return self._random
