"""Reading clips of one dataset as the fields of a batch, with rewards relabelled for the goal.

Shapes: B rows, T timesteps, A action factors, H W pixels, L latent tokens, Z channels, W words, N steps of a dataset,
E episodes, P tasks.
"""

import itertools
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embody.data.dataset import Dataset
from embody.data.episode import label_indices
from embody.data.goal import ClipPlaces, goal_of
from embody.data.latents import Latents
from embody.data.recorded_events import RecordedEvents
from embody.data.sampling.clip_spec import Relabelling

__all__ = ["ClipReader", "Clip", "Fields", "discounted_returns"]

Fields = dict[str, NDArray]  # the fields of a Batch, without frames and latents


class Clip(NamedTuple):
    """A clip: the indices of its dataset, episode and task (None: no events), and its first timestep."""

    source: int
    episode: int
    task: int | None
    start: int


def discounted_returns(rewards: NDArray[np.float32], offsets: NDArray[np.int64], gamma: float) -> NDArray[np.float32]:
    """float32 `[N]`: at timestep t, `sum_{k>=1} gamma^(k-1) r_{t+k}` to the end of the episode."""
    returns = np.zeros(len(rewards), np.float64)
    lengths = np.diff(offsets)
    for timestep in range(int(lengths.max()) - 2, -1, -1):
        at = offsets[:-1][lengths > timestep + 1] + timestep
        returns[at] = rewards[at + 1] + gamma * returns[at + 1]
    return returns.astype(np.float32)


class ClipReader:
    """Reads clips of one dataset as the fields of a batch."""

    def __init__(
        self,
        dataset: Dataset,
        latents: Latents | None,
        relabelling: Relabelling,
        factors: int,
        tasks: int,
    ) -> None:
        """`factors` (A) and `tasks` (P) are those of the batch; other datasets may have more than this one."""
        self.dataset, self.latents, self.factors, self.tasks = dataset, latents, factors, tasks
        self.relabelling, self.goal = relabelling, goal_of(relabelling.goal)
        self.returns = discounted_returns(dataset.rewards, dataset.offsets, relabelling.gamma)
        # The first and last (exclusive) row of each episode in the flat arrays.
        self.bounds = list(itertools.pairwise(dataset.offsets.tolist()))
        self.labelled = [row.labelled for row in dataset.episodes()]
        vocabulary = dataset.meta.vocabulary
        self.task = [label_indices(row.label, vocabulary, relabelling.words) for row in dataset.episodes()]
        self.label = [label_indices(label, vocabulary, relabelling.words) for label in dataset.meta.labels]
        self.events = RecordedEvents(dataset, tasks)

    @cached_property
    def misses(self) -> list[NDArray[np.int64]]:
        """For each task, the steps without an event whose action is the most frequent one at the task's events."""
        actions, found = self.dataset.actions, []
        for events in self.events.of_task:
            kinds, counts = np.unique(actions[events], axis=0, return_counts=True)
            taken = (actions == kinds[counts.argmax()]).all(axis=1) if len(events) else np.zeros(len(actions), bool)
            taken[events] = False
            found.append(np.flatnonzero(taken))
        return found

    @property
    def frame_field(self) -> tuple[str, tuple[int, ...], type[np.generic]]:
        """The name, shape (without `[B, T]`) and dtype of the field that holds frames or latents."""
        if self.latents is not None:
            return "latents", (self.latents.tokens, self.latents.channels), np.float16
        return "frames", (3, *self.dataset.size), np.uint8

    def clips(self, drawn: Sequence[Clip], length: int) -> Fields:
        """Timesteps `start` to `start + length` of each clip. Outside of its episode the first or last is repeated.

        Clips with a `task` are relabelled for the goal.
        """
        dataset, steps = self.dataset, self.dataset.steps
        begin_B1, end_B1 = np.array([self.bounds[clip.episode] for clip in drawn]).T[:, :, None]
        timesteps_BT = np.array([clip.start for clip in drawn])[:, None] + np.arange(length)
        inside_BT = np.minimum(np.maximum(timesteps_BT, 0), end_B1 - begin_B1 - 1)
        rows_BT = begin_B1 + inside_BT
        labelled_B = np.array([self.labelled[clip.episode] for clip in drawn])
        label_BW = np.stack([self.task[clip.episode] if clip.task is None else self.label[clip.task] for clip in drawn])
        actions_BTA = (
            dataset.actions[rows_BT]
            if labelled_B.any()  # datasets of plain videos have other factors
            else np.zeros((*rows_BT.shape, self.factors), np.int64)
        )
        rewards_BT, returns_BT = dataset.rewards[rows_BT], self.returns[rows_BT]
        for place, clip in enumerate(drawn):
            paying = None if clip.task is None else self.goal.paying_steps(self.events, clip.task)
            if paying is not None:
                events = self.events.in_episode(clip.episode, paying)
                rewards_BT[place], returns_BT[place] = self._relabelled(events, inside_BT[place])
        places = ClipPlaces(np.array([clip.episode for clip in drawn]), rows_BT, inside_BT, timesteps_BT == inside_BT)
        fields = {
            "actions": actions_BTA,
            "rewards": rewards_BT,
            "returns": returns_BT,
            "is_first": timesteps_BT <= 0,
            "is_terminal": dataset.is_terminal[rows_BT],
            "mask": places.real,
            "labelled": labelled_B,
            "is_null": np.zeros(rows_BT.shape, bool) if steps.is_null is None else steps.is_null[rows_BT],
            **self.goal.clip_fields(self.events, places, label_BW, labelled_B),
        }
        after_BT = timesteps_BT > inside_BT
        if after_BT.any():  # padded on the right
            for name in ("actions", "rewards", "returns", "is_terminal", "is_null"):
                fields[name][after_BT] = 0
        fields["actions"][~labelled_B] = 0
        return fields

    def read_frames(self, episode: int, start: int, shown: NDArray) -> None:
        """Write the frames (or latents) of timesteps `start`, `start + 1`, ... into `shown` `[T, ...]`."""
        begin, end = self.bounds[episode]
        first, last = min(max(start, 0), end - begin - 1), min(max(start + len(shown), 1), end - begin)
        found: NDArray
        if self.latents is not None:
            found = self.latents.slice(episode, first, last)
        else:
            found = self.dataset.frames(episode, first, last).transpose(0, 3, 1, 2)
        if len(found) == len(shown):
            shown[...] = found
        else:
            padding = first - start  # timesteps that repeat the first one
            shown[:padding], shown[padding : padding + len(found)] = found[0], found
            shown[padding + len(found) :] = found[-1]

    def _relabelled(
        self, events: NDArray[np.int64], timesteps: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Rewards and returns at `timesteps` of a task with events at `events`; with `once` only the next counts."""
        ahead = events - timesteps[:, None]
        counted = (ahead > 0) & ((ahead > 0).cumsum(axis=1) == 1) if self.relabelling.once else ahead > 0
        returns = (counted * self.relabelling.gamma ** np.maximum(ahead - 1, 0)).sum(axis=1)
        return np.isin(timesteps, events).astype(np.float32), returns.astype(np.float32)
