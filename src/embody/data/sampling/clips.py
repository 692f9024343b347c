"""The episodes that each kind of row is drawn from: all of them, those that achieve their task, or those with a
miss."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from embody.data.episode import EVERY_TASK, EpisodeRow
from embody.data.sampling.clip_spec import Placement
from embody.data.sampling.reader import Clip, ClipReader
from embody.data.sampling.sampler import Anchors, ClipSampler
from embody.errors import UserError

__all__ = ["Clips", "Entry", "achieving_entries", "entries_of", "missing_entries"]


@dataclass(frozen=True)
class Entry:
    """An episode to draw clips from. An episode with events has an entry for each task that occurs in its dataset."""

    source: int  # index of its dataset
    row: EpisodeRow
    name: str  # name of the task
    task: int | None = None  # index of the task, if the episode has events


class Clips:
    """Draws clip number n from `entries`, for any n."""

    def __init__(
        self,
        entries: Sequence[Entry],
        seed: int,
        placement: Placement,
        weights: Sequence[float],
        anchors: Anchors | None = None,
    ) -> None:
        """`weights`: one for each dataset, or empty; `anchors` of some entries, by their index (see `ClipSampler`)."""
        self.entries = [(entry.source, entry.row.id, entry.task) for entry in entries]
        # Entries with anchors and without are separate groups; so are datasets, if they have weights.
        keys = [
            (entry.source if weights else 0, entry.name, anchors is not None and place in anchors.timesteps)
            for place, entry in enumerate(entries)
        ]
        groups = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        sizes = Counter(source for source, *_ in groups)
        self.sampler = ClipSampler(
            [entry.row.length for entry in entries],
            [groups[key] for key in keys],
            seed,
            placement,
            shares=[weights[source] / sizes[source] for source, *_ in groups] if weights else None,
            anchors=anchors,
        )

    def draw(self, position: int, length: int) -> Clip:
        """Clip number `position` (>= 0), of `length` timesteps."""
        place, start = self.sampler.clip(position, length)
        return Clip(*self.entries[place], start)


def entries_of(readers: Sequence[ClipReader], rows: Sequence[tuple[int, EpisodeRow]]) -> list[Entry]:
    """The entries of episodes, which are given as (index of the dataset, row)."""
    entries = [Entry(source, row, row.task) for source, row in rows if row.task != EVERY_TASK]
    for source, reader in enumerate(readers):
        own = [row for place, row in rows if place == source and row.task == EVERY_TASK]
        names = reader.dataset.meta.tasks
        occurring = [
            task
            for task, events in enumerate(reader.events.of_task)
            if any(len(reader.events.in_episode(row.id, events)) for row in own)
        ]
        for task in occurring:
            entries += [Entry(source, row, names[task], task if row.labelled else None) for row in own]
        if not occurring:
            entries += [Entry(source, row, EVERY_TASK) for row in own]
    return entries


def achieving_entries(
    readers: Sequence[ClipReader], entries: Sequence[Entry], lead: int
) -> tuple[list[Entry], Anchors]:
    """The entries that achieve their task. For episodes with events, their anchors are the events of the task."""
    achieved: list[Entry] = []
    events: dict[int, NDArray[np.int64]] = {}
    for entry in entries:
        reader = readers[entry.source]
        if entry.task is None:
            if entry.row.success and entry.row.labelled:
                achieved.append(entry)
        else:
            found = reader.events.in_episode(entry.row.id, reader.events.of_task[entry.task])
            found = found[found < entry.row.length]
            if len(found):
                events[len(achieved)] = found
                achieved.append(entry)
    return achieved, Anchors(events, lead)


def missing_entries(readers: Sequence[ClipReader], entries: Sequence[Entry]) -> tuple[list[Entry], Anchors]:
    """The entries with a miss of their task (see `Mix`), and the timesteps of the misses as anchors."""
    missing: list[Entry] = []
    misses: dict[int, NDArray[np.int64]] = {}
    for entry in entries:
        reader = readers[entry.source]
        if entry.task is not None and len(found := reader.events.in_episode(entry.row.id, reader.misses[entry.task])):
            misses[len(missing)] = found
            missing.append(entry)
    if not missing:
        raise UserError("agent_objective.miss_share is above 0, but no recording with events has a miss: set it to 0")
    return missing, Anchors(misses)
