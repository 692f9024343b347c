"""Floating point operations (FLOPs) of matrix products: a product of `[a, b]` and `[b, c]` takes `2 a b c`.

As in `torch.utils.flop_counter`, look-ups, norms, rotations, softmax, activations, optimisers and losses (except LPIPS)
are not counted, and causal attention counts all pairs of frames; a kernel that skips future frames computes
`(T + 1) / 2T` of them. A backward pass takes two products for each forward product, or one if the input needs no
gradient. Recomputation inside flash attention is not counted.

Legend: T frames, S tokens a frame, M agent tokens, D width, N query heads, G key/value heads, K head dim, P patches, L
latent tokens, Z channels.
"""

from collections.abc import Iterable
from dataclasses import replace

from embody.config import (
    ActionSpec,
    AgentConfig,
    Config,
    DynamicsConfig,
    DynamicsObjective,
    TokenizerConfig,
    TokenizerObjective,
    TransformerConfig,
)
from embody.cost.lpips import lpips_row_flops
from embody.cost.parameters import Layers, block_matrices, event_layers, head_layers, patches, risk_layers
from embody.data.goal import goal_of

__all__ = [
    "agent_flops",
    "agent_row_flops",
    "block_flops",
    "decode_flops",
    "decoder_row_flops",
    "dynamics_flops",
    "dynamics_row_flops",
    "encode_flops",
    "event_row_flops",
    "generated_frame_flops",
    "head_flops",
    "imagination_row_flops",
    "memory_flops",
    "risk_row_flops",
    "tokenizer_row_flops",
    "trunk_flops",
]


# --- one pass, forward ----------------------------------------------------------------------------------------------


def block_flops(trunk: TransformerConfig, tokens: int, pairs: int) -> int:
    """`2 X matrices + 4 N K pairs`: X tokens times every matrix; `q k^T` and `w v` for each (query, key) pair.

    Grouped keys and values make projections smaller, but each of the N query heads has all pairs.
    """
    return 2 * tokens * block_matrices(trunk) + 4 * trunk.width * pairs  # N K = D


def trunk_flops(
    trunk: TransformerConfig, frames: int, tokens: int, *, space_pairs: int | None = None, keys: int | None = None
) -> int:
    """T frames of S tokens through all layers: `S^2` pairs a frame in a space layer, `T keys` a token in a time layer.

    `space_pairs` replaces `S^2` where there are two streams. `keys` is T by default; with a cache, its ring.
    """
    space = block_flops(trunk, frames * tokens, frames * (tokens**2 if space_pairs is None else space_pairs))
    time = block_flops(trunk, frames * tokens, tokens * frames * (frames if keys is None else keys))
    return sum(space if kind == "S" else time for kind in trunk.layers)


def encode_flops(config: TokenizerConfig, frame: tuple[int, int], frames: int, keys: int | None = None) -> int:
    """Patches in (`2 P 3 p^2 D`), the encoder on P + L tokens, latents out (`2 L D Z`).

    Patches see patches, latents both: `P^2 + L (P + L)` pairs a frame.
    """
    P, L = patches(config, frame), config.latents
    trunk = trunk_flops(config.encoder, frames, P + L, space_pairs=P * P + L * (P + L), keys=keys)
    return _patch_in(config, frame, frames) + trunk + 2 * frames * L * config.encoder.width * config.channels


def decode_flops(config: TokenizerConfig, frame: tuple[int, int], frames: int, keys: int | None = None) -> int:
    """Latents in, the decoder on L + P tokens, patches out; `L^2 + P (L + P)` pairs a frame."""
    P, L, D = patches(config, frame), config.latents, config.decoder.width
    trunk = trunk_flops(config.decoder, frames, L + P, space_pairs=L * L + P * (L + P), keys=keys)
    return 2 * frames * L * config.channels * D + trunk + 2 * frames * P * D * 3 * config.patch**2


def dynamics_flops(config: DynamicsConfig, frames: int, keys: int | None = None) -> int:
    """Latents in and out (`2 L Z D` each) and the trunk on `S = 2 + registers + L` tokens."""
    return 2 * _latents(config, frames) + trunk_flops(config.trunk, frames, _tokens(config), keys=keys)


def memory_flops(config: DynamicsConfig, frames: int, keys: int | None = None) -> int:
    """Latents in and the layers that the memory needs; with a cache of `keys` frames also the last time layer."""
    layers = config.trunk.layers
    needed = max(layers.rfind("S"), layers.rfind("T") + 1 if keys else 0)
    trunk = replace(config.trunk, depth=needed)
    return _latents(config, frames) + trunk_flops(trunk, frames, _tokens(config), keys=keys)


