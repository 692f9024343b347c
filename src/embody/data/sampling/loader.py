"""The batches of a training stage: batch b is a pure function of (seed, b).

Shapes: B rows, T timesteps, A action factors, H W pixels, L latent tokens, Z channels, W words, N steps of a dataset.
"""

import itertools
import multiprocessing
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
from embody.interruption import follow_parent

__all__ = [
    "batches",
    "labelled_meta",
    "open_datasets",
    "recorded_actions",
    "stage_steps",
    "steps_per_epoch",
]


_PATIENCE = 600  # seconds that a loading process may take for a batch
_NO_SHARED_MEMORY = (
    "shared memory (/dev/shm) is full: batches of loading processes need more room there; start Docker with a larger"
    " --shm-size (such as 8g), or set --workers 0 to load in a thread"
)


def steps_per_epoch(datasets: Sequence[Dataset], spec: ClipSpec) -> int:
    """The number of batches, at least 1, with as many frames as the split has (or its labelled episodes)."""
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
    """The number of training steps of a stage, at least 1: `stage.steps`, or if that is 0 `stage.epochs`."""
    return stage.steps or max(1, round(stage.epochs * steps_per_epoch(datasets, spec)))


def open_datasets(config: Config) -> list[Dataset]:
    """Open the config's `data.sources`, or else `data_dir/TASK` for each of its tasks; videos get its frame size.

    A `UserError` names a dataset that is missing or does not fit the config.
    """
    sources, env = config.data.sources or config.env.tasks, config.env
    if not sources:
        raise UserError("env.tasks and data.sources are empty: set one of them")
    datasets = [open_dataset(Path(config.data_dir) / source, (env.height, env.width)) for source in sources]
    check_datasets(config, datasets)
    return datasets


def check_datasets(config: Config, datasets: Sequence[Dataset]) -> None:
    """A `UserError` names the first dataset whose frame size or number of words does not fit the config."""
    for dataset in datasets:
        meta, wanted = dataset.meta, (config.env.height, config.env.width)
        if dataset.size != wanted:
            how = f"open it with size={wanted}" if dataset.is_video else "collect it again"
            raise UserError(
                f"dataset {dataset.root} has frames of {dataset.size} pixels, the config of {wanted}: {how}"
            )
        if len(meta.vocabulary) > config.agent.vocabulary:
            raise UserError(
                f"dataset {dataset.root} has {len(meta.vocabulary)} words, agent.vocabulary is"
                f" {config.agent.vocabulary}: increase it"
            )


def recorded_actions(datasets: Sequence[Dataset]) -> ActionSpec | None:
    """The actions that all datasets with actions share; None if all are plain videos. A `UserError` if they differ."""
    labelled = [dataset for dataset in datasets if _is_labelled(dataset)]
    for dataset in labelled[1:]:
        for name in ("actions", "vocabulary"):
            if getattr(dataset.meta, name) != getattr(labelled[0].meta, name):
                raise UserError(
                    f"datasets {labelled[0].root} and {dataset.root} have different {name}: train on one of them"
                    " (plain videos may be added)"
                )
    return labelled[0].meta.actions if labelled else None


def labelled_meta(datasets: Sequence[Dataset]) -> Meta:
    """The meta of the first dataset with labelled episodes, or else of the first dataset."""
    return next((dataset for dataset in datasets if _is_labelled(dataset)), datasets[0]).meta


class _Batches(TorchDataset[Batch]):
    """Returns batch number b, for any b; loading processes have a copy each."""

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
        rows_of = {source: np.flatnonzero(sources == source) for source in dict.fromkeys(sources.tolist())}
        parts = [readers[source].clips([drawn[row] for row in at], length) for source, at in rows_of.items()]
        order = np.argsort(np.concatenate(list(rows_of.values())))
        arrays = {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}
        arrays["bc"], arrays["flow"] = np.array(self.mix.bc_rows(rows)), np.array(self.mix.flow_rows(rows))
        name, shape, kind = readers[0].frame_field
        # Each value is written once: memory limits the speed of large batches.
        arrays[name] = np.empty((rows, length, *shape), kind)
        for shown, clip in zip(arrays[name], drawn, strict=True):
            readers[clip.source].read_frames(clip.episode, clip.start, shown)
        return Batch(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def batches(
    datasets: Sequence[Dataset], spec: ClipSpec, *, seed: int, start: int = 0, workers: int = 0
) -> Iterator[Batch]:
    """Iterate over batches `start`, `start + 1`, ... without end. Batch b depends on data, `spec`, `seed` and b only.

    `workers` is the number of loading processes; 0 loads one batch ahead in a thread. A `UserError` if the spec leaves
    no episode, latents are missing, or datasets do not fit each other.
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
    """For each kind of row that the mix contains, the clips that its rows are drawn from."""
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
            raise UserError(f"datasets {datasets[0].root} and {dataset.root} differ in frame size: collect one again")
        if dataset.meta.fps != datasets[0].meta.fps:
            rates = f"{datasets[0].meta.fps} and {dataset.meta.fps} frames a second"
            raise UserError(
                f"datasets {datasets[0].root} and {dataset.root} have {rates}: convert the videos to one rate and"
                f" import them again (ffmpeg -i IN -vf fps={min(datasets[0].meta.fps, dataset.meta.fps)} OUT)"
            )
    recorded_actions(datasets)


def _in_thread(loaded: _Batches, start: int) -> Iterator[Batch]:
    with ThreadPoolExecutor(1, thread_name_prefix="loader") as thread:
        ahead = thread.submit(loaded.__getitem__, start)
        for step in itertools.count(start + 1):
            batch = ahead.result()
            ahead = thread.submit(loaded.__getitem__, step)
            yield batch


class _Shared(TorchDataset["Batch | UserError"]):
    """What a loading process sends: a batch in shared memory, or the mistake that kept it from loading one."""

    def __init__(self, loaded: _Batches) -> None:
        self.loaded = loaded

    def __getitem__(self, step: int) -> Batch | UserError:
        try:
            # Shared here and not by the queue's thread, in which an error would leave the training waiting forever.
            return self.loaded[step].shared()
        except UserError as error:
            return error
        except OSError as error:
            return UserError(f"a loading process failed: {error}")
        except RuntimeError as error:
            if "No space left on device" not in str(error):
                raise
            return UserError(_NO_SHARED_MEMORY)


def _in_processes(loaded: _Batches, start: int, workers: int) -> Iterator[Batch]:
    # A fork of this process would copy the locks of its threads; spawned processes would each import torch again.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    loader = DataLoader(
        _Shared(loaded),
        batch_size=None,
        sampler=itertools.count(start),
        num_workers=workers,
        multiprocessing_context=context,
        worker_init_fn=follow_parent,
        timeout=_PATIENCE,
    )
    arriving = iter(loader)
    while True:
        try:
            batch = next(arriving)
        except RuntimeError as error:
            if "Bus error" in str(error):
                raise UserError(_NO_SHARED_MEMORY) from error
            if "exited unexpectedly" in str(error) or "timed out" in str(error) or "is killed by signal" in str(error):
                raise UserError(
                    f"a loading process died or did not answer within {_PATIENCE} s ({error}): if memory was full, set"
                    f" fewer --workers (now {workers}; 0 loads in a thread)"
                ) from error
            raise
        if isinstance(batch, UserError):
            raise batch
        yield batch
