"""Clips of one dataset as the fields of a batch: what is recorded, and what it is worth for the task that is asked.

Shapes: B rows, T slots, A action factors, H W pixels, L latent tokens, Z channels, W words, N steps of a dataset,
E episodes, P tasks.
"""

import itertools
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embody.config import Goal
from embody.data.dataset import Dataset
from embody.data.episode import label_indices
from embody.data.latents import Latents

__all__ = ["ClipReader", "Drawn", "Fields", "discounted_returns", "first_events"]

Fields = dict[str, NDArray]  # the small fields of a Batch


class Drawn(NamedTuple):
    """A clip: which dataset's, which episode's, for which task, and its first slot."""

    source: int
    episode: int
    task: int | None
    start: int


def discounted_returns(rewards: NDArray[np.float32], offsets: NDArray[np.int64], gamma: float) -> NDArray[np.float32]:
    """`[N]`: at slot t, `sum_{k>=1} gamma^(k-1) r_{t+k}` up to the end of the episode, whose last slot has 0."""
    returns = np.zeros(len(rewards), np.float64)
    lengths = np.diff(offsets)
    for slot in range(int(lengths.max()) - 2, -1, -1):
        at = offsets[:-1][lengths > slot + 1] + slot
        returns[at] = rewards[at + 1] + gamma * returns[at + 1]
    return returns.astype(np.float32)


def first_events(dataset: Dataset) -> NDArray[np.int64]:
    """The steps, in order, at which an episode has an event of a kind that it had none of before."""
    steps = dataset.steps
    episodes = np.searchsorted(dataset.offsets, steps.event_rows, side="right")
    _, first = np.unique(np.stack((episodes, steps.event_tasks)), axis=1, return_index=True)
    return np.unique(steps.event_rows[first])


