"""embody's side, on the peer's shapes: every head has its own keys and values, no row is split into images.

In a session a frame costs K passes: the first also keeps the frame before it (the peer spends K + 1, see there). The
session's last frame is shown but not kept, since no next one needs it; the FLOPs say so.
"""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measure import Unit, autocast
from benchmarks.workloads import WORKLOADS, Precision, Shapes, Workload
from embody.config import (
    ActionSpec,
    AgentConfig,
    Config,
    DynamicsConfig,
    DynamicsObjective,
    EnvConfig,
    ImaginationConfig,
    SamplingConfig,
    TokenizerConfig,
    TokenizerObjective,
    TransformerConfig,
)
from embody.cost.flops import (
    agent_flops,
    decode_flops,
    dynamics_flops,
    dynamics_row_flops,
    encode_flops,
    generated_frame_flops,
    head_flops,
    imagination_row_flops,
    tokenizer_row_flops,
)
from embody.data.sampling.batch import Batch
from embody.dynamics import Dynamics, ShortcutLoss
from embody.games import preset, preset_names
from embody.imagination import Dream, Player
from embody.model import Agent, WorldAndAgent, for_inference
from embody.nn.noise import GeneratorNoise, RowNoise
from embody.nn.transformer import Block
from embody.tokenizer import Tokenizer, TokenizerLoss
from embody.training.imagination import ImaginationStage
from embody.training.loop import StepContext

__all__ = ["answer_flops", "build", "config_of"]

_LONGEST = max(workload.length for workload in WORKLOADS.values() if workload.kind == "interactive")

_DRAWS: dict[str, dict[str, Any]] = {
    "none": dict(bootstrap_fraction=0.0),
    "all": dict(step_draw="uniform"),
    "quarter": dict(step_draw="partial", bootstrap_fraction=0.25),
}


def config_of(workload: Workload, shapes: Shapes) -> Config:
    """The workload's models."""
    s = shapes
    heads = s.width // s.head
    trunk = TransformerConfig(
        width=s.width, depth=s.depth, heads=heads, kv_heads=heads, pattern="SSST", mlp_width=s.mlp
    )
    half = replace(trunk, depth=s.tokenizer_depth)
    return Config(
        env=EnvConfig(height=s.side, width=s.side, actions=ActionSpec((s.actions,))),
        tokenizer=TokenizerConfig(patch=s.patch, latents=s.latents, channels=s.channels, encoder=half, decoder=half),
        tokenizer_objective=TokenizerObjective(lpips="none"),
        dynamics=DynamicsConfig(
            tokens=s.latents,
            channels=s.channels,
            registers=s.registers,
            # Holds the longest session: the peer forgets nothing either, and a frame is to cost the same in all.
            context=_LONGEST + s.frames if workload.kind == "interactive" else workload.length + s.horizon,
            trunk=trunk,
        ),
        dynamics_objective=DynamicsObjective(image_fraction=0.0, unlabelled_fraction=0.0, **_DRAWS[workload.bootstrap]),
        agent=AgentConfig(tokens=1, hidden=s.head_width, distances=1, bins=255),
        sampling=SamplingConfig(k_sample=s.passes),
        imagination=ImaginationConfig(context=workload.length, horizon=s.horizon),
    )


def build(workload: Workload, precision: Precision, shapes: Shapes, compiled: bool = False) -> Unit:
    """The workload on embody's models."""
    torch.manual_seed(0)
    make = {
        "tokenizer": _tokenizer,
        "dynamics": _dynamics,
        "interactive": _interactive,
        "imagination": _imagination,
        "acting": _acting,
    }
    name = workload.name.removeprefix("W5-")
    config = preset(name) if name in preset_names() else config_of(workload, shapes)
    return make[workload.kind](workload, replace(config, compile=compiled), precision, shapes)


def _new_tokenizer(config: Config) -> Tokenizer:
    return Tokenizer(config.tokenizer, config.env.frame)


def _new_world(config: Config) -> Dynamics:
    return Dynamics(config.dynamics, config.env.actions)


def _new_world_and_agent(config: Config) -> WorldAndAgent:
    return WorldAndAgent(_new_world(config), Agent(config.agent, config.dynamics.trunk, config.env.actions))


def _batch(workload: Workload, config: Config, rows: int) -> Batch:
    shape, d = (rows, workload.length), config.dynamics
    no = torch.zeros(shape, dtype=torch.bool)
    return Batch(
        actions=torch.randint(config.env.actions.sizes[0], (*shape, 1)),
        rewards=torch.zeros(shape),
        returns=torch.zeros(shape),
        is_first=no,
        is_terminal=no,
        mask=~no,
        task=torch.zeros(rows, config.agent.words, dtype=torch.long),
        labelled=torch.ones(rows, dtype=torch.bool),
        is_null=no,
        bc=torch.ones(rows, dtype=torch.bool),
        flow=torch.ones(rows, dtype=torch.bool),
        latents=torch.rand(*shape, d.tokens, d.channels) * 2 - 1,
    )


def _adamw(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-4, fused=True)


def _trained(model: nn.Module, config: Config) -> None:
    for block in model.modules():
        if isinstance(block, Block):
            block.compiled = config.compile


# --- training ---------------------------------------------------------------------------------------------------------


