"""Batches of clips for a training stage: batch b is a pure function of (seed, b).

Shapes: B rows, T timesteps, A action factors, H W pixels, L latent tokens, Z channels, W words, N steps of a dataset.
"""

import itertools
import multiprocessing
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from embody.config import ActionSpec, Config, StageConfig
from embody.data.dataset import Dataset, Meta, open_dataset
from embody.data.latents import open_latents
from embody.data.sampling.batch import Batch
from embody.data.sampling.clip_spec import BatchShapes, ClipSpec, Mix, RowKind
from embody.data.sampling.clips import Clips, achieving_entries, entries_of, missing_entries
from embody.data.sampling.reader import ClipReader
from embody.errors import UserError

__all__ = [
    "batches",
    "labelled_meta",
    "open_datasets",
    "recorded_actions",
    "stage_steps",
    "steps_per_epoch",
]


def steps_per_epoch(datasets: Sequence[Dataset], spec: ClipSpec) -> int:
    """Batches that together hold as many frames as the split, of all its episodes or the labelled ones, at least 1."""
    labelled_only = spec.episodes.labelled_only
    frames = sum(
        row.length
        for dataset in datasets
        if not labelled_only or _is_labelled(dataset)
        for row in dataset.episodes(spec.episodes.split)
        if not labelled_only or row.labelled
    )
    return max(1, frames // (spec.shapes.rows * spec.shapes.length))


def stage_steps(datasets: Sequence[Dataset], stage: StageConfig, spec: ClipSpec) -> int:
    """How many steps a stage trains, at least 1: those asked for, or its epochs of the split."""
    return stage.steps or max(1, round(stage.epochs * steps_per_epoch(datasets, spec)))


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

    def __init__(
        self, readers: Sequence[ClipReader], clips: Mapping[RowKind, Clips], shapes: BatchShapes, mix: Mix
    ) -> None:
        self.readers, self.clips, self.shapes, self.mix = readers, clips, shapes, mix

    def __getitem__(self, step: int) -> Batch:
        rows, length = self.shapes.at(step)
        first, readers = step * self.shapes.rows, self.readers
        kinds = self.mix.kinds(rows)
        drawn = [self.clips[kind].draw(first + row, length) for row, kind in enumerate(kinds)]
        sources = np.array([clip.source for clip in drawn])
        there = {source: np.flatnonzero(sources == source) for source in dict.fromkeys(sources.tolist())}
        parts = [readers[source].clips([drawn[row] for row in at], length) for source, at in there.items()]
        order = np.argsort(np.concatenate(list(there.values())))
        arrays = {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}
        arrays["bc"], arrays["flow"] = np.array(self.mix.bc_rows(rows)), np.array(self.mix.flow_rows(rows))
        name, shape, kind = readers[0].frame_field
        arrays[name] = np.empty((rows, length, *shape), kind)  # written once: large batches are as fast as memory is
        for shown, clip in zip(arrays[name], drawn, strict=True):
            readers[clip.source].read_frames(clip.episode, clip.start, shown)
        return Batch(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def batches(
    datasets: Sequence[Dataset], spec: ClipSpec, *, seed: int, start: int = 0, workers: int = 0
) -> Iterator[Batch]:
    """Batches `start`, `start + 1`, ... without end; the same ones whatever `workers` is and wherever one starts.

    `workers` are loading processes; 0 loads one batch ahead in a thread.

    A `UserError` if no episode is left, latents are missing, or datasets disagree.
    """
    _check(datasets, spec)
    labelled = [dataset for dataset in datasets if _is_labelled(dataset)]
    factors = len((labelled or datasets)[0].meta.actions.sizes)
    weights = spec.episodes.weights
    if spec.episodes.labelled_only:
        if weights:
            weights = tuple(w for w, dataset in zip(weights, datasets, strict=True) if _is_labelled(dataset))
        datasets = labelled
    tasks = max((len(dataset.meta.tasks) for dataset in datasets), default=0)
    readers = [
        ClipReader(
            dataset,
            None if spec.tokenizer_hash is None else open_latents(dataset, spec.tokenizer_hash),
            spec.relabelling,
            factors,
            tasks,
        )
        for dataset in datasets
    ]
    clips = _clips_of_each_kind(readers, spec, seed, weights)
    loaded = _Batches(readers, clips, spec.shapes, spec.mix)
    return _in_processes(loaded, start, workers) if workers else _in_thread(loaded, start)


def _clips_of_each_kind(
    readers: Sequence[ClipReader], spec: ClipSpec, seed: int, weights: Sequence[float]
) -> dict[RowKind, Clips]:
    """What rows of each kind are drawn from, of the kinds that the mix has a share of."""
    chosen = [
        (place, row)
        for place, reader in enumerate(readers)
        for row in reader.dataset.episodes(spec.episodes.split)
        if spec.episodes.holds(row)
    ]
    if first := spec.placement.first_timesteps:
        chosen = [(place, replace(row, length=min(row.length, first))) for place, row in chosen]
    entries = entries_of(readers, chosen)
    clips_of = partial(Clips, seed=seed, placement=spec.placement, weights=weights)
    clips: dict[RowKind, Clips] = {"uniform": clips_of(entries)}
    if spec.mix.miss_share > 0:
        missing, misses = missing_entries(readers, entries)
        clips["miss"] = clips_of(missing, anchors=misses)
    if spec.mix.has_relevant:
        achieved, events = achieving_entries(readers, entries, spec.mix.event_lead)
        clips["relevant"] = clips_of(achieved, anchors=events)
    return clips


def _is_labelled(dataset: Dataset) -> bool:
    return any(row.labelled for row in dataset.episodes())


def _check(datasets: Sequence[Dataset], spec: ClipSpec) -> None:
    if not datasets:
        raise UserError("no dataset to load from: run `embody collect` or `embody import` first")
    weights = spec.episodes.weights
    assert not weights or len(weights) == len(datasets), f"weights: one for each of {len(datasets)} datasets"
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
