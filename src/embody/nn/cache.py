"""Ring cache of the time layers: preallocated and of one shape, so that no frame costs more than another."""

import torch
from torch import Tensor

from embody.config import TransformerConfig

__all__ = ["RingCache"]

_IN_PROGRESS = 2  # frames that one pass may add: a finished one, and the next


class RingCache:
    """Keys (after RoPE) and values of the last `context` frames, per time layer, for `rows` x `tokens` sequences.

    A frame in progress is written at the ring's next place; only `commit` keeps it. So denoising passes overwrite one
    another, and the order inside the ring needs no care: each key carries its position. Every call sees the whole ring,
    under a mask of the places not filled yet. What changes from frame to frame are tensors, changed in place: a
    compiled or captured step stays as it is.
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
        # Of the frames in progress: their index since the first, their place, and the bias of each place for them.
        self.position = torch.arange(_IN_PROGRESS, device=device)
        self.place = torch.empty_like(self.position)
        self.bias = torch.empty(_IN_PROGRESS, context, device=device, dtype=dtype)
        self.every_place = torch.arange(context, device=device)
        self._locate()

    @property
    def dtype(self) -> torch.dtype:
        """Of keys and values."""
        return self.bias.dtype

    def start_at(self, frames: int) -> None:
        """What comes into the empty ring follows `frames` others, which are not in it."""
        assert self.empty
        self.frames = frames
        self.position += frames
        self._locate()

    def fill(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Write a context, `[rows * tokens, G, n, K]`, into the empty ring."""
        n = k.shape[2]
        assert self.empty and n <= self.context, "several frames fit an empty cache only"
        places = (self.position[0] + self.every_place[:n]) % self.context
        self.k[layer][:, :, places] = k.to(self.dtype)
        self.v[layer][:, :, places] = v.to(self.dtype)

    def extend(self, layer: int, k: Tensor, v: Tensor, ahead: int = 0) -> tuple[Tensor, Tensor, Tensor | None]:
        """Write a frame in progress, `[rows * tokens, G, 1, K]`, with `ahead` others of the same pass before it.

        Returns all keys and values `[rows * tokens, G, C, K]`, and `[C]` to add to their logits: 0, or -inf where
        nothing is yet; None when all places are filled.
        """
        place = self.place[ahead : ahead + 1]
        self.k[layer].index_copy_(2, place, k.to(self.k[layer].dtype))
        self.v[layer].index_copy_(2, place, v.to(self.v[layer].dtype))
        return self.k[layer], self.v[layer], None if self.full else self.bias[ahead]

    def commit(self, frames: int = 1) -> None:
        """Keep the frames in progress."""
        self.frames += frames
        self.position += frames
        self.empty, self.full = False, self.frames >= self.context - 1
        self._locate()

    def _locate(self) -> None:
        self.place.copy_(self.position % self.context)
        self.bias.zero_().masked_fill_(self.every_place > self.position[:, None], float("-inf"))

    def replace(self, rows: Tensor, other: "RingCache") -> None:
        """`other`, of as many frames, becomes the history of `rows` (int64 `[n]`)."""
        assert (other.frames, other.context, other.rows) == (self.frames, self.context, len(rows))
        for mine, theirs in zip((*self.k, *self.v), (*other.k, *other.v), strict=True):
            mine.unflatten(0, (self.rows, self.tokens))[rows] = theirs.unflatten(0, (other.rows, other.tokens))

    def select(self, rows: Tensor) -> "RingCache":
        """The same history for the chosen `rows` (int64 `[n]`; repeats allowed)."""
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
