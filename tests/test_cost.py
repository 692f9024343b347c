"""Formulas of cost against models: parameters exactly, FLOPs as torch counts them, memory as autograd keeps it."""

import dataclasses
import itertools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from embody.agent import Agent
from embody.cli import main
from embody.config import Config, StageConfig, TransformerConfig
from embody.cost.flops import (
    agent_row_flops,
    block_flops,
    decode_flops,
    decoder_row_flops,
    dynamics_flops,
    dynamics_row_flops,
    encode_flops,
    generated_frame_flops,
    head_flops,
    imagination_row_flops,
    tokenizer_row_flops,
)
from embody.cost.lpips import lpips_activations, lpips_row_flops
from embody.cost.memory import (
    agent_activations,
    block_activations,
    resident,
    ring_bytes,
    tokenizer_activations,
    trunk_activations,
)
from embody.cost.parameters import agent_parameters, block_matrices, dynamics_parameters, tokenizer_parameters
from embody.cost.plan import phases
from embody.dynamics import Dynamics, ShortcutLoss
from embody.games.minecraft.presets import minecraft
from embody.games.minigrid.presets import minigrid
from embody.imagination import Dream
from embody.model import WorldAndAgent
from embody.nn.cache import RingCache
from embody.nn.noise import GeneratorNoise
from embody.nn.transformer import Block
from embody.tokenizer import Lpips, Tokenizer, TokenizerLoss
from embody.tokenizer.lpips import LpipsNet
from embody.training.agent import AgentStage, EventsStage, RiskStage
from embody.training.imagination import ImaginationStage
from embody.training.loop import StepContext
from embody.training.optimizers import make_optimizers
from tests.tiny_models import (
    ACTIONS,
    AGENT,
    BEHAVIOUR,
    CONFIG,
    DYNAMICS,
    FLOW,
    FRAME,
    PIXELS,
    SAMPLING,
    TOKENIZER,
    TRUNK,
    make_agent,
    make_batch,
    make_dataset,
    make_dynamics,
    make_lpips_weights,
    seeded,
)

EXACTLY = 1e-9
OWN, SHARED = AGENT, dataclasses.replace(AGENT, own_weights=False)
B, T = 2, 5


def models(config: Config, device: str = "meta") -> tuple[Tokenizer, Dynamics, Agent]:
    with torch.device(device):
        actions = config.env.actions
        agent = Agent(config.agent, config.dynamics.trunk, actions)
        return Tokenizer(config.tokenizer, config.env.frame), Dynamics(config.dynamics, actions), agent


