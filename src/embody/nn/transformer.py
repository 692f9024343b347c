"""Block-causal transformer over (time, tokens of a frame), in two streams and without masks.

The first stream attends to itself only, the second stream to both; `first` is the number of tokens in the first stream.
The tokenizer runs both of its streams, patches and latents, in one call with the same weights. The agent's tokens run
as a second stream in a separate call, and project the dynamics' tokens to keys and values with weights of their own.

Legend: B rows, T frames, S tokens a frame, M agent tokens, D width, G key/value heads, K head dim.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVarTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from embody.config import TransformerConfig
from embody.nn import custom_backward
from embody.nn.attention import Attention
from embody.nn.cache import RingCache
from embody.nn.norm import RMSNorm
from embody.nn.rope import rotary_angles

__all__ = ["Block", "Memory", "Mlp", "Transformer", "initialise", "precision", "run_second_stream"]

Angles = tuple[Tensor, Tensor]
Ts = TypeVarTuple("Ts")


@dataclass(frozen=True)
class Memory:
    """What a second stream reads of the first: the tokens that enter each space layer."""

    inputs: tuple[Tensor, ...]  # each [B, T, S, D]


class Mlp(nn.Module):
    """SwiGLU: `W_down (silu(W_gate x) * W_up x)`, gate and up fused."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.width, 2 * config.mlp_width, bias=False)
        self.out = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate_up = self.gate_up(x)
        if custom_backward.use_custom_backward(gate_up, self.gate_up.weight):
            return self.out(custom_backward.swiglu(gate_up))
        gate, up = gate_up.chunk(2, dim=-1)
        return self.out(F.silu(gate) * up)


def _as_trained(run: Callable[["Block", *Ts], Tensor]) -> Callable[["Block", *Ts], Tensor]:
    """`run`, compiled if `block.compiled` and recomputed in the backward pass if `block.recompute`; unchanged without
    gradients."""
    compiled = functools.cache(lambda: torch.compile(run))

    @functools.wraps(run)
    def outer(block: "Block", *inputs: *Ts) -> Tensor:
        chosen = compiled() if block.compiled and torch.is_grad_enabled() else run
        if block.recompute and torch.is_grad_enabled():
            return checkpoint(chosen, block, *inputs, use_reentrant=False, preserve_rng_state=False)
        return chosen(block, *inputs)

    return outer


class Block(nn.Module):
    """Pre-norm attention and SwiGLU."""

    recompute = False  # store only inputs for the backward pass: less memory, a third more FLOPs, the same gradients
    compiled = False

    def __init__(self, config: TransformerConfig, kind: str = "S") -> None:
        """`kind` is `S` or `T`; queries of time layers start with the gain `config.time_query_gain`."""
        super().__init__()
        self.attention_norm = RMSNorm(config.width)
        self.attention = Attention(config)
        if kind == "T":
            nn.init.constant_(self.attention.q_norm.weight, config.time_query_gain)
        self.mlp_norm = RMSNorm(config.width)
        self.mlp = Mlp(config)

    @_as_trained
    def space(self, x_BTSD: Tensor, angles: Angles, first: int) -> Tensor:
        """Attention inside each frame: the first `first` tokens attend to one another, the others to all tokens."""
        x_FSD = x_BTSD.flatten(0, 1)
        q, k, v = self.attention.project(self.attention_norm(x_FSD), angles)
        if first == x_FSD.shape[1]:
            o_FSD = self.attention(q, k, v)
        else:
            o_first = self.attention(q[:, :, :first], k[:, :, :first], v[:, :, :first])
            o_FSD = torch.cat((o_first, self.attention(q[:, :, first:], k, v)), dim=1)
        x_FSD = x_FSD + o_FSD
        x_FSD = x_FSD + self.mlp(self.mlp_norm(x_FSD))
        return x_FSD.view(x_BTSD.shape)

    @_as_trained
    def read(self, g_BTMD: Tensor, x_BTSD: Tensor, angles: Angles) -> Tensor:
        """The second stream's tokens `g_BTMD` attend to the frame's first stream `x_BTSD` and to themselves."""
        S = x_BTSD.shape[2]
        seen_FYD = torch.cat((x_BTSD, g_BTMD), dim=2).flatten(0, 1)
        q, k, v = self.attention.project(self.attention_norm(seen_FYD), angles, queries_from=S)
        g_BTMD = g_BTMD + self.attention(q, k, v).view(g_BTMD.shape)
        return g_BTMD + self.mlp(self.mlp_norm(g_BTMD))

    @_as_trained
    def time(self, x_BTSD: Tensor, angles: Angles, cache: RingCache | None, layer: int) -> Tensor:
        """Causal attention of each token along time; with a cache also to its frames."""
        B, T, S, _ = x_BTSD.shape
        # Only queries, keys and values are laid out along time; the residual stream keeps its layout.
        # `contiguous`, because with a strided view (one row) the projection would copy its weights for each token.
        x_ETD = self.attention_norm(x_BTSD).transpose(1, 2).contiguous().view(B * S, T, -1)
        q, k, v = self.attention.project(x_ETD, angles)
        if cache is None or cache.empty:
            if cache is not None:
                cache.fill(layer, k, v)
            o_ETD = self.attention(q, k, v, causal=T > 1)
        else:
            # Frame by frame: each one overwrites the oldest frame, to which the frames before it still attend.
            parts = []
            frames = zip(*(part.split(1, dim=2) for part in (q, k, v)), strict=True)
            for ahead, (q_1, k_1, v_1) in enumerate(frames):
                parts.append(self.attention.attend_cached(q_1, *cache.extend(layer, k_1, v_1, ahead)))
            o_ETD = torch.cat(parts, dim=1)
        x_BTSD = x_BTSD + o_ETD.view(B, S, T, -1).transpose(1, 2)
        return x_BTSD + self.mlp(self.mlp_norm(x_BTSD))


