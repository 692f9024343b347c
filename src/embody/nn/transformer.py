"""Block-causal transformer over (time, tokens of a frame), in two streams and without masks.

A frame's tokens are a first stream that sees itself only, and a second one that sees both (`first` counts the former).
The tokenizer's patches and latents share one set of weights in one call; the agent's tokens are a second stream in a
call of its own, which projects the world's tokens to keys and values by its own weights.

Legend: B rows, T frames, S tokens a frame, M agent tokens, D width, G key/value heads, K head dim.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embody.config import TransformerConfig
from embody.nn.attention import Attention
from embody.nn.cache import RingCache
from embody.nn.norm import RMSNorm
from embody.nn.rope import rotary_angles

__all__ = ["Block", "Memory", "Mlp", "Transformer", "initialise", "run_second_stream"]

Angles = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Memory:
    """What a second stream may read of the first: its tokens as they come into each space layer."""

    inputs: tuple[Tensor, ...]  # each [B, T, S, D]


class Mlp(nn.Module):
    """SwiGLU: `W_down (silu(W_gate x) * W_up x)`, gate and up fused."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.gate_up = nn.Linear(config.width, 2 * config.mlp_width, bias=False)
        self.out = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.out(F.silu(gate) * up)


class Block(nn.Module):
    """Pre-norm attention and SwiGLU."""

    def __init__(self, config: TransformerConfig, kind: str = "S") -> None:
        """`kind` is `S` or `T`: it decides the gain that queries start with."""
        super().__init__()
        self.attention_norm = RMSNorm(config.width)
        self.attention = Attention(config)
        if kind == "T":
            nn.init.constant_(self.attention.q_norm.weight, config.time_query_gain)
        self.mlp_norm = RMSNorm(config.width)
        self.mlp = Mlp(config)

    def space(self, x_BTSD: Tensor, angles: Angles, first: int) -> Tensor:
        """Attention inside each frame: the first `first` tokens see one another, the others everything."""
        x_FSD = x_BTSD.flatten(0, 1)
        q, k, v = self.attention.project(self.attention_norm(x_FSD), angles)
        if first == x_FSD.shape[1]:
            o_FSD = self.attention(q, k, v)
        else:
            alone = self.attention(q[:, :, :first], k[:, :, :first], v[:, :, :first])
            o_FSD = torch.cat((alone, self.attention(q[:, :, first:], k, v)), dim=1)
        x_FSD = x_FSD + o_FSD
        x_FSD = x_FSD + self.mlp(self.mlp_norm(x_FSD))
        return x_FSD.view(x_BTSD.shape)

    def read(self, g_BTMD: Tensor, x_BTSD: Tensor, angles: Angles) -> Tensor:
        """Each of a second stream's tokens `g_BTMD` sees the frame's world tokens `x_BTSD`, and the stream itself."""
        S = x_BTSD.shape[2]
        seen_FYD = torch.cat((x_BTSD, g_BTMD), dim=2).flatten(0, 1)
        q, k, v = self.attention.project(self.attention_norm(seen_FYD), angles, queries_from=S)
        g_BTMD = g_BTMD + self.attention(q, k, v).view(g_BTMD.shape)
        return g_BTMD + self.mlp(self.mlp_norm(g_BTMD))

    def time(self, x_BTSD: Tensor, angles: Angles, cache: RingCache | None, layer: int) -> Tensor:
        """Causal attention of each token along time, over the cached frames too if there is a cache."""
        B, T, S, _ = x_BTSD.shape
        # Only queries, keys and values are laid out along time; the residual stream keeps its order.
        x_ETD = self.attention_norm(x_BTSD).transpose(1, 2).reshape(B * S, T, -1)
        q, k, v = self.attention.project(x_ETD, angles)
        if cache is not None and cache.frames:
            # One after the other: each frame takes the place of the oldest one, which those before it still see.
            parts = []
            frames = zip(*(part.split(1, dim=2) for part in (q, k, v)), strict=True)
            for ahead, (q_1, k_1, v_1) in enumerate(frames):
                parts.append(self.attention(q_1, *cache.extend(layer, k_1, v_1, ahead)))
            o_ETD = torch.cat(parts, dim=1)
        else:
            if cache is not None:
                cache.extend(layer, k, v)
            o_ETD = self.attention(q, k, v, causal=T > 1)
        x_BTSD = x_BTSD + o_ETD.view(B, S, T, -1).transpose(1, 2)
        return x_BTSD + self.mlp(self.mlp_norm(x_BTSD))


class Transformer(nn.Module):
    """Space and time layers in the order of `config.layers`, and a final norm."""

    def __init__(self, config: TransformerConfig, images_first: bool = False) -> None:
        """`images_first`: starts as a model of single frames, in which tokens attend to those like themselves.

        Time layers are then the identity (see also `Attention.align_queries`).
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

    def forward(
        self,
        x_BTSD: Tensor,
        *,
        first: int | None = None,
        places: Tensor | None = None,
        cache: RingCache | None = None,
    ) -> tuple[Tensor, Memory]:
        """New tokens `[B, T, S, D]` (normalised) and the memory for a second stream.

        `places` `[S]` are the tokens' positions inside a frame, their order by default. With a cache the frames are
        those in progress: the caller commits them.
        """
        T, S = x_BTSD.shape[1:3]
        places = torch.arange(S, device=x_BTSD.device) if places is None else places
        in_space, in_time = _angles(self.config, T, places, cache)
        inputs, layer = [], 0
        for block, kind in zip(self.blocks, self.config.layers, strict=True):
            assert isinstance(block, Block)
            if kind == "S":
                inputs.append(x_BTSD)
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
    """Agent tokens `[B, T, M, D]` through `blocks`, reading the world's memory; nothing here feeds the world."""
    T, M = g_BTMD.shape[1:3]
    S = memory.inputs[0].shape[2]
    in_space, in_time = _angles(config, T, torch.arange(S + M, device=g_BTMD.device), cache)
    reads = iter(memory.inputs)
    layer = 0
    for block, kind in zip(blocks, config.layers, strict=True):
        assert isinstance(block, Block)
        if kind == "S":
            g_BTMD = block.read(g_BTMD, next(reads), in_space)
        else:
            g_BTMD = block.time(g_BTMD, in_time, cache, layer)
            layer += 1
    return g_BTMD


def initialise(module: nn.Module, depth: int) -> None:
    """Weights of deviation `fan_in^-1/2`; those that write to the residual stream also over `sqrt(2 depth)`."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, Attention | Mlp):
        nn.init.normal_(module.out.weight, std=(module.out.in_features * 2 * depth) ** -0.5)


def _angles(config: TransformerConfig, frames: int, places: Tensor, cache: RingCache | None) -> tuple[Angles, Angles]:
    start = 0 if cache is None else cache.frames
    dim = config.width // config.heads
    time = torch.arange(start, start + frames, device=places.device)
    fastest, base = config.time_rope
    return rotary_angles(places, dim, config.rope_base), rotary_angles(time, dim, base, fastest)