def numbers(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def with_agent(**changes: object) -> Config:
    return dataclasses.replace(CONFIG, agent=dataclasses.replace(AGENT, **changes))


# --- the paper's size -------------------------------------------------------------------------------------------------


def test_the_papers_size_is_laid_out_in_seconds() -> None:
    config = minecraft()
    torch.randn(1, device="meta").normal_()  # torch loads its kernels for the meta device, once
    start = time.perf_counter()
    tokenizer, dynamics, agent = models(config)
    assert time.perf_counter() - start < 10
    assert numbers(tokenizer) == pytest.approx(400e6, rel=0.05)
    assert numbers(dynamics) == pytest.approx(1.6e9, rel=0.05)
    tensors = [*dynamics.parameters(), *tokenizer.buffers(), *dynamics.buffers(), *agent.parameters()]
    assert all(tensor.is_meta for tensor in tensors)


def test_the_papers_sizes_are_those_of_the_paper() -> None:
    config = minecraft()
    t, d, a, flow = config.tokenizer, config.dynamics, config.agent, config.dynamics_objective
    assert (config.env.frame, t.padded, t.patch) == ((360, 640), (384, 640), 16)
    grid = t.grid(config.env.frame)
    assert (grid, math.prod(grid), t.latents, t.channels) == ((24, 40), 960, 512, 16)
    assert (d.tokens, d.channels, d.context, d.k_max, config.sampling.k_sample, d.registers) == (256, 32, 192, 64, 4, 8)
    assert d.trunk.heads == 8 * d.trunk.kv_heads and d.trunk.layers == 9 * "SSST" and d.trunk.soft_cap == 50
    assert (config.train_dynamics.length, config.train_dynamics.long_length) == (64, 256)
    actions = config.env.actions.sizes
    assert len(actions) == 24 and sorted(actions) == [2] * 23 + [121]
    assert (a.distances, a.own_weights, flow.contexts, flow.tau_power, flow.ramp, flow.image_fraction) == (
        *(8, False),
        *("noised", 1, True, 0.3),
    )


# --- parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config", [minigrid(), minecraft(), CONFIG, with_agent(own_weights=False), with_agent(goal="all")]
)
def test_parameters_are_counted_exactly(config: Config) -> None:
    tokenizer, dynamics, agent = models(config)
    actions = config.env.actions
    assert tokenizer_parameters(config.tokenizer, config.env.frame) == numbers(tokenizer)
    assert dynamics_parameters(config.dynamics, actions) == numbers(dynamics)
    assert agent_parameters(config.agent, config.dynamics.trunk, actions) == numbers(agent)
    matrices = [p.numel() for m in dynamics.modules() if isinstance(m, Block) for p in m.parameters() if p.ndim == 2]
    assert config.dynamics.trunk.depth * block_matrices(config.dynamics.trunk) == sum(matrices)


# --- FLOPs ------------------------------------------------------------------------------------------------------------


