"""Batches of clips for a training stage: batch b is a pure function of (seed, b).

Shapes: B rows, T slots, A action factors, H W pixels, L latent tokens, Z channels, W words, N steps of a dataset.
"""

import itertools
import math
import multiprocessing
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from embody.batch import Batch
from embody.config import ActionSpec, Config, Goal, StageConfig
from embody.data.episodes import EVERY_TASK, EpisodeRow, label_indices
from embody.data.format import Dataset, open_dataset
from embody.data.latents import Latents, open_latents
from embody.data.sampler import ClipSampler

__all__ = [
    "batches",
    "discounted_returns",
    "first_events",
    "open_datasets",
    "recorded_actions",
    "rows_and_length",
    "stage_steps",
    "steps_per_epoch",
    "uniform_rows",
]

Source = Literal["frames", "latents"]
Fields = dict[str, NDArray]  # the small fields of a Batch


def rows_and_length(stage: StageConfig, step: int) -> tuple[int, int]:
    """B and T of batch `step`: every `long_every`-th is long, with fewer rows so that it holds as many frames."""
    if stage.long_length and step % stage.long_every == stage.long_every - 1:
        return max(1, stage.batch * stage.length // stage.long_length), stage.long_length
    return stage.batch, stage.length


def steps_per_epoch(datasets: Sequence[Dataset], split: str, stage: StageConfig, *, labelled_only: bool = False) -> int:
    """Batches that together hold as many frames as the split, plain videos or not, at least 1."""
    frames = sum(
        row.length
        for dataset in datasets
        if not labelled_only or _is_labelled(dataset)
        for row in dataset.episodes(split)
        if not labelled_only or row.labelled
    )
    return max(1, frames // (stage.batch * stage.length))


def stage_steps(datasets: Sequence[Dataset], stage: StageConfig, *, labelled_only: bool = False) -> int:
    """How many steps a stage trains, at least 1: those asked for, or its epochs of the training split."""
    per_epoch = steps_per_epoch(datasets, "train", stage, labelled_only=labelled_only)
    return stage.steps or max(1, round(stage.epochs * per_epoch))


def uniform_rows(rows: int, uniform_share: float) -> int:
    """How many of a batch's rows, the first ones, are drawn from all episodes; the others from relevant ones."""
    return math.ceil(round(uniform_share * rows, 6))  # 0.2 + 0.4 of five rows are three


def open_datasets(config: Config) -> list[Dataset]:
    """The config's `data.sources`, or `data_dir/TASK` of each of its tasks; video is read at the config's frame size.

    A `ValueError` names the one that is missing or does not fit.
    """
    sources, env = config.data.sources or config.env.tasks, config.env
    if not sources:
        raise ValueError("env.tasks is empty: name at least one task, or data.sources")
    datasets = [open_dataset(Path(config.data_dir) / source, (env.height, env.width)) for source in sources]
    for dataset in datasets:
        meta, wanted = dataset.meta, (env.height, env.width)
        if dataset.size != wanted:
            raise ValueError(
                f"dataset {dataset.root}: frame size {dataset.size}, the config says {wanted}; collect it anew"
            )
        if len(meta.vocabulary) > config.agent.vocabulary:
            raise ValueError(
                f"dataset {dataset.root} has {len(meta.vocabulary)} words: raise agent.vocabulary,"
                f" now {config.agent.vocabulary}"
            )
    return datasets


def recorded_actions(datasets: Sequence[Dataset]) -> ActionSpec | None:
    """The actions of all datasets that have any; None if all are plain videos. A `ValueError` if they differ."""
    labelled = [dataset for dataset in datasets if _is_labelled(dataset)]
    for dataset in labelled[1:]:
        for name in ("actions", "vocabulary"):
            if getattr(dataset.meta, name) != getattr(labelled[0].meta, name):
                raise ValueError(
                    f"datasets {labelled[0].root} and {dataset.root} differ in {name}: train on one of them, with"
                    " plain videos beside if you like"
                )
    return labelled[0].meta.actions if labelled else None


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


class _Reader:
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

    def clips(self, drawn: Sequence["_Drawn"], length: int) -> Fields:
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


@dataclass(frozen=True)
class _Entry:
    """An episode to draw; one with events is there for each of the dataset's tasks that occur."""

    source: int  # its dataset's place
    row: EpisodeRow
    name: str  # of the task
    task: int | None = None  # its number, where the episode has events


class _Drawn(NamedTuple):
    """A clip: which dataset's, which episode's, for which task, and its first slot."""

    source: int
    episode: int
    task: int | None
    start: int


class _Clips:
    """Clip number n of some episodes, for any n."""

    def __init__(
        self,
        readers: list[_Reader],
        entries: Sequence[_Entry],
        *,
        weights: Sequence[float],
        seed: int,
        left_pad: int,
        ends: bool = False,
        after: int = 0,
        events: Mapping[int, NDArray[np.int64]] | None = None,
        lead: int = 0,
    ) -> None:
        """`events`: of some entries, by their place; `ClipSampler` says where their clips are."""
        self.readers = readers
        self.entries = [(entry.source, entry.row.id, entry.task) for entry in entries]
        # Events and slots are not drawn from one urn, nor are sources that have weights.
        keys = [
            (entry.source if weights else 0, entry.name, events is not None and place in events)
            for place, entry in enumerate(entries)
        ]
        groups = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        sizes = Counter(source for source, *_ in groups)
        self.sampler = ClipSampler(
            [entry.row.length for entry in entries],
            [groups[key] for key in keys],
            seed,
            left_pad,
            ends=ends,
            after=after,
            shares=[weights[source] / sizes[source] for source, *_ in groups] if weights else None,
            events=events,
            lead=lead,
        )

    def draw(self, position: int, length: int) -> _Drawn:
        place, start = self.sampler.clip(position, length)
        return _Drawn(*self.entries[place], start)


class _Batches(TorchDataset[Batch]):
    """Batch number b, for any b: what the loading processes share."""

    def __init__(self, sorts: Sequence[tuple[_Clips, float]], stage: StageConfig) -> None:
        """`sorts` of clips, each with the share of the rows at which it stops."""
        self.sorts, self.stage = sorts, stage

    def __getitem__(self, step: int) -> Batch:
        rows, length = rows_and_length(self.stage, step)
        clips: list[_Clips] = []
        for sort, stop in self.sorts:
            clips += [sort] * (uniform_rows(rows, stop) - len(clips))
        drawn = [clips[row].draw(step * self.stage.batch + row, length) for row in range(rows)]
        readers = clips[0].readers
        sources = np.array([clip.source for clip in drawn])
        there = {source: np.flatnonzero(sources == source) for source in dict.fromkeys(sources.tolist())}
        parts = [readers[source].clips([drawn[row] for row in at], length) for source, at in there.items()]
        order = np.argsort(np.concatenate(list(there.values())))
        arrays = {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}
        name, shape, kind = readers[0].shown
        arrays[name] = np.empty((rows, length, *shape), kind)  # written once: large batches are as fast as memory is
        for shown, clip in zip(arrays[name], drawn, strict=True):
            readers[clip.source].show(clip.episode, clip.start, shown)
        return Batch(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def batches(
    datasets: Sequence[Dataset],
    split: str,
    stage: StageConfig,
    *,
    source: Source,
    tokenizer_hash: str | None = None,
    seed: int,
    start: int = 0,
    left_pad: int = 0,
    gamma: float = 1.0,
    once: bool = False,
    goal: Goal = "one",
    words: int = 1,
    episode_filter: Callable[[EpisodeRow], bool] | None = None,
    labelled_only: bool = False,
    weights: Sequence[float] = (),
    uniform_share: float = 1.0,
    miss_share: float = 0.0,
    event_lead: int = 0,
    contexts: bool = False,
    first_slots: int = 0,
    after: int = 0,
    workers: int = 0,
) -> Iterator[Batch]:
    """Batches `start`, `start + 1`, ... without end; the same ones whatever `workers` is and wherever one starts.

    Args:
        stage: its `batch`, `length`, `long_length` and `long_every` give the shapes.
        source: what fills `frames` or `latents`; latents are those of `tokenizer_hash`.
        left_pad: most slots that a clip may begin before its episode.
        gamma: discount of `returns`.
        once: returns of recordings with events stop at the next one.
        goal: what a clip of a recording with events is relabelled for: the task it was drawn for, or all tasks at once,
            whose reward is 1 where one is achieved for the first time in the episode; or for nothing: its rewards are
            those recorded. In both of these the batch says which tasks are left, not a label.
        words: W, to which task labels are cut or padded.
        episode_filter: keeps the episodes for which it holds, e.g. the best demonstrations; None keeps all.
        labelled_only: leaves plain videos out.
        weights: of each dataset: its share of the rows is its weight over the sum of those that have episodes to draw;
            none: a task is drawn uniformly, whatever dataset it is in.
        uniform_share: share of the rows, the first `uniform_rows` of a batch, that come from all of these episodes; the
            others come from those that achieve their task [P: half and half] or, where there are events, hold one.
        miss_share: share of the rows, between the two, that hold a miss: the action that mostly brings their task's
            event, and no event.
        event_lead: those that hold an event may begin up to so many slots earlier, and end before it; `contexts` end
            1 to so many slots before it.
        contexts: clips that end at a slot after which the episode goes on, to start imagination from; they may begin
            any number of slots before their episode and are never padded on the right.
        first_slots: clips are of the first so many slots of each episode, as if it ended there; 0: of all.
        after: the last so many slots of a clip come behind the context that `contexts` asks for, padded on the right.
        workers: loading processes; 0 loads one batch ahead in a thread.

    A `ValueError` if no episode is left, latents are missing, datasets disagree, or long clips are shorter than short.
    """
    _check(datasets, stage, source, tokenizer_hash, weights)
    with_actions = [dataset for dataset in datasets if _is_labelled(dataset)]
    factors = len((with_actions or datasets)[0].meta.actions.sizes)
    if labelled_only and weights:
        weights = [weight for weight, dataset in zip(weights, datasets, strict=True) if _is_labelled(dataset)]
    datasets = with_actions if labelled_only else datasets
    readers = [
        _Reader(
            dataset,
            open_latents(dataset, str(tokenizer_hash)) if source == "latents" else None,
            gamma,
            once,
            goal,
            words,
            factors,
            tasks=max(len(other.meta.tasks) for other in datasets),
        )
        for dataset in datasets
    ]
    chosen = [
        (place, row)
        for place, dataset in enumerate(datasets)
        for row in dataset.episodes(split)
        if (row.labelled or not labelled_only) and (episode_filter is None or episode_filter(row))
    ]
    if first_slots:
        chosen = [(place, replace(row, length=min(row.length, first_slots))) for place, row in chosen]
    entries = _entries(readers, chosen)
    clips = partial(_Clips, readers, weights=weights, seed=seed, left_pad=left_pad, ends=contexts, after=after)
    sorts = [(clips(entries), uniform_share)]
    if miss_share > 0:
        missing, misses = _missing(readers, entries)
        sorts.append((clips(missing, events=misses), uniform_share + miss_share))
    if uniform_share + miss_share < 1:
        relevant, events = _relevant(readers, entries)
        sorts.append((clips(relevant, events=events, lead=event_lead), 1.0))
    loaded = _Batches(sorts, stage)
    return _in_processes(loaded, start, workers) if workers else _in_thread(loaded, start)


def _entries(readers: Sequence[_Reader], rows: Sequence[tuple[int, EpisodeRow]]) -> list[_Entry]:
    entries = [_Entry(source, row, row.task) for source, row in rows if row.task != EVERY_TASK]
    for source, reader in enumerate(readers):
        own = [row for place, row in rows if place == source and row.task == EVERY_TASK]
        names = reader.dataset.meta.tasks
        occurring = [
            task for task in range(len(names)) if any(len(reader.slots_of(row.id, reader.events[task])) for row in own)
        ]
        for task in occurring:
            entries += [_Entry(source, row, names[task], task if row.labelled else None) for row in own]
        if not occurring:
            entries += [_Entry(source, row, EVERY_TASK) for row in own if not row.labelled]
    return entries


def _relevant(
    readers: Sequence[_Reader], entries: Sequence[_Entry]
) -> tuple[list[_Entry], dict[int, NDArray[np.int64]]]:
    """The episodes that achieve their task; of some, by their place, the events that a clip is to be around."""
    achieved: list[_Entry] = []
    events: dict[int, NDArray[np.int64]] = {}
    for entry in entries:
        reader = readers[entry.source]
        if entry.task is None:
            if entry.row.success and entry.row.labelled:
                achieved.append(entry)
        else:
            found = reader.slots_of(entry.row.id, reader.events[entry.task])
            found = found[found < entry.row.length]
            if len(found):
                events[len(achieved)] = found
                achieved.append(entry)
    return achieved, events


def _missing(
    readers: Sequence[_Reader], entries: Sequence[_Entry]
) -> tuple[list[_Entry], dict[int, NDArray[np.int64]]]:
    """The episodes with events that miss one of their task, and, by their place, where."""
    missing: list[_Entry] = []
    misses: dict[int, NDArray[np.int64]] = {}
    for entry in entries:
        reader = readers[entry.source]
        if entry.task is not None and len(found := reader.slots_of(entry.row.id, reader.misses[entry.task])):
            misses[len(missing)] = found
            missing.append(entry)
    if not missing:
        raise ValueError("agent.miss_share: no recording has events and misses one: set it to 0")
    return missing, misses


def _is_labelled(dataset: Dataset) -> bool:
    return any(row.labelled for row in dataset.episodes())


def _check(
    datasets: Sequence[Dataset],
    stage: StageConfig,
    source: Source,
    tokenizer_hash: str | None,
    weights: Sequence[float],
) -> None:
    if not datasets:
        raise ValueError("no dataset to load from: run `embody collect` or `embody import` first")
    if weights and len(weights) != len(datasets):
        raise ValueError(f"data.weights: one for each of {len(datasets)} datasets, got {len(weights)}")
    if source == "latents" and tokenizer_hash is None:
        raise ValueError("loading latents needs the hash of the tokenizer that made them")
    if stage.long_length and stage.long_length < stage.length:
        raise ValueError(f"long_length {stage.long_length} is shorter than length {stage.length}: set it to 0 or more")
    for dataset in datasets[1:]:
        if dataset.size != datasets[0].size:
            raise ValueError(f"datasets {datasets[0].root} and {dataset.root} differ in frame size: collect one anew")
        if dataset.meta.fps != datasets[0].meta.fps:
            rates = f"{datasets[0].meta.fps} and {dataset.meta.fps} frames a second"
            raise ValueError(
                f"datasets {datasets[0].root} and {dataset.root} have {rates}: bring videos to one rate before they are"
                f" imported (ffmpeg -i IN -vf fps={min(datasets[0].meta.fps, dataset.meta.fps)} OUT)"
            )
    recorded_actions(datasets)


def _in_thread(loaded: _Batches, start: int) -> Iterator[Batch]:
    with ThreadPoolExecutor(1, thread_name_prefix="loader") as thread:
        ahead = thread.submit(loaded.__getitem__, start)
        for step in itertools.count(start + 1):
            batch = ahead.result()
            ahead = thread.submit(loaded.__getitem__, step)
            yield batch


def _in_processes(loaded: _Batches, start: int, workers: int) -> Iterator[Batch]:
    # Forked from a bare server: a fork of this process would copy its threads' locks, a spawn would import torch again.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    loader = DataLoader(
        loaded,
        batch_size=None,
        sampler=itertools.count(start),
        num_workers=workers,
        multiprocessing_context=context,
        worker_init_fn=_ignore_interrupt,
    )
    yield from loader


def _ignore_interrupt(worker: int) -> None:
    """Ctrl-C reaches every process of the terminal; the training process alone decides when to stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