class ClipReader:
    """Reads clips of one dataset as the fields of a batch."""

    def __init__(
        self,
        dataset: Dataset,
        latents: Latents | None,
        gamma: float,
        once: bool,
        goal: Goal,
        words: int,
        factors: int,
        tasks: int,
    ) -> None:
        self.dataset, self.latents, self.factors, self.tasks = dataset, latents, factors, tasks
        self.gamma, self.once, self.goal = gamma, once, goal
        self.returns = discounted_returns(dataset.rewards, dataset.offsets, gamma)
        self.places = list(itertools.pairwise(dataset.offsets.tolist()))  # of each episode's slots in the flat arrays
        self.labelled = [row.labelled for row in dataset.episodes()]
        vocabulary = dataset.meta.vocabulary
        self.task = [label_indices(row.label, vocabulary, words) for row in dataset.episodes()]
        self.label = [label_indices(label, vocabulary, words) for label in dataset.meta.labels]
        steps = dataset.steps
        # Of each task, the steps at which it is achieved, in order.
        self.events = [steps.event_rows[steps.event_tasks == task] for task in range(len(dataset.meta.tasks))]

    @cached_property
    def firsts(self) -> NDArray[np.int64]:
        """The steps at which an episode achieves one of its tasks for the first time, in order."""
        return first_events(self.dataset)

    @cached_property
    def misses(self) -> list[NDArray[np.int64]]:
        """Of each task, the steps that its usual action led to, the commonest one at its events, and no event."""
        actions, found = self.dataset.actions, []
        for events in self.events:
            kinds, counts = np.unique(actions[events], axis=0, return_counts=True)
            taken = (actions == kinds[counts.argmax()]).all(axis=1) if len(events) else np.zeros(len(actions), bool)
            taken[events] = False
            found.append(np.flatnonzero(taken))
        return found

    @cached_property
    def achieved_at(self) -> NDArray[np.int64]:
        """The slot `[E, P]` in which an episode first achieves a task; past its end where it never does."""
        found = np.full((len(self.places), self.tasks), np.iinfo(np.int64).max)
        found[:, len(self.events) :] = -1  # another dataset's: nobody asks for them here
        for task, events in enumerate(self.events):
            episodes = np.searchsorted(self.dataset.offsets, events, side="right") - 1
            np.minimum.at(found[:, task], episodes, events - self.dataset.offsets[episodes])
        return found

    def slots_of(self, episode: int, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which of an episode's slots are among `steps`, in order."""
        begin, end = self.dataset.offsets[episode : episode + 2]
        return steps[slice(*np.searchsorted(steps, (begin, end)))] - begin

    @property
    def shown(self) -> tuple[str, tuple[int, ...], type[np.generic]]:
        """Which field of a batch holds what a slot shows, of what shape and type."""
        if self.latents is not None:
            return "latents", (self.latents.tokens, self.latents.channels), np.float16
        return "frames", (3, *self.dataset.size), np.uint8

    def clips(self, drawn: Sequence[Drawn], length: int) -> Fields:
        """Slots `start` to `start + length` of each; those outside of the episode repeat its first or last real slot.

        With a `task`, which the episode has events of, rewards and label are that task's, or those of all tasks.
        """
        dataset, steps = self.dataset, self.dataset.steps
        begin_B1, end_B1 = np.array([self.places[clip.episode] for clip in drawn]).T[:, :, None]
        slots_BT = np.array([clip.start for clip in drawn])[:, None] + np.arange(length)
        inside_BT = np.minimum(np.maximum(slots_BT, 0), end_B1 - begin_B1 - 1)
        rows_BT = begin_B1 + inside_BT
        labelled_B = np.array([self.labelled[clip.episode] for clip in drawn])
        label_BW = np.stack([self.task[clip.episode] if clip.task is None else self.label[clip.task] for clip in drawn])
        actions_BTA = (
            dataset.actions[rows_BT]
            if labelled_B.any()  # plain videos have no factors
            else np.zeros((*rows_BT.shape, self.factors), np.int64)
        )
        rewards_BT, returns_BT = dataset.rewards[rows_BT], self.returns[rows_BT]
        for place, clip in enumerate(drawn):
            if clip.task is not None and self.goal != "recorded":
                paying = self.events[clip.task] if self.goal == "one" else self.firsts
                events = self.slots_of(clip.episode, paying)
                rewards_BT[place], returns_BT[place] = self._relabelled(events, inside_BT[place])
        fields = {
            "actions": actions_BTA,
            "rewards": rewards_BT,
            "returns": returns_BT,
            "is_first": slots_BT <= 0,
            "is_terminal": dataset.is_terminal[rows_BT],
            "mask": slots_BT == inside_BT,
            "task": label_BW * labelled_B[:, None],
            "labelled": labelled_B,
            "is_null": np.zeros(rows_BT.shape, bool) if steps.is_null is None else steps.is_null[rows_BT],
        }
        if self.goal != "one":
            fields["events"] = self._events_at(rows_BT) & (slots_BT == inside_BT)[:, :, None]
            achieved_at_BP = self.achieved_at[[clip.episode for clip in drawn]]
            fields["task"] = (achieved_at_BP[:, None] > inside_BT[:, :, None]) & labelled_B[:, None, None]
        after_BT = slots_BT > inside_BT
        if after_BT.any():  # padded on the right: nothing happens there
            for name in ("actions", "rewards", "returns", "is_terminal", "is_null"):
                fields[name][after_BT] = 0
        fields["actions"][~labelled_B] = 0
        return fields

    def show(self, episode: int, start: int, shown: NDArray) -> None:
        """Write what the slots from `start` on show into `shown` `[T, ...]`, which says how many they are."""
        begin, end = self.places[episode]
        first, last = min(max(start, 0), end - begin - 1), min(max(start + len(shown), 1), end - begin)
        found: NDArray
        if self.latents is not None:
            found = self.latents.slice(episode, first, last)
        else:
            found = self.dataset.frames(episode, first, last).transpose(0, 3, 1, 2)
        if len(found) == len(shown):
            shown[...] = found
        else:
            before = first - start  # slots that repeat the first one
            shown[:before], shown[before : before + len(found)] = found[0], found
            shown[before + len(found) :] = found[-1]

    def _events_at(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which tasks were achieved at `rows` `[B, T]` of the flat arrays, `[B, T, P]`."""
        steps = self.dataset.steps
        found = np.zeros((*rows.shape, self.tasks), bool)
        for place, row_T in enumerate(rows):
            begin = row_T[0]
            own = slice(*np.searchsorted(steps.event_rows, (begin, row_T[-1] + 1)))
            at = np.zeros((row_T[-1] + 1 - begin, self.tasks), bool)
            at[steps.event_rows[own] - begin, steps.event_tasks[own]] = True
            found[place] = at[row_T - begin]
        return found

    def _relabelled(
        self, events: NDArray[np.int64], slots: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Rewards and returns at `slots` of a task that is achieved at `events`: `once` ends with the next."""
        ahead = events - slots[:, None]
        counted = (ahead > 0) & ((ahead > 0).cumsum(axis=1) == 1) if self.once else ahead > 0
        returns = (counted * self.gamma ** np.maximum(ahead - 1, 0)).sum(axis=1)
        return np.isin(slots, events).astype(np.float32), returns.astype(np.float32)