def counted(work: Callable[[], object]) -> int:
    """FLOPs of `work`; on the CPU, attention is counted only as plain products."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    return counter.get_total_flops()


def world_pass(dynamics: Dynamics, frames: int, cache: RingCache | None = None) -> Tensor:
    config, shape = dynamics.config, (B, frames)
    noised = torch.zeros(*shape, config.tokens, config.channels)
    actions = torch.zeros(*shape, len(dynamics.actions.sizes), dtype=torch.long)
    first = torch.zeros(shape, dtype=torch.bool)
    return dynamics(noised, torch.zeros(shape), torch.full(shape, 0.25), actions, first, cache=cache).clean


def test_a_block_by_hand() -> None:
    trunk = TransformerConfig(width=8, depth=1, heads=4, kv_heads=1, mlp_width=3, pattern="S")
    # 5 tokens: 8 -> 8 + 2 + 2, 8 -> 8, 8 -> 2 * 3, 3 -> 8; 25 pairs of 4 heads of 2 numbers, twice.
    assert block_flops(trunk, 5, 25) == 2 * 5 * (8 * 12 + 8 * 8 + 8 * 6 + 3 * 8) + 2 * (2 * 25 * 4 * 2)


def test_tokenizer_flops() -> None:
    tokenizer, _, _ = models(CONFIG)
    frames = torch.zeros(B, T, 3, *FRAME, dtype=torch.uint8, device="meta")
    latents = torch.zeros(B, T, TOKENIZER.latents, TOKENIZER.channels, device="meta")
    assert counted(lambda: tokenizer.encode(frames)) == B * encode_flops(TOKENIZER, FRAME, T)
    assert counted(lambda: tokenizer.decode(latents)) == B * decode_flops(TOKENIZER, FRAME, T)
    trained = counted(lambda: tokenizer.decode(tokenizer.encode(frames)).sum().backward())
    assert trained == pytest.approx(B * tokenizer_row_flops(TOKENIZER, PIXELS, FRAME, T), rel=EXACTLY)
    tokenizer.freeze_encoder()
    trained = counted(lambda: tokenizer.decode(tokenizer.encode(frames)).sum().backward())
    assert trained == pytest.approx(B * decoder_row_flops(TOKENIZER, PIXELS, FRAME, T), rel=EXACTLY)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_flops_and_activations_of_the_perceptual_loss(net: LpipsNet) -> None:
    frame, objective = (44, 52), dataclasses.replace(PIXELS, lpips=net)  # sides that no pooling divides
    tokenizer, loss = Tokenizer(TOKENIZER, frame), TokenizerLoss(objective, Lpips(net, make_lpips_weights(net)))
    frames = torch.zeros(B, T, 3, *frame, dtype=torch.uint8)

    def step() -> None:
        loss(tokenizer, frames, torch.ones(B, T, dtype=torch.bool), GeneratorNoise(seeded(0)))[0].backward()

    row = tokenizer_row_flops(TOKENIZER, objective, frame, T)
    assert counted(step) == pytest.approx(B * row, rel=EXACTLY)
    assert row > 1.5 * tokenizer_row_flops(TOKENIZER, PIXELS, frame, T)
    images, others = torch.rand(2, B * T, 3, *frame)
    found = kept(lambda: loss.lpips(images.requires_grad_(), others), loss.lpips)
    assert found == pytest.approx(lpips_activations(objective, frame, B * T), rel=0.03)


def test_the_perceptual_loss_of_the_papers_size() -> None:
    """VGG-16 is known for 15.3 billion multiplications an image of 224 x 224, in its convolutions."""
    config = minecraft()
    objective, frame = config.tokenizer_objective, config.env.frame
    assert objective.lpips == "vgg"
    expected = 3 * 2 * 15.35e9 * (360 * 640) / 224**2
    assert lpips_row_flops(objective, frame, 1) == pytest.approx(expected, rel=0.03)
    whole = tokenizer_row_flops(config.tokenizer, objective, frame, 64)
    assert 0.09 < lpips_row_flops(objective, frame, 64) / whole < 0.11  # not to be left out


@pytest.mark.parametrize("soft_cap", [0.0, 50.0])
def test_dynamics_flops(soft_cap: float) -> None:
    config = dataclasses.replace(DYNAMICS, trunk=dataclasses.replace(TRUNK, soft_cap=soft_cap))
    dynamics = Dynamics(config, ACTIONS)
    assert counted(lambda: world_pass(dynamics, T)) == B * dynamics_flops(config, T)
    cache = dynamics.new_cache(B)
    cache.commit(3 * config.context)  # full
    assert counted(lambda: world_pass(dynamics, 1, cache)) == B * dynamics_flops(config, 1, keys=config.context)


@pytest.mark.parametrize("bootstrap", [False, True])
@pytest.mark.parametrize("draw", ["partial", "uniform"])
def test_flops_of_a_row_of_dynamics_training(draw: Any, bootstrap: bool) -> None:
    # Whole rows of 10.
    objective = dataclasses.replace(FLOW, image_fraction=0.3, bootstrap_fraction=0.2, step_draw=draw)
    dynamics, loss, batch = make_dynamics(), ShortcutLoss(objective), make_batch(10, T)

    def step() -> None:
        loss(dynamics, batch, GeneratorNoise(seeded(0)), bootstrap=bootstrap)[0].backward()

    row = dynamics_row_flops(DYNAMICS, objective, T, bootstrap=bootstrap)
    assert counted(step) == pytest.approx(10 * row, rel=EXACTLY)


@pytest.mark.parametrize(("own_weights", "goal"), [(True, "one"), (False, "one"), (True, "all")])
def test_flops_of_a_row_of_agent_training(own_weights: bool, goal: Any) -> None:
    flow = dataclasses.replace(FLOW, image_fraction=0.25, bootstrap_fraction=0.25)
    config = dataclasses.replace(with_agent(own_weights=own_weights, goal=goal), dynamics_objective=flow)
    _, dynamics, agent = models(config, "cpu")
    batch, rows = make_batch(8, T), make_batch(4, T)
    if goal != "one":
        batch = dataclasses.replace(batch, task=torch.ones(8, T, 3, dtype=torch.bool))
    assert batch.latents is not None and config.agent_objective.uniform_share == 0.5

    def step() -> None:
        shape = (8, T)
        with torch.set_grad_enabled(not own_weights):
            seen = dynamics.pack(batch.latents), torch.zeros(shape), torch.full(shape, 0.25)
            memory = dynamics(*seen, batch.actions, batch.is_first, memory_only=True).memory
        out = agent.heads(agent(batch.task, memory, T, blocks=dynamics.trunk.blocks))
        total = out.policy.sum() + out.reward.sum() + out.value.sum() + out.continues.sum()
        total = total + ShortcutLoss(flow)(dynamics, rows, GeneratorNoise(seeded(0)), bootstrap=True)[0]
        total.backward()

    assert counted(step) == pytest.approx(8 * agent_row_flops(config, T), rel=EXACTLY)


@pytest.mark.parametrize("kind", [EventsStage, RiskStage])
def test_flops_of_a_row_of_the_outcome_models(kind: type[EventsStage | RiskStage], tmp_path: Path) -> None:
    config = with_agent(goal="all")
    before = AgentStage(config, [make_dataset(tmp_path, [9, 9], events=[(2, 0)])], "", make_dynamics())
    stage, left = kind(before), torch.ones(8, T, 3, dtype=torch.bool)
    batch = dataclasses.replace(make_batch(8, T), task=left, events=torch.zeros_like(left))
    found = counted(lambda: stage.loss(batch, StepContext(0, 1, GeneratorNoise(seeded(0))))[0].backward())
    assert found == pytest.approx(8 * stage.row_flops(T, StepContext(0, 1, GeneratorNoise(seeded(0)))), rel=EXACTLY)


def test_flops_of_a_generated_frame_and_of_a_dream() -> None:
    _, dynamics, agent = models(CONFIG, "cpu")
    horizon, context = 7, CONFIG.imagination.context
    config = dataclasses.replace(
        CONFIG, imagination=dataclasses.replace(CONFIG.imagination, horizon=horizon, updates=2)
    )
    batch, prior = make_batch(B, context), make_agent().heads.policy
    dream = Dream(WorldAndAgent(dynamics, agent), k_sample=SAMPLING.k_sample, noise=GeneratorNoise(seeded(0)))
    assert batch.latents is not None and context + horizon > DYNAMICS.context  # the ring fills on the way
    features: list[Tensor] = []

    def begin() -> None:
        features.append(dream.reset(batch.latents, batch.actions, batch.is_first, batch.task)[:, -1])

    def step() -> None:
        with torch.no_grad():
            action = agent.heads.act(features[-1]).sample(GeneratorNoise(seeded(0)))
        features.append(dream.step(action).features)

    def learn() -> None:
        seen = torch.stack(features, dim=1)
        with torch.no_grad():
            prior(seen[:, 1:])
        (agent.heads.policy(seen[:, 1:]).sum() + agent.heads.value(seen).sum()).backward()

    dreaming = counted(begin) + sum(counted(step) for _ in range(horizon))
    learning = counted(learn)
    for dreams, flops in ((None, dreaming / 2), (1.0, dreaming), (0.0, 0)):
        assert flops + learning == pytest.approx(B * imagination_row_flops(config, dreams), rel=EXACTLY)
    # A full ring; the heads that say what a dream's step brought are no part of the frame.
    others = head_flops(AGENT, TRUNK, ACTIONS)
    assert counted(step) == B * (generated_frame_flops(CONFIG) + others)
    alone = Dream(dynamics, k_sample=SAMPLING.k_sample, noise=GeneratorNoise(seeded(0)))
    with torch.no_grad():
        alone.reset(batch.latents, batch.actions, batch.is_first)
        for _ in range(horizon):
            alone.step(batch.actions[:, 0])
    assert counted(lambda: alone.step(batch.actions[:, 0])) == B * generated_frame_flops(CONFIG, agent=False)


@pytest.mark.parametrize(
    ("finetune", "agent"),
    [("heads", {}), ("agent", {}), ("agent", {"own_weights": False}), ("heads", {"goal": "all"})],
)
def test_flops_of_a_step_of_imagination(finetune: Any, agent: dict[str, Any], tmp_path: Path) -> None:
    dream = dataclasses.replace(CONFIG.imagination, finetune=finetune)
    sampling = dataclasses.replace(SAMPLING, support=0.1 if agent.get("goal") == "all" else 0.0)
    config = dataclasses.replace(with_agent(**agent), imagination=dream, sampling=sampling)
    model = WorldAndAgent(make_dynamics(), make_agent(config.agent))
    stage = ImaginationStage(config, [make_dataset(tmp_path, [9, 9], events=[(2, 0)])], "", model)
    learnt = sum(parameter.numel() for parameter in stage.trained)
    state = phases(config)[3].state
    assert state.gradients == 4 * learnt and state.weights == 4 * (numbers(model) + learnt)
    of_the_prior = {id(p) for p in stage.prior.parameters()} - {id(p) for p in model.parameters()}
    assert sum(p.numel() for p in stage.prior.parameters() if id(p) in of_the_prior) == learnt

    def step() -> None:
        batch = make_batch(B, dream.context)
        if model.events is not None:
            batch = dataclasses.replace(batch, task=torch.ones(B, dream.context, 3, dtype=torch.bool))
        noise = GeneratorNoise(seeded(0))
        stage.loss(stage.dream(batch, noise), StepContext(0, 1, noise))[0].backward()

    assert counted(step) == pytest.approx(B * imagination_row_flops(config), rel=EXACTLY)


def test_a_large_model_costs_six_flops_a_parameter_and_token() -> None:
    config = minecraft()
    tokens = 64 * 266
    attention = 3 * 4 * 2048 * (27 * 64 * 266**2 + 9 * 266 * 64**2)
    expected = 6 * dynamics_parameters(config.dynamics, config.env.actions) * tokens + attention
    whole = dataclasses.replace(config.dynamics_objective, image_fraction=0.0)
    assert dynamics_row_flops(config.dynamics, whole, 64, bootstrap=False) == pytest.approx(expected, rel=0.01)


# --- memory -----------------------------------------------------------------------------------------------------------

SMALL = TransformerConfig(width=64, depth=4, heads=8, kv_heads=1, mlp_width=176)


def kept(work: Callable[[], object], *models: nn.Module) -> int:
    """Bytes that autograd keeps for the backward pass of `work`, each storage once, parameters and buffers not."""
    known = {t.untyped_storage().data_ptr() for m in models for t in (*m.parameters(), *m.buffers())}
    found: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = work()
    del result
    return sum(storage.nbytes() for storage in found.values())


def test_activations_of_training_as_autograd_keeps_them() -> None:
    world = dataclasses.replace(DYNAMICS, tokens=12, channels=8, trunk=SMALL)
    pixels, frame = dataclasses.replace(TOKENIZER, latents=12, encoder=SMALL, decoder=SMALL), (32, 48)
    tokenizer, dynamics, agent = Tokenizer(pixels, frame), Dynamics(world, ACTIONS), Agent(AGENT, SMALL, ACTIONS)
    frames = torch.zeros(B, T, 3, *frame, dtype=torch.uint8)
    found = kept(lambda: tokenizer.decode(tokenizer.encode(frames)), tokenizer)
    assert found == pytest.approx(B * tokenizer_activations(pixels, PIXELS, frame, T, p=4), rel=0.15)
    found = kept(lambda: world_pass(dynamics, T), dynamics)
    assert found == pytest.approx(trunk_activations(SMALL, B * T * dynamics.tokens, p=4), rel=0.15)
    with torch.no_grad():
        batch = make_batch(B, T)
        z = torch.zeros(B, T, 12, 8)
        memory = dynamics(z, torch.zeros(B, T), torch.full((B, T), 0.25), batch.actions, batch.is_first).memory
    found = kept(lambda: agent(batch.task, memory, T, blocks=()), agent)
    found += sum(x.untyped_storage().nbytes() for x in memory.inputs)
    assert found == pytest.approx(B * agent_activations(AGENT, SMALL, dynamics.tokens, T, p=4), rel=0.15)


def test_activations_of_recomputed_blocks_as_autograd_keeps_them() -> None:
    """Between the passes each block's input; the one block that is then computed anew is in the test above."""
    deep = dataclasses.replace(SMALL, depth=16)  # so that what comes before and after the blocks is little
    world = dataclasses.replace(DYNAMICS, tokens=12, channels=8, trunk=deep)
    pixels, frame = dataclasses.replace(TOKENIZER, latents=12, encoder=deep, decoder=deep), (32, 48)
    tokenizer, dynamics, agent = Tokenizer(pixels, frame), Dynamics(world, ACTIONS), Agent(AGENT, deep, ACTIONS)
    for block in [m for model in (tokenizer, dynamics, agent) for m in model.modules() if isinstance(m, Block)]:
        block.recompute = True
    one, S, M = block_activations(deep, p=4), dynamics.tokens, AGENT.tokens
    found = kept(lambda: world_pass(dynamics, T), dynamics)
    expected = trunk_activations(deep, B * T * S, p=4, recompute=True) - B * T * S * one
    assert found == pytest.approx(expected, rel=0.15)
    frames = torch.zeros(B, T, 3, *frame, dtype=torch.uint8)
    found = kept(lambda: tokenizer.decode(tokenizer.encode(frames)), tokenizer)
    expected = B * tokenizer_activations(pixels, PIXELS, frame, T, p=4, recompute=True) - 2 * B * T * (96 + 12) * one
    assert found == pytest.approx(expected, rel=0.15)
    with torch.no_grad():
        batch = make_batch(B, T)
        z = torch.zeros(B, T, 12, 8)
        memory = dynamics(z, torch.zeros(B, T), torch.full((B, T), 0.25), batch.actions, batch.is_first).memory
    found = kept(lambda: agent(batch.task, memory, T, blocks=()), agent)
    read = 4 * (2 * 64 + 3 * 8)  # a token of the world before and after its norm, its key, value and rotated key
    expected = B * agent_activations(AGENT, deep, S, T, p=4, recompute=True) - B * T * (M * one + S * read)
    assert len(memory.inputs) == 12 and found == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("muon_lr", [0.0, 1e-2])
