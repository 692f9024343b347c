"""The events of a dataset: which of its steps achieved which of its tasks.

Shapes: N steps (all episodes, concatenated), E episodes, B rows, T timesteps, P tasks.
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from embody.data.dataset import Dataset

__all__ = ["RecordedEvents"]


class RecordedEvents:
    """The events of a dataset. An event is a step (an index into the flat arrays) and the task it achieved."""

    def __init__(self, dataset: Dataset, tasks: int) -> None:
        """`tasks`: P, the tasks of a batch, which has as many as the dataset with the most tasks."""
        self._steps, self._offsets, self._tasks = dataset.steps, dataset.offsets, tasks
        rows, of = dataset.steps.event_rows, dataset.steps.event_tasks
        # The steps that achieve each task, ascending.
        self.of_task = [rows[of == task] for task in range(len(dataset.meta.tasks))]

    @cached_property
    def firsts(self) -> NDArray[np.int64]:
        """The steps, ascending, at which an episode achieves any task for the first time."""
        episodes = np.searchsorted(self._offsets, self._steps.event_rows, side="right")
        _, first = np.unique(np.stack((episodes, self._steps.event_tasks)), axis=1, return_index=True)
        return np.unique(self._steps.event_rows[first])

    @cached_property
    def achieved_at(self) -> NDArray[np.int64]:
        """int64 `[E, P]`: the timestep at which an episode first achieves a task; int64's maximum if it never does."""
        found = np.full((len(self._offsets) - 1, self._tasks), np.iinfo(np.int64).max)
        found[:, len(self.of_task) :] = -1  # a task that this dataset lacks is never among the remaining ones here
        for task, steps in enumerate(self.of_task):
            episodes = np.searchsorted(self._offsets, steps, side="right") - 1
            np.minimum.at(found[:, task], episodes, steps - self._offsets[episodes])
        return found

    def in_episode(self, episode: int, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of `steps` (ascending) that lie in an episode, as its timesteps."""
        begin, end = self._offsets[episode : episode + 2]
        return steps[slice(*np.searchsorted(steps, (begin, end)))] - begin

    def at(self, steps_BT: NDArray[np.int64]) -> NDArray[np.bool_]:
        """bool `[B, T, P]`: the tasks achieved by each step; steps must ascend along T."""
        event_rows, event_tasks = self._steps.event_rows, self._steps.event_tasks
        found = np.zeros((*steps_BT.shape, self._tasks), bool)
        for place, steps_T in enumerate(steps_BT):
            begin, end = steps_T[0], steps_T[-1] + 1
            own = slice(*np.searchsorted(event_rows, (begin, end)))
            at = np.zeros((end - begin, self._tasks), bool)
            at[event_rows[own] - begin, event_tasks[own]] = True
            found[place] = at[steps_T - begin]
        return found
