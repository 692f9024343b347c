"""Episodes on disk, and batches of them in an order that can be resumed."""

from embody.data.episodes import Episode, EpisodeRow, label_indices, label_words
from embody.data.format import Dataset, DatasetWriter, Meta, Shard, aside, is_complete, open_dataset, write_json
from embody.data.latents import Latents, LatentWriter, open_latents
from embody.data.loader import (
    batches,
    discounted_returns,
    open_datasets,
    rows_and_length,
    steps_per_epoch,
    uniform_rows,
)
from embody.data.sampler import ClipSampler

__all__ = [
    "ClipSampler",
    "Dataset",
    "DatasetWriter",
    "Episode",
    "EpisodeRow",
    "LatentWriter",
    "Latents",
    "Meta",
    "Shard",
    "aside",
    "batches",
    "discounted_returns",
    "is_complete",
    "label_indices",
    "label_words",
    "open_dataset",
    "open_datasets",
    "open_latents",
    "rows_and_length",
    "steps_per_epoch",
    "uniform_rows",
    "write_json",
]