def test_optimiser_state_as_the_loop_makes_it(muon_lr: float) -> None:
    dynamics, config = make_dynamics(), StageConfig(muon_lr=muon_lr)
    groups = [{"params": list(dynamics.parameters())}]
    state = 0
    for optimizer in make_optimizers(config, dynamics, groups):
        for parameter in dynamics.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        tensors = (t for values in optimizer.state.values() for t in values.values() if isinstance(t, Tensor))
        state += sum(t.nbytes for t in tensors if t.ndim)
    n, matrices = dynamics_parameters(DYNAMICS, ACTIONS), TRUNK.depth * block_matrices(TRUNK)
    expected = resident(config, held=n, trained=n, matrices=matrices)
    assert expected.optimiser == state
    weights = sum(p.nbytes for p in dynamics.parameters())
    assert (expected.weights, expected.gradients, expected.average) == (weights, weights, weights)
    assert expected.total == 3 * weights + state


def test_rings_of_a_dream() -> None:
    cache = make_dynamics().new_cache(rows=3)
    assert 3 * ring_bytes(TRUNK, cache.tokens, cache.context, p=4) == sum(ring.nbytes for ring in (*cache.k, *cache.v))


# --- the table --------------------------------------------------------------------------------------------------------


def table(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, list[float]]:
    """The numbers of each row of `embody plan`."""
    main(["plan", *arguments])
    rows = {}
    for line in capsys.readouterr().out.splitlines():
        words = line.split("  ")
        if line.startswith("  ") and line.split()[-1].replace(",", "").replace(".", "").replace("e+", "").isdigit():
            name, *values = [word.strip() for word in words if word.strip()]
            rows.setdefault(name, []).extend(float(value.replace(",", "")) for value in values)
    return rows