def _tokenizer(workload: Workload, config: Config, precision: Precision, shapes: Shapes) -> Unit:
    model, loss = _new_tokenizer(config), TokenizerLoss(config.tokenizer_objective)
    generator = torch.Generator().manual_seed(0)
    _trained(model, config)
    optimizer = _adamw(list(model.parameters()))
    shape = (shapes.rows, workload.length)
    frames = torch.randint(256, (*shape, 3, shapes.side, shapes.side), dtype=torch.uint8)
    mask = torch.ones(shape, dtype=torch.bool)

    def run() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with autocast(precision):
            total, _ = loss(model, frames, mask, GeneratorNoise(generator))
        total.backward()
        optimizer.step()
        return total.detach()

    row = tokenizer_row_flops(config.tokenizer, config.tokenizer_objective, config.env.frame, workload.length)
    return Unit(run, (model,), shapes.rows * row)


def _dynamics(workload: Workload, config: Config, precision: Precision, shapes: Shapes) -> Unit:
    model, loss = _new_world(config), ShortcutLoss(config.dynamics_objective)
    generator = torch.Generator().manual_seed(0)
    _trained(model, config)
    optimizer, batch = _adamw(list(model.parameters())), _batch(workload, config, shapes.rows)
    bootstrap = workload.bootstrap != "none"

    def run() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with autocast(precision):
            total, _ = loss(model, batch, GeneratorNoise(generator), bootstrap=bootstrap)
        total.backward()
        optimizer.step()
        return total.detach()

    row = dynamics_row_flops(config.dynamics, config.dynamics_objective, workload.length, bootstrap=bootstrap)
    return Unit(run, (model,), shapes.rows * row)


# --- generation -------------------------------------------------------------------------------------------------------


def _interactive(workload: Workload, config: Config, precision: Precision, shapes: Shapes) -> Unit:
    tokenizer = for_inference(_new_tokenizer(config), precision=precision, compiled=config.compile)
    dynamics = for_inference(_new_world(config), precision=precision, compiled=config.compile)
    dream = Dream(dynamics, k_sample=shapes.passes, noise=GeneratorNoise(torch.Generator().manual_seed(0)))
    batch = _batch(workload, config, 1)
    context = batch.latents
    assert context is not None
    actions = torch.randint(shapes.actions, (shapes.frames, 1, 1))

    def prepare() -> None:
        dream.reset(context, batch.actions, batch.is_first)

    def run() -> Tensor:
        decoder, frames = tokenizer.decoder_cache(1), []
        with torch.no_grad():
            for action in actions:
                latents, _ = dream.advance(action)
                frames.append(tokenizer.to_pixels(tokenizer.decode(latents[:, None], cache=decoder)))
        return torch.cat(frames, dim=1)

    world = generated_frame_flops(config, agent=False)
    flops = shapes.frames * (world + decode_flops(config.tokenizer, config.env.frame, 1, config.tokenizer.context))
    # But for the last frame, which is not kept.
    return Unit(
        run, (tokenizer, dynamics), flops - dynamics_flops(config.dynamics, 1, config.dynamics.context), prepare
    )


def _imagination(workload: Workload, config: Config, precision: Precision, shapes: Shapes) -> Unit:
    model = _new_world_and_agent(config)
    stage, noise = ImaginationStage(config, [], "", model), RowNoise(0)
    optimizer, batch = _adamw(stage.trained), _batch(workload, config, shapes.dreams)

    def run() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with autocast(precision):
            total, _ = stage.loss(stage.dream(batch, noise), StepContext(0, 1, noise))
        total.backward()
        optimizer.step()
        return total.detach()

    return Unit(run, (model,), shapes.dreams * imagination_row_flops(config))


def _acting(workload: Workload, config: Config, precision: Precision, shapes: Shapes) -> Unit:
    """A frame in, an action out: encoded, kept, read by the agent, drawn from the policy. Latents stay as on disk."""
    tokenizer = for_inference(_new_tokenizer(config), precision="float32", compiled=config.compile)
    model = for_inference(_new_world_and_agent(config), precision=precision, compiled=config.compile)
    player = Player(tokenizer, model, ("", "?"), context=workload.length, sampling=config.sampling)
    shape = (1 + shapes.frames, 1, *config.env.frame, 3)
    frames = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    latencies: list[float] = []

    def run() -> Tensor:
        action = player.act()
        for frame in frames[1:]:
            start = time.perf_counter()
            player.observe(action, frame)
            action = player.act()
            latencies.append(time.perf_counter() - start)
        return torch.from_numpy(action)

    def prepare() -> None:
        player.begin(frames[0], ["?"])

    return Unit(run, (tokenizer, model), shapes.frames * answer_flops(config), prepare, latencies)


def answer_flops(config: Config) -> int:
    """A frame in, an action out: the tokenizer's encoder, one pass of the world, the agent's, and the policy."""
    t, d, agent = config.tokenizer, config.dynamics, config.agent
    world = encode_flops(t, config.env.frame, 1, t.context) + dynamics_flops(d, 1, d.context)
    tokens = 2 + d.registers + d.tokens
    policy = head_flops(agent, d.trunk, config.env.actions, "policy")
    return world + agent_flops(agent, d.trunk, tokens, 1, d.context) + policy