class Transformer(nn.Module):
    """The layers of `config.layers`, in that order, and a final norm."""

    def __init__(self, config: TransformerConfig, images_first: bool = False) -> None:
        """`images_first`: time layers start as the identity, and tokens first attend to similar tokens.

        So the transformer starts as a model of single frames (see `Attention.align_queries`).
        """
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config, kind) for kind in config.layers)
        self.norm = RMSNorm(config.width)
        self.apply(lambda module: initialise(module, config.depth))
        for block, kind in zip(self.blocks, config.layers, strict=True):
            assert isinstance(block, Block)
            if images_first:
                block.attention.align_queries()
                if kind == "T":
                    nn.init.zeros_(block.attention.out.weight)
                    nn.init.zeros_(block.mlp.out.weight)

    def new_cache(self, rows: int, tokens: int, context: int) -> RingCache:
        """An empty cache of `context` frames for `rows` x `tokens` sequences, in the type that the layers compute
        in."""
        weight = self.norm.weight
        dtype = precision(self.blocks, weight.device)
        return RingCache(self.config, rows=rows, tokens=tokens, context=context, device=weight.device, dtype=dtype)

    def forward(
        self,
        x_BTSD: Tensor,
        *,
        first: int | None = None,
        positions: Tensor | None = None,
        cache: RingCache | None = None,
        memory_only: bool = False,
    ) -> tuple[Tensor, Memory]:
        """Output tokens `[B, T, S, D]` (normalised) and the memory for a second stream.

        `positions` `[S]` are the tokens' positions inside a frame, by default 0, 1, ... With a cache the frames are in
        progress, and the caller commits them. With `memory_only`, the layers after the last one that the memory or the
        cache needs are skipped, and the output tokens have no meaning.
        """
        T, S = x_BTSD.shape[1:3]
        positions = torch.arange(S, device=x_BTSD.device) if positions is None else positions
        in_space, in_time = _angles(self.config, T, positions, cache)
        inputs, layer = [], 0
        layers = self.config.layers
        last = max(layers.rfind("S"), layers.rfind("T") if cache is not None else -1) if memory_only else len(layers)
        with _as_precise_as(self.blocks, x_BTSD.device):
            for place, (block, kind) in enumerate(zip(self.blocks, layers, strict=True)):
                assert isinstance(block, Block)
                if kind == "S":
                    inputs.append(x_BTSD)
                    if place >= last:
                        break
                    x_BTSD = block.space(x_BTSD, in_space, S if first is None else first)
                else:
                    x_BTSD = block.time(x_BTSD, in_time, cache, layer)
                    layer += 1
        return self.norm(x_BTSD), Memory(tuple(inputs))


def run_second_stream(
    blocks: Sequence[nn.Module],
    config: TransformerConfig,
    g_BTMD: Tensor,
    memory: Memory,
    cache: RingCache | None = None,
) -> Tensor:
    """Agent tokens `[B, T, M, D]` after `blocks`, in which they attend to the dynamics' memory, which does not
    change."""
    T, M = g_BTMD.shape[1:3]
    S = memory.inputs[0].shape[2]
    in_space, in_time = _angles(config, T, torch.arange(S + M, device=g_BTMD.device), cache)
    reads = iter(memory.inputs)
    layer = 0
    with _as_precise_as(blocks, g_BTMD.device):
        for block, kind in zip(blocks, config.layers, strict=True):
            assert isinstance(block, Block)
            if kind == "S":
                g_BTMD = block.read(g_BTMD, next(reads), in_space)
            else:
                g_BTMD = block.time(g_BTMD, in_time, cache, layer)
                layer += 1
    return g_BTMD


def precision(blocks: Iterable[nn.Module], device: torch.device) -> torch.dtype:
    """The dtype in which `blocks` multiply: that of their matrices or, if that is float32 and autocast is on,
    autocast's."""
    block = next(iter(blocks))
    assert isinstance(block, Block)
    own = block.mlp.out.weight.dtype
    if own == torch.float32 and device.type != "meta" and torch.is_autocast_enabled(device.type):
        return torch.get_autocast_dtype(device.type)
    return own


def _as_precise_as(blocks: Iterable[nn.Module], device: torch.device) -> AbstractContextManager[object]:
    """A context that casts activations to the type of the matrices, if that is not float32."""
    dtype = precision(blocks, device)
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)


def initialise(module: nn.Module, depth: int) -> None:
    """Weights get standard deviation `fan_in^-1/2`; output projections are also divided by `sqrt(2 depth)`."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, Attention | Mlp):
        nn.init.normal_(module.out.weight, std=(module.out.in_features * 2 * depth) ** -0.5)


def _angles(
    config: TransformerConfig, frames: int, positions: Tensor, cache: RingCache | None
) -> tuple[Angles, Angles]:
    dim = config.width // config.heads
    # The context of an empty cache may be longer than the frames that a pass adds later.
    time = torch.arange(frames, device=positions.device)
    if cache is not None:
        # The position is a tensor, since a compiled step would be compiled again for every new integer.
        time = time + cache.position[0] if cache.empty else cache.position[:frames]
    fastest, base = config.time_rope
    return rotary_angles(positions, dim, config.rope_base), rotary_angles(time, dim, base, fastest)
