"""Ring cache of the time layers: preallocated, so that time and memory a frame do not grow with the history."""

import torch
from torch import Tensor

from embody.config import TransformerConfig

__all__ = ["RingCache"]


class RingCache:
    """Keys (after RoPE) and values of the last `context` frames, per time layer, for `rows` x `tokens` sequences.

    A frame in progress is written at the ring's next place; only `commit` keeps it. So denoising passes overwrite one
    another, and the order inside the ring needs no care: each key carries its position.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        rows: int,
        tokens: int,
        context: int,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        head_dim = config.width // config.heads
        shape = (config.layers.count("T"), rows * tokens, config.kv_heads, context, head_dim)
        self.k = torch.zeros(shape, device=device, dtype=dtype)
        self.v = torch.zeros(shape, device=device, dtype=dtype)
        self.rows, self.tokens, self.context = rows, tokens, context
        self.frames = 0  # committed so far; the position of the frame in progress

    def extend(self, layer: int, k: Tensor, v: Tensor, ahead: int = 0) -> tuple[Tensor, Tensor]:
        """Write frames in progress, `[rows * tokens, G, n, K]`, and return all keys and values they may see.

        One frame at any time, `ahead` others of the same pass before it; several only into an empty cache that they fit
        in (a context).
        """
        n = k.shape[2]
        assert n == 1 or (self.frames == 0 and n <= self.context), "several frames fit an empty cache only"
        place = (self.frames + ahead) % self.context
        self.k[layer, :, :, place : place + n] = k
        self.v[layer, :, :, place : place + n] = v
        seen = min(self.frames + ahead + n, self.context)
        return self.k[layer, :, :, :seen], self.v[layer, :, :, :seen]

    def commit(self, frames: int = 1) -> None:
        """Keep the frames in progress."""
        self.frames += frames

    def select(self, rows: Tensor) -> "RingCache":
        """The same history for the chosen `rows` (int64 `[n]`; repeats allowed)."""
        chosen = object.__new__(RingCache)
        for name in ("k", "v"):
            ring = getattr(self, name).unflatten(1, (self.rows, self.tokens))
            setattr(chosen, name, ring[:, rows].flatten(1, 2))
        chosen.rows, chosen.tokens, chosen.context, chosen.frames = len(rows), self.tokens, self.context, self.frames
        return chosen
