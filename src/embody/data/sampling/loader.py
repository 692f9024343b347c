"""Batches of clips for a training stage: batch b is a pure function of (seed, b).

Shapes: B rows, T slots, A action factors, H W pixels, L latent tokens, Z channels, W words, N steps of a dataset.
"""

import itertools
import math
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from embody.config import ActionSpec, Config, Goal, StageConfig
from embody.data.dataset import Dataset, Meta, open_dataset
from embody.data.episode import EpisodeRow
from embody.data.latents import open_latents
from embody.data.sampling.batch import Batch
from embody.data.sampling.clips import Clips, achieving_entries, entries_of, missing_entries
from embody.data.sampling.reader import ClipReader
from embody.errors import UserError

__all__ = [
    "batches",
    "labelled_meta",
    "open_datasets",
    "recorded_actions",
    "rows_and_length",
    "stage_steps",
    "steps_per_epoch",
    "uniform_rows",
]

Source = Literal["frames", "latents"]


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

    A `UserError` names the one that is missing or does not fit.
    """
    sources, env = config.data.sources or config.env.tasks, config.env
    if not sources:
        raise UserError("env.tasks is empty: name at least one task, or data.sources")
    datasets = [open_dataset(Path(config.data_dir) / source, (env.height, env.width)) for source in sources]
    check_datasets(config, datasets)
    return datasets


def check_datasets(config: Config, datasets: Sequence[Dataset]) -> None:
    """A `UserError` names the dataset whose frames or labels do not fit the config."""
    for dataset in datasets:
        meta, wanted = dataset.meta, (config.env.height, config.env.width)
        if dataset.size != wanted:
            how = f"open it with size={wanted}" if dataset.is_video else "collect it anew"
            raise UserError(f"dataset {dataset.root}: frame size {dataset.size}, the config says {wanted}; {how}")
        if len(meta.vocabulary) > config.agent.vocabulary:
            raise UserError(
                f"dataset {dataset.root} has {len(meta.vocabulary)} words: raise agent.vocabulary,"
                f" now {config.agent.vocabulary}"
            )


def recorded_actions(datasets: Sequence[Dataset]) -> ActionSpec | None:
    """The actions of all datasets that have any; None if all are plain videos. A `UserError` if they differ."""
    labelled = [dataset for dataset in datasets if _is_labelled(dataset)]
    for dataset in labelled[1:]:
        for name in ("actions", "vocabulary"):
            if getattr(dataset.meta, name) != getattr(labelled[0].meta, name):
                raise UserError(
                    f"datasets {labelled[0].root} and {dataset.root} differ in {name}: train on one of them, with"
                    " plain videos beside if you like"
                )
    return labelled[0].meta.actions if labelled else None


def labelled_meta(datasets: Sequence[Dataset]) -> Meta:
    """What agents are told in: the meta of those datasets that have labels (they agree), or of plain videos alone."""
    return next((dataset for dataset in datasets if _is_labelled(dataset)), datasets[0]).meta


class _Batches(TorchDataset[Batch]):
    """Batch number b, for any b: what the loading processes share."""

    def __init__(self, sorts: Sequence[tuple[Clips, float]], stage: StageConfig) -> None:
        """`sorts` of clips, each with the share of the rows at which it stops."""
        self.sorts, self.stage = sorts, stage

    def __getitem__(self, step: int) -> Batch:
        rows, length = rows_and_length(self.stage, step)
        clips: list[Clips] = []
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

    A `UserError` if no episode is left, latents are missing, datasets disagree, or long clips are shorter than short.
    """
    _check(datasets, stage, source, tokenizer_hash, weights)
    with_actions = [dataset for dataset in datasets if _is_labelled(dataset)]
    factors = len((with_actions or datasets)[0].meta.actions.sizes)
    if labelled_only and weights:
        weights = [weight for weight, dataset in zip(weights, datasets, strict=True) if _is_labelled(dataset)]
    datasets = with_actions if labelled_only else datasets
    readers = [
        ClipReader(
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
    entries = entries_of(readers, chosen)
    clips = partial(Clips, readers, weights=weights, seed=seed, left_pad=left_pad, ends=contexts, after=after)
    sorts = [(clips(entries), uniform_share)]
    if miss_share > 0:
        missed, misses = missing_entries(readers, entries)
        sorts.append((clips(missed, events=misses), uniform_share + miss_share))
    if uniform_share + miss_share < 1:
        achieved, events = achieving_entries(readers, entries)
        sorts.append((clips(achieved, events=events, lead=event_lead), 1.0))
    loaded = _Batches(sorts, stage)
    return _in_processes(loaded, start, workers) if workers else _in_thread(loaded, start)


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
        raise UserError("no dataset to load from: run `embody collect` or `embody import` first")
    if weights and len(weights) != len(datasets):
        raise UserError(f"data.weights: one for each of {len(datasets)} datasets, got {len(weights)}")
    if source == "latents" and tokenizer_hash is None:
        raise UserError("loading latents needs the hash of the tokenizer that made them")
    if stage.long_length and stage.long_length < stage.length:
        raise UserError(f"long_length {stage.long_length} is shorter than length {stage.length}: set it to 0 or more")
    for dataset in datasets[1:]:
        if dataset.size != datasets[0].size:
            raise UserError(f"datasets {datasets[0].root} and {dataset.root} differ in frame size: collect one anew")
        if dataset.meta.fps != datasets[0].meta.fps:
            rates = f"{datasets[0].meta.fps} and {dataset.meta.fps} frames a second"
            raise UserError(
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
