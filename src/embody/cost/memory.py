"""Memory of a GPU in bytes: what a training phase always holds, and what the forward pass keeps for the backward pass.

Workspaces, fragmentation and communication buffers are not counted. Legend: as in `flops`.
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
    """Bytes held between steps; each kind can be sharded over GPUs or held whole on every GPU."""

    weights: int
    gradients: int
    optimiser: int
    average: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimiser + self.average


def resident(stage: StageConfig, held: int, trained: int, matrices: int, prior: int = 0) -> Resident:
    """Bytes of `held` parameters, of which `trained` are trained and `matrices` are trained matrices of blocks;
    float32.

    AdamW keeps two numbers for each parameter, Muon one for each matrix entry. The EMA is a copy of all held
    parameters. `prior` more parameters are a frozen copy.
    """
    by_muon = matrices if stage.muon_lr else 0
    optimiser = 2 * (trained - by_muon) + by_muon
    return Resident(_FLOAT32 * (held + prior), _FLOAT32 * trained, _FLOAT32 * optimiser, _FLOAT32 * held)


# --- kept for the backward pass ---------------------------------------------------------------------------------------


def block_activations(trunk: TransformerConfig, p: int) -> int:
    """Bytes for each token, with operands of `p` bytes: 2 for bfloat16 autocast, 4 for float32.

    The sum of: the residual stream before each norm, `2 * 4 D`; the normalised inputs of the projections, `2 p D`;
    queries, keys and values as projected, `p (N + 2G) K`; queries and keys cast to float32 (unless they are),
    `4 (N + G) K`, and rotated, `p (N + G) K`; the output of attention, `p N K`, and its log-sum-exp, `4 N`; gate, up,
    silu(gate) and their product, `4 p M`.
    """
    D, K = trunk.width, trunk.width // trunk.heads
    q, kv = trunk.heads * K, trunk.kv_heads * K
    stream = 2 * (_FLOAT32 * D + p * D)
    attention = p * (q + 2 * kv) + _cast(q + kv, p) + p * (q + kv) + p * q + _FLOAT32 * trunk.heads
    return stream + attention + 4 * p * trunk.mlp_width


def trunk_activations(trunk: TransformerConfig, tokens: int, p: int, recompute: bool = False) -> int:
    """Bytes of all blocks and the last norm, for `tokens` tokens (rows x frames x tokens of a frame).

    With `recompute` each block keeps its input, `4 D`, and one block at a time keeps everything.
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
    """Bytes of a row: both transformers on P + L tokens; for each patch its input pixels and the D numbers before its
    output; the perceptual loss's network, if there is one."""
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
    """Bytes of a row: the stream of M tokens, and the S tokens of the dynamics that each space layer reads.

    An agent with its own weights also keeps the dynamics' tokens themselves, because the dynamics has no backward pass
    that would keep them. With `recompute` one space layer at a time keeps what it reads.
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
    """Bytes of a ring cache, `2 p layers S G C K`: keys and values of a row's last C frames in each time layer."""
    return p * 2 * trunk.layers.count("T") * tokens * trunk.kv_heads * context * (trunk.width // trunk.heads)
