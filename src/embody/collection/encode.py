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
    for done, shard in enumerate(pending):
        writer.write_shard(shard, _encode_shard(tokenizer, dataset, shard))
        if progress is not None:
            progress(done + 1, len(pending))


def _encode_shard(tokenizer: Tokenizer, dataset: Dataset, shard: Shard) -> NDArray[np.float32]:
    episodes = [row for row in dataset.episodes(shard.split) if dataset.shard_of(row.id) == shard]
    # Episodes of like length side by side: the shorter ones are padded, and their padding is dropped.
    by_length = sorted(episodes, key=lambda row: row.length)
    groups = [by_length[start : start + _ROWS] for start in range(0, len(by_length), _ROWS)]

    def encode(group: Sequence[EpisodeRow]) -> dict[int, NDArray[np.float32]]:
        encoded = _encode_videos(tokenizer, [dataset.frames(row.id, 0, row.length) for row in group])
        return {row.id: z[: row.length] for row, z in zip(group, encoded, strict=True)}

    latents: dict[int, NDArray[np.float32]] = {}
    with _one_thread_each() as threads, ThreadPoolExecutor(threads) as pool:
        for encoded in pool.map(encode, groups):
            latents |= encoded
    return np.concatenate([latents[row.id] for row in episodes])


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
def _encode_videos(tokenizer: Tokenizer, videos: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
    longest = max(len(video) for video in videos)
    padded = np.stack([np.pad(video, ((0, longest - len(video)), (0, 0), (0, 0), (0, 0))) for video in videos])
    frames = torch.from_numpy(padded).permute(0, 1, 4, 2, 3).to(tokenizer.masked_D.device)
    return tokenizer.encode_video(frames).float().cpu().numpy()
