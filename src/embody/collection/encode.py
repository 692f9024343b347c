"""Datasets to latents, once, before the dynamics trains: frame by frame, exactly as while acting."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from embody.data import Dataset, EpisodeRow, LatentWriter, Shard
from embody.tokenizer import Tokenizer

__all__ = ["encode_dataset"]

_ROWS = 16  # episodes encoded side by side, of like length
_PIECE = 2**26  # bytes of their pixels that are in memory at a time


def encode_dataset(
    tokenizer: Tokenizer, tokenizer_hash: str, dataset: Dataset, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write the latents of every episode under `tokenizer_hash`; shards that are there already are kept.

    `progress` is called with the shards done and all shards.
    """
    config = tokenizer.config
    writer = LatentWriter(dataset, tokenizer_hash, config.latents, config.channels)
    pending = writer.pending()
    tokenizer.eval()

    def encode(shard: Shard) -> None:
        with writer.filling(shard) as latents:
            _encode_shard(tokenizer, dataset, shard, latents)

    with _one_thread_each() as threads, ThreadPoolExecutor(threads) as pool:
        for done, _ in enumerate(pool.map(encode, pending)):
            if progress is not None:
                progress(done + 1, len(pending))


def _encode_shard(tokenizer: Tokenizer, dataset: Dataset, shard: Shard, latents: NDArray[np.float16]) -> None:
    episodes = [row for row in dataset.episodes(shard.split) if dataset.shard_of(row.id) == shard]
    # Episodes of like length side by side: the shorter ones are padded, and their padding is dropped.
    by_length = sorted(episodes, key=lambda row: row.length)
    for start in range(0, len(by_length), _ROWS):
        group = by_length[start : start + _ROWS]
        places = [dataset.rows(row.id, 0, row.length).start - shard.start for row in group]
        for first, encoded in _encode_side_by_side(tokenizer, dataset, group):
            for place, row, z in zip(places, group, encoded, strict=True):
                latents[place + first : place + row.length][: len(z)] = z[: max(0, row.length - first)]


@contextmanager
def _one_thread_each() -> Iterator[int]:
    """Torch's threads, each for a call of its own: a frame's products are too small to be shared out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def _encode_side_by_side(
    tokenizer: Tokenizer, dataset: Dataset, group: Sequence[EpisodeRow]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Latents `[rows, n, L, Z]` of the next n slots of all episodes, and the first of these slots.

    Long episodes come in pieces that fit into `_PIECE` bytes; the history is carried over.
    """
    height, width = dataset.size
    longest = max(row.length for row in group)
    piece = min(longest, max(1, _PIECE // (len(group) * height * width * 3)))
    cache = tokenizer.encoder_cache(len(group))
    for first in range(0, longest, piece):
        frames = np.zeros((len(group), min(piece, longest - first), height, width, 3), np.uint8)
        for own, row in zip(frames, group, strict=True):
            if first < row.length:
                found = dataset.frames(row.id, first, min(first + piece, row.length))
                own[: len(found)] = found
        frames_BTCHW = torch.from_numpy(frames).permute(0, 1, 4, 2, 3).to(tokenizer.masked_D.device)
        yield first, tokenizer.encode_video(frames_BTCHW, cache=cache).float().cpu().numpy()
