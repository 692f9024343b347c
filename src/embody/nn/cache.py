"""The ring cache of the time layers: it is preallocated and keeps its shape, so that every frame costs the same."""

import torch
from torch import Tensor

from embody.config import TransformerConfig

__all__ = ["RingCache"]

_IN_PROGRESS = 2  # frames that one pass may add: a finished frame and the next one


class RingCache:
    """Keys (after RoPE) and values of the last `context` frames, per time layer, for `rows` x `tokens` sequences.

    A provisional frame is written to the next place of the ring and stays only if `commit` follows; otherwise the next
    denoising pass overwrites it. Keys are stored after RoPE, so their order in the ring does not matter. Every call
    attends to the whole ring, with places that are not filled yet masked. All state is in tensors that are updated in
    place, so a compiled step or a CUDA graph remains valid from frame to frame.
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
        shape = (rows * tokens, config.kv_heads, context, head_dim)
        layers = range(config.layers.count("T"))
        self.k = [torch.zeros(shape, device=device, dtype=dtype) for _ in layers]
        self.v = [torch.zeros(shape, device=device, dtype=dtype) for _ in layers]
        self.rows, self.tokens, self.context = rows, tokens, context
        self.frames = 0  # committed so far
        self.empty, self.full = True, False
        # Of the provisional frames: their time index, their place in the ring, and the bias of each place.
        self.position = torch.arange(_IN_PROGRESS, device=device)
        self.place = torch.empty_like(self.position)
        self.bias = torch.empty(_IN_PROGRESS, context, device=device, dtype=dtype)
        self.every_place = torch.arange(context, device=device)
        self._locate()

    @property
    def dtype(self) -> torch.dtype:
        """The type of keys and values."""
        return self.bias.dtype

    def start_at(self, frames: int) -> None:
        """Start the time index of an empty ring at `frames`, as if so many frames had been forgotten."""
        assert self.empty
        self.frames = frames
        self.position += frames
        self._locate()

    def fill(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Write the keys and values of a context, `[rows * tokens, G, n, K]`, into an empty ring."""
        n = k.shape[2]
        assert self.empty and n <= self.context, "several frames at once need an empty cache"
        places = (self.position[0] + self.every_place[:n]) % self.context
        self.k[layer][:, :, places] = k.to(self.dtype)
        self.v[layer][:, :, places] = v.to(self.dtype)

    def extend(self, layer: int, k: Tensor, v: Tensor, ahead: int = 0) -> tuple[Tensor, Tensor, Tensor | None]:
        """Write a provisional frame, `[rows * tokens, G, 1, K]`, the `ahead`-th (from 0) of its pass.

        Returns all keys and values `[rows * tokens, G, C, K]`, and a bias `[C]` for the logits: 0, or -inf for places
        that are not filled yet; None when all places are filled.
        """
        place = self.place[ahead : ahead + 1]
        self.k[layer].index_copy_(2, place, k.to(self.k[layer].dtype))
        self.v[layer].index_copy_(2, place, v.to(self.v[layer].dtype))
        return self.k[layer], self.v[layer], None if self.full else self.bias[ahead]

    def commit(self, frames: int = 1) -> None:
        """Keep the `frames` provisional frames."""
        self.frames += frames
        self.position += frames
        self.empty, self.full = False, self.frames >= self.context - 1
        self._locate()

    def _locate(self) -> None:
        self.place.copy_(self.position % self.context)
        self.bias.zero_().masked_fill_(self.every_place > self.position[:, None], float("-inf"))

    def replace(self, rows: Tensor, other: "RingCache") -> None:
        """Replace the history of `rows` (int64 `[n]`) by that of `other`, which holds as many frames."""
        assert (other.frames, other.context, other.rows) == (self.frames, self.context, len(rows))
        for mine, theirs in zip((*self.k, *self.v), (*other.k, *other.v), strict=True):
            mine.unflatten(0, (self.rows, self.tokens))[rows] = theirs.unflatten(0, (other.rows, other.tokens))

    def select(self, rows: Tensor) -> "RingCache":
        """A copy of the history of `rows` (int64 `[n]`; a row may be repeated)."""
        chosen = object.__new__(RingCache)
        for name in ("k", "v"):
            rings = (ring.unflatten(0, (self.rows, self.tokens)) for ring in getattr(self, name))
            setattr(chosen, name, [ring[rows].flatten(0, 1) for ring in rings])
        for name in ("position", "place", "bias"):
            setattr(chosen, name, getattr(self, name).clone())
        chosen.every_place = self.every_place
        chosen.rows, chosen.tokens, chosen.context, chosen.frames = len(rows), self.tokens, self.context, self.frames
        chosen.empty, chosen.full = self.empty, self.full
        return chosen
