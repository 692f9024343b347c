"""Datasets of episodes on disk, and batches of clips in an order that can be resumed."""

from embody.data.container import index_video
from embody.data.dataset import Dataset, Meta, Shard, is_complete, open_dataset
from embody.data.episode import EVERY_TASK, Episode, EpisodeRow, label_indices, label_words
from embody.data.latents import Latents, LatentWriter, open_latents
from embody.data.relocation import relocate
from embody.data.sampling.clip_spec import BatchShapes, ClipSpec, EpisodeSelection, Mix, Placement, Relabelling
from embody.data.sampling.loader import (
    batches,
    check_datasets,
    labelled_meta,
    open_datasets,
    recorded_actions,
    stage_steps,
    steps_per_epoch,
)
from embody.data.sampling.reader import discounted_returns
from embody.data.sampling.sampler import ClipSampler
from embody.data.video import Video, reencode
from embody.data.writer import DatasetWriter
from embody.saving.atomic_write import exclusive_lock, write_json, write_text

__all__ = [
    "EVERY_TASK",
    "BatchShapes",
    "ClipSpec",
    "EpisodeSelection",
    "Mix",
    "Placement",
    "Relabelling",
    "ClipSampler",
    "Dataset",
    "DatasetWriter",
    "Episode",
    "EpisodeRow",
    "LatentWriter",
    "Latents",
    "Meta",
    "Shard",
    "Video",
    "exclusive_lock",
    "batches",
    "check_datasets",
    "discounted_returns",
    "index_video",
    "is_complete",
    "label_indices",
    "label_words",
    "labelled_meta",
    "open_dataset",
    "open_datasets",
    "recorded_actions",
    "open_latents",
    "reencode",
    "relocate",
    "stage_steps",
    "steps_per_epoch",
    "write_json",
    "write_text",
]