def test_the_plan_of_the_papers_size(capsys: pytest.CaptureFixture[str]) -> None:
    config = minecraft()
    world, flow, actions = config.dynamics, config.dynamics_objective, config.env.actions
    tokenizer, dynamics, agent, _ = phases(config)
    rows = table(capsys, "minecraft", "--gpus", "64", "--frames", "2e9", "--mfu", "0.5", "--peak-tflops", "1000")
    # Millions, then TFLOP a frame and days.
    assert rows["dynamics"][0] == pytest.approx(1587, abs=1) and rows["tokenizer"][0] == pytest.approx(403, abs=1)
    assert rows["dynamics"][-1] == pytest.approx(2e9 * rows["dynamics"][-2] / (64 * 500) / 86400, rel=1e-3)
    # Three short batches and a long one; no bootstrap for the first 30% of the steps.
    mean = sum(
        share * steps * dynamics_row_flops(world, flow, T, bootstrap=bootstrap) / T
        for T, share in ((64, 0.75), (256, 0.25))
        for bootstrap, steps in ((False, 0.3), (True, 0.7))
    )
    assert rows["dynamics"][-2] == pytest.approx(mean / 1e12, rel=1e-3)
    assert rows["dynamics, with bootstrap"] == pytest.approx(
        [n * dynamics_row_flops(world, flow, T, bootstrap=True) / 1e15 for n, T in ((256, 64), (64, 256))], rel=1e-3
    )
    # Weights, gradients and the average are 4 bytes a number, Adam's state 8; what is kept is 4 rows, or 1 long one.
    gib = 2**30
    assert rows["weights"][1] == pytest.approx(4 * dynamics_parameters(world, actions) / gib, rel=1e-3)
    assert rows["optimiser state"] == pytest.approx([2 * value for value in rows["gradients"]], rel=1e-3)
    assert rows["activations or caches, short batch"][1] == pytest.approx(4 * dynamics.row_bytes(64) / gib, rel=1e-3)
    assert rows["activations or caches, long batch"][1] == pytest.approx(dynamics.row_bytes(256) / gib, rel=1e-3)
    state = [rows[name][1] for name in ("weights", "gradients", "optimiser state", "EMA")]
    rest = rows["16-bit copies of weights"][1] + rows["activations or caches, long batch"][1]
    assert rows["all, nothing sharded"][1] == pytest.approx(sum(state) + rest, rel=1e-3)
    assert rows["all, the first four sharded over 64"][1] == pytest.approx(sum(state) / 64 + rest, rel=1e-3)
    # Frozen, or shared with the agent: what phase 2 trains.
    n = agent_parameters(config.agent, world.trunk, actions)
    assert agent.state.gradients == 4 * (n + dynamics_parameters(world, actions))


