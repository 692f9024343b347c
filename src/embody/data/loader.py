"""Batches of clips for a training stage: batch b is a pure function of (seed, b).

Shapes: B rows, T slots, A action factors, H W pixels, L latent tokens, Z channels, W words, N steps of a dataset.
"""

import itertools
import math
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from embody.batch import Batch
from embody.config import Config, StageConfig
from embody.data.episodes import EpisodeRow, label_indices
from embody.data.format import Dataset, open_dataset
from embody.data.latents import Latents, open_latents
from embody.data.sampler import ClipSampler

__all__ = ["batches", "discounted_returns", "open_datasets", "rows_and_length", "steps_per_epoch", "uniform_rows"]

Source = Literal["frames", "latents"]
Fields = dict[str, NDArray]  # the fields of a Batch, without its rows


def rows_and_length(stage: StageConfig, step: int) -> tuple[int, int]:
    """B and T of batch `step`: every `long_every`-th is long, with fewer rows so that it holds as many frames."""
    if stage.long_length and step % stage.long_every == stage.long_every - 1:
        return max(1, stage.batch * stage.length // stage.long_length), stage.long_length
    return stage.batch, stage.length


def steps_per_epoch(datasets: Sequence[Dataset], split: str, stage: StageConfig) -> int:
    """Batches that together hold as many frames as the split, at least 1."""
    frames = sum(row.length for dataset in datasets for row in dataset.episodes(split))
    return max(1, frames // (stage.batch * stage.length))


def uniform_rows(rows: int, uniform_share: float) -> int:
    """How many of a batch's rows, the first ones, are drawn from all episodes; the others from relevant ones."""
    return math.ceil(uniform_share * rows)


def open_datasets(config: Config) -> list[Dataset]:
    """`data_dir/TASK` of each of the config's tasks; a `ValueError` names the one that is missing or does not fit."""
    if not config.env.tasks:
        raise ValueError("env.tasks is empty: name at least one task")
    datasets = [open_dataset(Path(config.data_dir) / task) for task in config.env.tasks]
    for dataset in datasets:
        meta, env = dataset.meta, config.env
        for name, found, wanted in (
            ("actions", meta.actions.sizes, env.actions.sizes),
            ("frame size", (meta.height, meta.width), (env.height, env.width)),
        ):
            if found != wanted:
                raise ValueError(f"dataset {dataset.root}: {name} {found}, the config says {wanted}; collect it anew")
        if len(meta.vocabulary) > config.agent.vocabulary:
            raise ValueError(
                f"dataset {dataset.root} has {len(meta.vocabulary)} words: raise agent.vocabulary,"
                f" now {config.agent.vocabulary}"
            )
    return datasets


def discounted_returns(rewards: NDArray[np.float32], offsets: NDArray[np.int64], gamma: float) -> NDArray[np.float32]:
    """`[N]`: at slot t, `sum_{k>=1} gamma^(k-1) r_{t+k}` up to the end of the episode, whose last slot has 0."""
    returns = np.zeros(len(rewards), np.float64)
    lengths = np.diff(offsets)
    for slot in range(int(lengths.max()) - 2, -1, -1):
        at = offsets[:-1][lengths > slot + 1] + slot
        returns[at] = rewards[at + 1] + gamma * returns[at + 1]
    return returns.astype(np.float32)


class _Reader:
    """Reads clips of one dataset as the fields of a batch."""

    def __init__(self, dataset: Dataset, latents: Latents | None, gamma: float, words: int) -> None:
        self.dataset, self.latents = dataset, latents
        self.returns = discounted_returns(dataset.rewards, dataset.offsets, gamma)
        self.task = [label_indices(row.label, dataset.meta.vocabulary, words) for row in dataset.episodes()]

    def clip(self, episode: int, start: int, length: int) -> Fields:
        """Slots `start` to `start + length`; those outside of the episode repeat its first or last real slot."""
        dataset = self.dataset
        begin, end = (int(offset) for offset in dataset.offsets[episode : episode + 2])
        slots = np.arange(start, start + length)
        inside = np.clip(slots, 0, end - begin - 1)
        first, last = int(inside[0]), int(inside[-1])
        rows = begin + inside
        after = slots > inside  # padding on the right: nothing happens there
        fields = {
            "actions": np.where(after[:, None], 0, dataset.actions[rows]),
            "rewards": np.where(after, np.float32(0), dataset.rewards[rows]),
            "returns": np.where(after, np.float32(0), self.returns[rows]),
            "is_first": slots <= 0,
            "is_terminal": dataset.is_terminal[rows] & ~after,
            "mask": slots == inside,
            "task": self.task[episode],
        }
        if self.latents is not None:
            fields["latents"] = self.latents.slice(episode, first, last + 1)[inside - first].astype(np.float32)
        else:
            fields["frames"] = dataset.frames(episode, first, last + 1)[inside - first].transpose(0, 3, 1, 2)
        return fields


class _Clips:
    """Clip number n of some episodes, for any n."""

    def __init__(
        self,
        readers: list[_Reader],
        rows: Sequence[tuple[int, EpisodeRow]],
        seed: int,
        left_pad: int,
        ends: bool,
        after: int,
    ) -> None:
        """`rows`: the number of an episode's reader, and the episode."""
        self.readers, self.rows = readers, [(reader, row.id) for reader, row in rows]
        tasks = list(dict.fromkeys(row.task for _, row in rows))
        lengths, task_index = [row.length for _, row in rows], [tasks.index(row.task) for _, row in rows]
        self.sampler = ClipSampler(lengths, task_index, seed, left_pad, ends=ends, after=after)

    def clip(self, position: int, length: int) -> Fields:
        place, start = self.sampler.clip(position, length)
        reader, episode = self.rows[place]
        return self.readers[reader].clip(episode, start, length)


class _Batches(TorchDataset[Batch]):
    """Batch number b, for any b: what the loading processes share."""

    def __init__(self, everything: _Clips, relevant: _Clips, uniform_share: float, stage: StageConfig) -> None:
        self.everything, self.relevant, self.uniform_share, self.stage = everything, relevant, uniform_share, stage

    def __getitem__(self, step: int) -> Batch:
        rows, length = rows_and_length(self.stage, step)
        uniform = uniform_rows(rows, self.uniform_share)
        clips = [self.everything if row < uniform else self.relevant for row in range(rows)]
        fields = [source.clip(step * self.stage.batch + row, length) for row, source in enumerate(clips)]
        return Batch(**{name: torch.from_numpy(np.stack([clip[name] for clip in fields])) for name in fields[0]})


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
    words: int = 1,
    episode_filter: Callable[[EpisodeRow], bool] | None = None,
    uniform_share: float = 1.0,
    contexts: bool = False,
    after: int = 0,
    workers: int = 0,
) -> Iterator[Batch]:
    """Batches `start`, `start + 1`, ... without end; the same ones whatever `workers` is and wherever one starts.

    Args:
        stage: its `batch`, `length`, `long_length` and `long_every` give the shapes.
        source: what fills `frames` or `latents`; latents are those of `tokenizer_hash`.
        left_pad: most slots that a clip may begin before its episode.
        gamma: discount of `returns`.
        words: W, to which task labels are cut or padded.
        episode_filter: keeps the episodes for which it holds, e.g. the best demonstrations; None keeps all.
        uniform_share: share of the rows, the first `uniform_rows` of a batch, that come from all of these episodes; the
            others come from those that achieve their task [P: half and half].
        contexts: clips that end at a slot after which the episode goes on, to start imagination from; they may begin
            any number of slots before their episode and are never padded on the right.
        after: the last so many slots of a clip come behind the context that `contexts` asks for, padded on the right.
        workers: loading processes; 0 loads one batch ahead in a thread.

    A `ValueError` if no episode is left, latents are missing, datasets disagree, or long clips are shorter than short.
    """
    _check(datasets, stage, source, tokenizer_hash)
    chosen = [
        (place, row)
        for place, dataset in enumerate(datasets)
        for row in dataset.episodes(split)
        if episode_filter is None or episode_filter(row)
    ]
    readers = [
        _Reader(dataset, open_latents(dataset, str(tokenizer_hash)) if source == "latents" else None, gamma, words)
        for dataset in datasets
    ]
    everything = relevant = _Clips(readers, chosen, seed, left_pad, contexts, after)
    if uniform_share < 1:
        achieved = [(place, row) for place, row in chosen if row.success]
        relevant = _Clips(readers, achieved, seed, left_pad, contexts, after)
    loaded = _Batches(everything, relevant, uniform_share, stage)
    return _in_processes(loaded, start, workers) if workers else _in_thread(loaded, start)


def _check(datasets: Sequence[Dataset], stage: StageConfig, source: Source, tokenizer_hash: str | None) -> None:
    if not datasets:
        raise ValueError("no dataset to load from: run `embody collect` first")
    if source == "latents" and tokenizer_hash is None:
        raise ValueError("loading latents needs the hash of the tokenizer that made them")
    if stage.long_length and stage.long_length < stage.length:
        raise ValueError(f"long_length {stage.long_length} is shorter than length {stage.length}: set it to 0 or more")
    first = datasets[0].meta
    for dataset in datasets[1:]:
        for name in ("actions", "height", "width", "vocabulary"):
            if getattr(dataset.meta, name) != getattr(first, name):
                raise ValueError(f"datasets {datasets[0].root} and {dataset.root} differ in {name}: collect both anew")


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
