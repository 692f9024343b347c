"""Counts the parameters of each model.

Legend: D width, M MLP width, N query heads, G key/value heads, K head dim, P patches, L latent tokens, Z channels.
"""

import math

from embody.config import ActionSpec, AgentConfig, DynamicsConfig, TokenizerConfig, TransformerConfig
from embody.data.goal import goal_of

__all__ = [
    "Layers",
    "agent_parameters",
    "block_matrices",
    "dynamics_parameters",
    "event_layers",
    "head_layers",
    "risk_layers",
    "tokenizer_parameters",
    "trunk_parameters",
]

Layers = list[tuple[int, int]]  # inputs and outputs of each linear layer


def block_matrices(trunk: TransformerConfig) -> int:
    """`D (N + 2G) K + N K D + 3 D M`: projections to queries, keys and values, output projection, SwiGLU's three."""
    D, M, K = trunk.width, trunk.mlp_width, trunk.width // trunk.heads
    return D * (trunk.heads + 2 * trunk.kv_heads) * K + trunk.heads * K * D + 3 * D * M


def blocks_parameters(trunk: TransformerConfig) -> int:
    """`depth (matrices + 2D + 2K)`: a block has norms before attention and MLP, and norms of queries and keys."""
    return trunk.depth * (block_matrices(trunk) + 2 * trunk.width + 2 * (trunk.width // trunk.heads))


def trunk_parameters(trunk: TransformerConfig) -> int:
    """The parameters of the blocks and of the last norm (`D`)."""
    return blocks_parameters(trunk) + trunk.width


def tokenizer_parameters(config: TokenizerConfig, frame: tuple[int, int]) -> int:
    """Encoder and decoder, patch projections (`3 p^2 D` each), and positions of P patches and L latents in both."""
    E, D, L, Z = config.encoder.width, config.decoder.width, config.latents, config.channels
    P, pixels = patches(config, frame), 3 * config.patch**2
    encoder = trunk_parameters(config.encoder) + pixels * E + E + (P + 1 + L) * E  # 1: the masked patch
    decoder = trunk_parameters(config.decoder) + pixels * D + 3 + (P + L) * D
    return encoder + (E * Z + Z) + (Z * D + D) + decoder


def dynamics_parameters(config: DynamicsConfig, actions: ActionSpec) -> int:
    """The trunk, the tables of actions and of (tau, d), registers, latents in and out and their positions."""
    D, Z = config.trunk.width, config.channels
    table = (sum(actions.sizes) + 2) * D  # "no action", and the embedding of every frame
    levels = (config.k_max + 1) * (D // 2) + config.k_max.bit_length() * (D - D // 2)
    latents = (Z * D + D) + config.tokens * D + (D * Z + Z)
    return trunk_parameters(config.trunk) + table + levels + config.registers * D + latents + D  # D: the tokens' norm


def agent_parameters(config: AgentConfig, trunk: TransformerConfig, actions: ActionSpec) -> int:
    """Task embedding, agent tokens, two norms, heads, and blocks of the dynamics' shape if the agent owns its
    weights."""
    D, M, goal = trunk.width, config.tokens, goal_of(config.goal)
    words = goal.vocabulary(config) * config.word_width
    task = goal.task_inputs(config) * M * D + M * D
    heads = sum(a * b + b for layers in head_layers(config, trunk, actions).values() for a, b in layers)
    return words + task + M * D + 2 * D + heads + config.own_weights * blocks_parameters(trunk)


def head_layers(config: AgentConfig, trunk: TransformerConfig, actions: ActionSpec) -> dict[str, Layers]:
    """Inputs and outputs of the linear layers of each head."""
    features, hidden = config.tokens * trunk.width, config.hidden
    outputs = {
        "policy": config.distances * sum(actions.sizes),
        "reward": config.distances * config.bins,
        "value": config.bins,
        "continues": 1,
    }
    return {name: [(features, hidden), (hidden, hidden), (hidden, size)] for name, size in outputs.items()}


def event_layers(dynamics: DynamicsConfig, agent: AgentConfig) -> tuple[Layers, Layers]:
    """Linear layers of `EventClassifier`: those applied to each token, and those applied to all tokens together.

    Both are empty outside multi-achievement mode.
    """
    hidden, kept = agent.event_hidden, agent.event_channels
    of_token = [(2 * dynamics.channels, hidden), (hidden, kept)]
    of_all = [(dynamics.tokens * kept, hidden), (hidden, hidden), (hidden, agent.tasks)]
    return (of_token, of_all) if goal_of(agent.goal).predicts_outcomes else ([], [])


def risk_layers(dynamics: DynamicsConfig, agent: AgentConfig, actions: ActionSpec) -> tuple[Layers, Layers]:
    """Linear layers of `RiskModel`, as in `event_layers`."""
    hidden, kept = agent.event_hidden, agent.event_channels
    of_token = [(dynamics.channels, hidden), (hidden, kept)]
    of_all = [(dynamics.tokens * kept + sum(actions.sizes), hidden), (hidden, hidden), (hidden, 2)]
    return (of_token, of_all) if goal_of(agent.goal).predicts_outcomes else ([], [])


def patches(config: TokenizerConfig, frame: tuple[int, int]) -> int:
    """P, the patches of a frame."""
    return math.prod(config.grid(frame))