def test_the_bytes_of_the_papers_size_by_hand() -> None:
    config = minecraft()
    tokenizer, dynamics, agent, imagination = phases(config)
    # 16-bit copies: queries, keys and values, their output, three matrices of the MLP.
    world = 36 * (2048 * (16 + 2 + 2) * 128 + 2048 * 2048 + 3 * 2048 * 5632)
    halves = 2 * 16 * (1024 * 3 * 16 * 64 + 1024 * 1024 + 3 * 1024 * 2688)
    assert (tokenizer.copies, dynamics.copies) == (2 * halves, 2 * world)
    assert agent.copies == imagination.copies == 2 * world  # the world's layers are the agent's
    own = dataclasses.replace(config, agent=dataclasses.replace(config.agent, own_weights=True))
    assert [phase.copies for phase in phases(own)[2:]] == [4 * world, 4 * world]
    assert not any(phase.copies for phase in phases(dataclasses.replace(config, precision="float32")))
    # A token in the world's blocks: the input of each, one of them whole, and the last norm's input. The stream and its
    # norm, twice; queries, keys and values, those normalised in float32, turned; attention's output and sums; the MLP.
    block = 2 * (4 + 2) * 2048 + 2 * 2560 + 4 * 2304 + 2 * 2304 + 2 * 2048 + 4 * 16 + 4 * 2 * 5632
    token = 36 * 4 * 2048 + block + 4 * 2048
    S = 1 + 1 + 8 + 256
    assert dynamics.row_bytes(256) == 256 * S * token
    plain = phases(dataclasses.replace(config, recompute=False))[1]
    assert plain.row_bytes(256) == 256 * S * (36 * block + 4 * 2048)
    assert 211.5 < plain.row_bytes(256) / 2**30 < 212.5  # what the preset says
    # Half of the rows for the world's own loss, and all of them under the heads. Its tokens are read by one layer at a
    # time: before their norm and after it, keys and values, keys in float32 and turned.
    read = 4 * 2048 + 2 * 2048 + 2 * 512 + 4 * 256 + 2 * 256
    lived = 4 * token + S * read  # a frame of the agent's stream
    assert agent.row_bytes(64) == 64 * lived + 1.5 * dynamics.row_bytes(64)
    # The tokenizer: both halves, pixels in and out, and VGG-16 on the decoded image.
    block = 2 * (4 + 2) * 1024 + 2 * 3072 + 4 * 2048 + 2 * 2048 + 2 * 1024 + 4 * 16 + 4 * 2 * 2688
    both = 2 * (960 + 512) * (16 * 4 * 1024 + block + 4 * 1024) + 2 * 960 * (768 + 1024)
    stages = ((2, 64, 360 * 640), (2, 128, 180 * 320), (3, 256, 90 * 160), (3, 512, 45 * 80), (3, 512, 22 * 40))
    lpips = 4 * 3 * 360 * 640 + sum(n * 4 * C * pixels + 4 * (C + 1) * pixels for n, C, pixels in stages)
    lpips += sum(12 * C * pixels for (_, C, _), (_, _, pixels) in itertools.pairwise(stages))
    assert tokenizer.row_bytes(64) == 64 * (both + lpips)
    # A dream: keys and values of 9 layers for the world's tokens and the agent's 4.
    ring = 2 * 2 * 9 * (S + 4) * 2 * 128
    assert imagination.row_bytes(16) == 192 * ring
    short = dataclasses.replace(config.imagination, context=100)
    assert phases(dataclasses.replace(config, imagination=short))[3].row_bytes(16) == 116 * ring
    # Relived by an agent that learns, in recomputed blocks as training has them.
    relived = dataclasses.replace(config, imagination=dataclasses.replace(short, finetune="agent"))
    assert phases(relived)[3].row_bytes(16) == 116 * (lived + S * token)


def test_a_frozen_world_has_no_gradients_and_no_activations() -> None:
    own = with_agent(own_weights=True)
    alone = dataclasses.replace(own, agent_objective=dataclasses.replace(BEHAVIOUR, dynamics_weight=0.0))
    frozen, both = phases(alone)[2], phases(own)[2]
    world = dynamics_parameters(DYNAMICS, ACTIONS)
    assert both.state.gradients - frozen.state.gradients == 4 * world and frozen.state.weights == both.state.weights
    share = BEHAVIOUR.uniform_share * trunk_activations(TRUNK, 4 * (4 + DYNAMICS.tokens), p=2)
    assert both.row_bytes(4) - frozen.row_bytes(4) == share
