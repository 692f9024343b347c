"""Bytes on a GPU: what a training phase holds all the time, and what its forward pass keeps for the backward one.

Workspaces, the allocator's gaps and buffers of the communication are not counted. Legend: as in `flops`.
"""

from dataclasses import dataclass

from embody.config import AgentConfig, StageConfig, TokenizerConfig, TokenizerObjective, TransformerConfig
from embody.cost.lpips import lpips_activations
from embody.cost.parameters import patches

__all__ = [
    "Resident",
    "agent_activations",
    "block_activations",
    "resident",
    "ring_bytes",
    "tokenizer_activations",
    "trunk_activations",
]

_FLOAT32 = 4


@dataclass(frozen=True)
class Resident:
    """Bytes held between steps; each can be split over GPUs (sharded data parallel), or is whole on every one."""

    weights: int
    gradients: int
    optimiser: int
    average: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimiser + self.average


def resident(stage: StageConfig, held: int, trained: int, matrices: int, prior: int = 0) -> Resident:
    """`held` parameters, `trained` of them, `matrices` of these in transformer blocks; everything is float32.

    AdamW keeps two numbers a parameter, Muon one a matrix entry; the EMA is a copy of all that is held. `prior`
    parameters more are a frozen copy.
    """
    by_muon = matrices if stage.muon_lr else 0
    optimiser = 2 * (trained - by_muon) + by_muon
    return Resident(_FLOAT32 * (held + prior), _FLOAT32 * trained, _FLOAT32 * optimiser, _FLOAT32 * held)


# --- kept for the backward pass ---------------------------------------------------------------------------------------


def block_activations(trunk: TransformerConfig, p: int) -> int:
    """Bytes a token, for operands of `p` bytes: 2 for bfloat16 autocast on a GPU, 4 for float32 on a CPU.

    The residual stream before each norm (`2 * 4 D`); the normalised inputs of the projections (`2 p D`); queries, keys
    and values as projected (`p (N + 2G) K`), where that is not float32 again as such (`4 (N + G) K`), and rotated
    (`p (N + G) K`); attention's output (`p N K`) and its log-sum-exp (`4 N`); gate and up, silu(gate) and the product
    (`4 p M`).
    """
    D, K = trunk.width, trunk.width // trunk.heads
    q, kv = trunk.heads * K, trunk.kv_heads * K
    stream = 2 * (_FLOAT32 * D + p * D)
    attention = p * (q + 2 * kv) + _cast(q + kv, p) + p * (q + kv) + p * q + _FLOAT32 * trunk.heads
    return stream + attention + 4 * p * trunk.mlp_width


def trunk_activations(trunk: TransformerConfig, tokens: int, p: int, recompute: bool = False) -> int:
    """All blocks and the last norm, for so many tokens in all (rows, frames and tokens a frame).

    With `recompute` each block keeps its input (`4 D`), and one block at a time all the rest.
    """
    block = block_activations(trunk, p)
    blocks = trunk.depth * _FLOAT32 * trunk.width + block if recompute else trunk.depth * block
    return tokens * (blocks + _FLOAT32 * trunk.width)


def tokenizer_activations(
    config: TokenizerConfig,
    objective: TokenizerObjective,
    frame: tuple[int, int],
    frames: int,
    p: int,
    recompute: bool = False,
) -> int:
    """Both trunks on P + L tokens; of each patch, the pixels that come in, and D numbers before those that go out; the
    loss's network if it has one."""
    P = patches(config, frame)
    trunks = sum(
        trunk_activations(trunk, frames * (P + config.latents), p, recompute)
        for trunk in (config.encoder, config.decoder)
    )
    ends = frames * P * p * (3 * config.patch**2 + config.decoder.width)
    return trunks + ends + lpips_activations(objective, frame, frames)


def agent_activations(
    config: AgentConfig, trunk: TransformerConfig, world_tokens: int, frames: int, p: int, recompute: bool = False
) -> int:
    """The stream of M tokens, and in space layers what it reads: S + M tokens, once more before and after their norm.

    An agent with its own weights also keeps the world's tokens themselves, which no backward pass of the world does.
    With `recompute` one space layer at a time reads.
    """
    M, S = config.tokens, world_tokens
    D, kv = trunk.width, trunk.kv_heads * (trunk.width // trunk.heads)
    read = _FLOAT32 * D + p * D + p * 2 * kv + _cast(kv, p) + p * kv
    kept = _FLOAT32 * D if config.own_weights else 0
    space_layers = trunk.layers.count("S")
    reads = 1 if recompute else space_layers
    return trunk_activations(trunk, frames * M, p, recompute) + frames * S * (reads * read + space_layers * kept)


def _cast(numbers: int, p: int) -> int:
    return _FLOAT32 * numbers if p < _FLOAT32 else 0


# --- kept while generating ------------------------------------------------------------------------------------------


def ring_bytes(trunk: TransformerConfig, tokens: int, context: int, p: int) -> int:
    """`2 layers S G C K` numbers of `p` bytes: keys and values of one world's last C frames in each time layer."""
    return p * 2 * trunk.layers.count("T") * tokens * trunk.kv_heads * context * (trunk.width // trunk.heads)
