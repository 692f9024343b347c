"""Encodes datasets as latents once, before the dynamics is trained: frame by frame, exactly as while acting."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from embody.cost.memory import ring_bytes
from embody.cost.parameters import patches
from embody.data import Dataset, EpisodeRow, LatentWriter, Shard, exclusive_lock
from embody.tokenizer import Tokenizer

__all__ = ["encode_dataset"]

_ROWS, _ROWS_ON_GPU = 16, 256  # most episodes that are encoded side by side
_HISTORY = 2**33  # most bytes of their caches on a GPU
_PIECE = 2**26  # most bytes of their pixels in memory at a time


def encode_dataset(
    tokenizer: Tokenizer,
    tokenizer_hash: str,
    dataset: Dataset,
    progress: Callable[[int, int], None] | None = None,
    waiting: Callable[[str], None] | None = None,
) -> None:
    """Write the latents of every episode under `tokenizer_hash`; shards that exist are kept.

    `progress` is called with the number of shards done and of all shards. If another process is writing them, this
    raises a `UserError`, or waits if `waiting` is given (see `exclusive_lock`).
    """
    config = tokenizer.config
    writer = LatentWriter(dataset, tokenizer_hash, config.latents, config.channels)
    if not writer.pending():
        return
    with exclusive_lock(writer.folder, waiting):
        _encode_pending(tokenizer, dataset, writer, progress or (lambda done, total: None))


def _encode_pending(
    tokenizer: Tokenizer, dataset: Dataset, writer: LatentWriter, progress: Callable[[int, int], None]
) -> None:
    pending = writer.pending()
    tokenizer.eval()

    def encode(shards: Sequence[Shard]) -> int:
        with ExitStack() as stack:
            latents = {shard: stack.enter_context(writer.filling(shard)) for shard in shards}
            _encode_shards(tokenizer, dataset, latents, rows)
        return len(shards)

    on_gpu = tokenizer.masked_D.is_cuda
    rows = _rows_on_gpu(tokenizer) if on_gpu else _ROWS
    done, groups = 0, _together(dataset, pending, rows)
    with _one_thread_each() as threads, ThreadPoolExecutor(1 if on_gpu else threads) as pool:
        for shards in pool.map(encode, groups):
            done += shards
            progress(done, len(pending))


def _rows_on_gpu(tokenizer: Tokenizer) -> int:
    config = tokenizer.config
    tokens = patches(config, tokenizer.frame) + config.latents
    return max(1, min(_ROWS_ON_GPU, _HISTORY // max(1, ring_bytes(config.encoder, tokens, config.context, 4))))


def _together(dataset: Dataset, shards: Sequence[Shard], rows: int) -> list[list[Shard]]:
    """`shards` in groups of at most `rows` episodes each; a larger shard is a group of its own."""
    episodes = Counter(dataset.shard_of(row.id) for row in dataset.episodes())
    groups: list[list[Shard]] = []
    for shard in shards:
        if not groups or sum(episodes[other] for other in [*groups[-1], shard]) > rows:
            groups.append([])
        groups[-1].append(shard)
    return groups


def _encode_shards(
    tokenizer: Tokenizer, dataset: Dataset, latents: Mapping[Shard, NDArray[np.float16]], rows: int
) -> None:
    """Fill the `latents` of each shard, `rows` episodes at a time."""
    splits = dict.fromkeys(shard.split for shard in latents)
    episodes = [row for split in splits for row in dataset.episodes(split) if dataset.shard_of(row.id) in latents]
    # Episodes of similar length are encoded together; shorter ones are padded, and the padding's latents are dropped.
    by_length = sorted(episodes, key=lambda row: row.length)
    for start in range(0, len(by_length), rows):
        group = by_length[start : start + rows]
        shards = [dataset.shard_of(row.id) for row in group]
        places = [dataset.rows(row.id, 0, row.length).start - s.start for row, s in zip(group, shards, strict=True)]
        for first, encoded in _encode_side_by_side(tokenizer, dataset, group):
            for shard, place, row, z in zip(shards, places, group, encoded, strict=True):
                latents[shard][place + first : place + row.length][: len(z)] = z[: max(0, row.length - first)]


@contextmanager
def _one_thread_each() -> Iterator[int]:
    """Calls of torch use one thread each inside; yields the number of threads before.

    The matrix products of a frame are too small to be split among threads.
    """
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
    """Yields the first of the next n timesteps, and their latents `[rows, n, L, Z]`, for all episodes of a group.

    Long episodes are encoded in pieces of `_PIECE` bytes; the cache carries the history over.
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