def agent_flops(
    config: AgentConfig, trunk: TransformerConfig, world_tokens: int, frames: int, keys: int | None = None
) -> int:
    """The task to M tokens (`2 words M D` once, or `2 tasks M D` a frame), then the stream: the heads are `head_flops`.

    A space layer projects the world's S tokens and its own M to keys and values (`2 (S + M) D 2 G K`), and only the M
    to queries: `M (S + M)` pairs a frame. A time layer is a plain one on M tokens.
    """
    M = config.tokens
    keys_and_values = 2 * 2 * trunk.kv_heads * trunk.width * (trunk.width // trunk.heads)
    space = block_flops(trunk, frames * M, frames * M * (world_tokens + M)) + frames * world_tokens * keys_and_values
    time = block_flops(trunk, frames * M, M * frames * (frames if keys is None else keys))
    return _task_flops(config, trunk, frames) + sum(space if kind == "S" else time for kind in trunk.layers)


def _task_flops(config: AgentConfig, trunk: TransformerConfig, frames: int) -> int:
    goal = goal_of(config.goal)
    once_a_clip = 2 * goal.task_inputs(config) * config.tokens * trunk.width
    return once_a_clip * (frames if goal.lists_remaining_tasks else 1)


def head_flops(config: AgentConfig, trunk: TransformerConfig, actions: ActionSpec, *names: str) -> int:
    """`2 in out` a layer, for the features of one frame; all heads by default."""
    layers = head_layers(config, trunk, actions)
    return sum(_flops(layers[name]) for name in names or layers)


def _flops(layers: Iterable[tuple[int, int]]) -> int:
    return sum(2 * a * b for a, b in layers)


# --- training, one row of a batch -------------------------------------------------------------------------------------


def tokenizer_row_flops(
    config: TokenizerConfig, objective: TokenizerObjective, frame: tuple[int, int], frames: int
) -> int:
    """Encode and decode, forward and backward, and the loss's network if it has one; pixels have no gradient."""
    model = 3 * (encode_flops(config, frame, frames) + decode_flops(config, frame, frames))
    model -= _patch_in(config, frame, frames)
    return model + lpips_row_flops(objective, frame, frames)


def decoder_row_flops(
    config: TokenizerConfig, objective: TokenizerObjective, frame: tuple[int, int], frames: int
) -> int:
    """Encode, then decode, forward and backward: with the encoder frozen, latents have no gradient. And the loss's
    network if it has one."""
    latents_in = 2 * frames * config.latents * config.channels * config.decoder.width
    model = encode_flops(config, frame, frames) + 3 * decode_flops(config, frame, frames) - latents_in
    return model + lpips_row_flops(objective, frame, frames)


def dynamics_row_flops(config: DynamicsConfig, objective: DynamicsObjective, frames: int, *, bootstrap: bool) -> float:
    """The mean row: `(1 - i) row(T) + i T row(1) + b 2 forward(T)`.

    `i` is the share of rows taken as separate images, `b` that of bootstrap rows (all, images too, where d is drawn
    uniformly), whose two teacher passes have no backward pass. Noised latents have no gradient.
    """

    def row(length: int) -> int:
        return 3 * dynamics_flops(config, length) - _latents(config, length)

    images = objective.image_fraction
    flow = (1 - images) * row(frames) + images * frames * row(1)
    if not bootstrap or config.k_max == 1:
        return flow
    if objective.step_draw == "uniform":
        every_row = (1 - images) * dynamics_flops(config, frames) + images * frames * dynamics_flops(config, 1)
        return flow + 2 * every_row
    return flow + 2 * min(objective.bootstrap_fraction, 1 - images) * dynamics_flops(config, frames)


def agent_row_flops(config: Config, frames: int) -> float:
    """Phase 2: the world once, the agent's stream and heads forward and backward, the dynamics loss on its share."""
    objective, dynamics = config.agent_objective, config.dynamics
    share = objective.uniform_share if objective.dynamics_weight > 0 else 0.0
    heads = 3 * frames * head_flops(config.agent, dynamics.trunk, config.env.actions)
    flow = dynamics_row_flops(dynamics, config.dynamics_objective, frames, bootstrap=True)
    return _features_row_flops(config, frames) + heads + share * flow


def event_row_flops(config: Config, frames: int) -> float:
    """`EventClassifier` on each pair of successive frames, forward and backward."""
    return (frames - 1) * _outcome_model_row_flops(config.dynamics.tokens, *event_layers(config.dynamics, config.agent))


def risk_row_flops(config: Config, frames: int) -> float:
    """`RiskModel` on each frame but the last, forward and backward."""
    return (frames - 1) * _outcome_model_row_flops(
        config.dynamics.tokens, *risk_layers(config.dynamics, config.agent, config.env.actions)
    )


def _outcome_model_flops(tokens: int, of_token: Layers, of_all: Layers) -> int:
    return tokens * _flops(of_token) + _flops(of_all)


def _outcome_model_row_flops(tokens: int, of_token: Layers, of_all: Layers) -> int:
    """An outcome model on one step, forward and backward; latents have no gradient."""
    return 3 * _outcome_model_flops(tokens, of_token, of_all) - tokens * _flops(of_token[:1])


def imagination_row_flops(config: Config, dreams: float | None = None) -> float:
    """Phase 3, one row of a step: `dreams` dreams of H frames, then the policy and value heads on H + 1 frames.

    `dreams` is 1 if the step makes new dreams, else 0; by default 1 / `updates`, the mean. A dream is a pass over the
    context, then H frames with a ring cache. Features have no gradient, unless the agent is finetuned: then the prior
    computes the features of each dream once, and the agent in each update.
    """
    agent, dream = config.agent, config.imagination
    trunk, actions = config.dynamics.trunk, config.env.actions
    context, horizon, S = dream.context, dream.horizon, _tokens(config.dynamics)
    total = memory_flops(config.dynamics, context, context) + agent_flops(agent, trunk, S, context)
    ring = min(context + horizon, config.dynamics.context)
    judged = goal_of(agent.goal).predicts_outcomes  # by frames and actions: the other heads are not asked
    layers_of = event_layers(config.dynamics, agent), risk_layers(config.dynamics, agent, actions)
    judging = sum(_outcome_model_flops(config.dynamics.tokens, *part) for part in layers_of)
    total += horizon * (
        generated_frame_flops(config, ring) + (judging if judged else head_flops(agent, trunk, actions))
    )
    layers = head_layers(agent, trunk, actions)
    learning = float(horizon * head_flops(agent, trunk, actions, "policy"))  # the prior
    if config.sampling.support:  # wherever a policy is asked, so is the cloned one
        total += horizon * head_flops(agent, trunk, actions, "policy")
        learning += 2 * horizon * head_flops(agent, trunk, actions, "policy")
    for name, frames in (("policy", horizon), ("value", horizon + 1)):
        first = 2 * layers[name][0][0] * layers[name][0][1] if dream.finetune == "heads" else 0
        learning += frames * (3 * head_flops(agent, trunk, actions, name) - first)
    if dream.finetune == "agent":
        whole = context + horizon
        total += memory_flops(config.dynamics, whole) + agent_flops(agent, trunk, S, whole)
        total += (horizon + 1) * head_flops(agent, trunk, actions) * (not judged)
        learning += _features_row_flops(config, whole)
    return total * (1 / dream.updates if dreams is None else dreams) + learning


def _features_row_flops(config: Config, frames: int) -> int:
    """The features that the heads read, forward and backward.

    The dynamics has a backward pass only if the agent shares its layers, starting at the inputs of its space layers.
    """
    agent, dynamics = config.agent, config.dynamics
    world = memory_flops(dynamics, frames)
    if not agent.own_weights:
        read = replace(dynamics.trunk, depth=dynamics.trunk.layers.rindex("S"))
        world += 2 * trunk_flops(read, frames, _tokens(dynamics)) + _latents(dynamics, frames)
    no_gradient = _task_flops(agent, dynamics.trunk, frames) if goal_of(agent.goal).lists_remaining_tasks else 0
    return world + 3 * agent_flops(agent, dynamics.trunk, _tokens(dynamics), frames) - no_gradient


# --- generation -------------------------------------------------------------------------------------------------------


def generated_frame_flops(config: Config, keys: int | None = None, *, agent: bool = True) -> int:
    """One generated frame: K passes of the dynamics, one that writes it into the cache, then the agent's pass.

    The ring holds `keys` frames, by default `dynamics.context`. Decoding to pixels is `decode_flops`.
    """
    keys = config.dynamics.context if keys is None else keys
    world = config.sampling.k_sample * dynamics_flops(config.dynamics, 1, keys)
    world += memory_flops(config.dynamics, 1, keys)
    if not agent:
        return world
    policy = head_flops(config.agent, config.dynamics.trunk, config.env.actions, "policy")
    return world + agent_flops(config.agent, config.dynamics.trunk, _tokens(config.dynamics), 1, keys) + policy


def _patch_in(config: TokenizerConfig, frame: tuple[int, int], frames: int) -> int:
    return 2 * frames * patches(config, frame) * 3 * config.patch**2 * config.encoder.width


def _latents(config: DynamicsConfig, frames: int) -> int:
    return 2 * frames * config.tokens * config.channels * config.trunk.width


def _tokens(config: DynamicsConfig) -> int:
    return 2 + config.registers + config.tokens
