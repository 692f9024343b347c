"""Agent: what its tokens may see and touch, its losses against numpy and numbers worked out by hand."""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from embody.agent import Agent, AgentLoss, HeadOutputs, PmpoLoss, RiskModel, event_loss, lambda_returns, risk_loss
from embody.agent.losses import targets_ahead
from embody.config import ActionSpec, AgentConfig, Config, ImaginationConfig
from embody.data.goal import _aligned_at_end
from embody.data.sampling.batch import Batch
from embody.dynamics import Dynamics, Prediction, ShortcutLoss
from embody.games.minecraft.presets import minecraft
from embody.nn.distributions import FactoredCategorical
from embody.nn.masked_mean import Reduce, one_process
from embody.nn.noise import GeneratorNoise
from embody.training.agent import AgentStage, EventsStage, RiskStage
from embody.training.encode import encode_dataset
from embody.training.loop import StepContext
from tests.processes import side_by_side
from tests.tiny_models import (
    ACTIONS,
    AGENT,
    BEHAVIOUR,
    CONFIG,
    DYNAMICS,
    FLOW,
    TRUNK,
    make_actions,
    make_agent,
    make_batch,
    make_dataset,
    make_dynamics,
    make_tokenizer,
    open_heads,
    seeded,
)

SHARED = dataclasses.replace(AGENT, own_weights=False)
SHARP = dataclasses.replace(TRUNK, time_query_gain=2.0)
TASK = torch.tensor([[2, 3, 4, 5], [4, 6, 7, 0]])


def look(dynamics: Dynamics, noised: Tensor, cache: Any = None, first_timestep: int = 0) -> Prediction:
    """The world's pass over `noised` `[2, T, 2, 8]` at the context level, with fixed actions."""
    timesteps = slice(first_timestep, first_timestep + noised.shape[1])
    actions = make_actions(2, 8)[:, timesteps]
    level = torch.full(noised.shape[:2], dynamics.context_level)
    d = torch.full_like(level, 1 / DYNAMICS.k_max)
    return dynamics(noised, level, d, actions, torch.zeros_like(level, dtype=torch.bool), cache=cache)


def latents(length: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(2, length, 2, 8, generator=seeded(seed))


def features(agent: Agent, dynamics: Dynamics, noised: Tensor, task: Tensor = TASK) -> Tensor:
    memory = look(dynamics, noised).memory
    return agent(task, memory, noised.shape[1], blocks=dynamics.trunk.blocks)


# --- tokens ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [AGENT, SHARED])
def test_nothing_of_the_world_depends_on_the_agent(config: Any) -> None:
    dynamics, agent = make_dynamics(), make_agent(config)
    prediction = look(dynamics, latents())
    world = [prediction.clean, *prediction.memory.inputs]
    before = [part.detach().clone() for part in world]
    agent(TASK, prediction.memory, 4, blocks=dynamics.trunk.blocks).square().sum().backward(retain_graph=True)
    assert all(torch.equal(part, copy) for part, copy in zip(world, before, strict=True))
    assert agent.token_MD.grad is not None and agent.token_MD.grad.any()
    back = torch.autograd.grad(sum(part.sum() for part in world), list(agent.parameters()), allow_unused=True)
    assert all(gradient is None for gradient in back)
    again = look(dynamics, latents())
    assert torch.equal(again.clean, before[0])


@pytest.mark.parametrize("config", [AGENT, SHARED])
def test_features_depend_on_no_later_frame(config: Any) -> None:
    dynamics, agent, noised = make_dynamics(), make_agent(config), latents().requires_grad_()
    (gradient,) = torch.autograd.grad(features(agent, dynamics, noised)[0, 2].square().sum(), noised)
    assert gradient[0, :3].flatten(1).abs().sum(dim=1).min() > 0
    assert not gradient[0, 3:].any() and not gradient[1].any()


@torch.no_grad()
def test_features_depend_on_the_order_of_the_words() -> None:
    dynamics, agent = make_dynamics(), make_agent()
    one = features(agent, dynamics, latents())
    other = features(agent, dynamics, latents(), TASK[:, [1, 0, 2, 3]])
    assert ((one - other).abs().amax(dim=-1) > 1e-3).all()
    assert one.shape == (2, 4, AGENT.tokens * 16)
    assert not agent.word.weight[0].any()  # padding says nothing


def test_labels_are_read_from_their_end() -> None:
    """A word counts for what it is and for how many follow it: not for how many stand before."""
    agent, world = make_agent(AGENT), make_dynamics()
    one, two = torch.tensor([[5, 6, 0, 0]]).expand(2, -1), torch.tensor([[3, 5, 6, 0]]).expand(2, -1)
    with torch.no_grad():
        agent.word.weight[3] = 0.0  # a word that says nothing
        assert torch.equal(features(agent, world, latents(), one), features(agent, world, latents(), two))
        behind = torch.tensor([[5, 6, 3, 0]]).expand(2, -1)
        assert not torch.equal(features(agent, world, latents(), one), features(agent, world, latents(), behind))
    aligned = _aligned_at_end(torch.tensor([[2, 3, 0, 0], [4, 5, 6, 7], [0, 0, 0, 0]]))
    assert aligned.tolist() == [[0, 0, 2, 3], [4, 5, 6, 7], [0, 0, 0, 0]]


@pytest.mark.parametrize("config", [AGENT, SHARED])
def test_cached_tokens_equal_uncached_ones(config: Any) -> None:
    dynamics, agent, noised = make_dynamics(), make_agent(config), latents(6)
    with torch.no_grad():
        expected = features(agent, dynamics, noised)
        world, own = dynamics.new_cache(2), agent.new_cache(2, DYNAMICS.context)
        found = []
        for start, stop in ((0, 3), (3, 4), (4, 5), (5, 6)):
            memory = look(dynamics, noised[:, start:stop], world, start).memory
            world.commit(stop - start)
            found.append(agent(TASK, memory, stop - start, blocks=dynamics.trunk.blocks, cache=own))
            own.commit(stop - start)
    torch.testing.assert_close(torch.cat(found, dim=1), expected, atol=1e-5, rtol=1e-5)


def test_own_layers_are_the_agents_and_shared_ones_the_worlds() -> None:
    dynamics, own, shared = make_dynamics(), make_agent(), make_agent(SHARED)
    assert not len(shared.blocks)
    own.load_state_dict(shared.state_dict() | {f"blocks.{k}": v for k, v in dynamics.trunk.blocks.state_dict().items()})
    before = features(shared, dynamics, latents())
    torch.testing.assert_close(features(own, dynamics, latents()), before)
    with torch.no_grad():
        own.blocks[0].attention.qkv.weight += 1  # its projections of the world's tokens too
    assert (features(own, dynamics, latents()) - before).abs().max() > 1e-3
    assert torch.equal(features(shared, dynamics, latents()), before)
    gains = [block.attention.q_norm.weight for block in Agent(AGENT, SHARP, ACTIONS).blocks]
    assert [float(gain.detach().mean()) for gain in gains] == [1.0, 2.0, 1.0, 2.0]


@torch.no_grad()
@pytest.mark.parametrize("pattern", ["STST", "SSST"])
def test_shared_layers_run_the_agent_as_part_of_the_world(pattern: str) -> None:
    trunk = dataclasses.replace(TRUNK, pattern=pattern)
    dynamics = make_dynamics(dataclasses.replace(DYNAMICS, trunk=trunk))
    agent = make_agent(SHARED, trunk)
    tokens: list[Tensor] = []
    agent.token_norm.register_forward_hook(lambda _, __, output: tokens.append(output))
    found = features(agent, dynamics, latents())
    world = look(dynamics, latents()).memory.inputs[0]  # the tokens before the first layer
    both, _ = dynamics.trunk(torch.cat((world, tokens[0].expand(-1, 4, -1, -1)), dim=2), first=world.shape[2])
    torch.testing.assert_close(found, agent.norm(both[:, :, world.shape[2] :]).flatten(2), atol=1e-4, rtol=1e-4)


def stage_gradients(config: Config, root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[AgentStage, list[Tensor]]:
    """A step of phase 2 in which the agent's losses alone go backward; also z~, tau and d of the heads' pass."""
    dynamics = make_dynamics(config.dynamics)
    stage = AgentStage(config, [make_dataset(root, [9, 9])], "", dynamics)
    open_heads(stage.model.agent)
    objective = dataclasses.replace(config.agent_objective, dynamics_weight=0.0)
    stage.run_config = dataclasses.replace(config, agent_objective=objective)
    read: list[Tensor] = []
    forward = dynamics.forward

    def noted(z: Tensor, tau: Tensor, d: Tensor, *rest: Any, **others: Any) -> Any:
        read.extend((z, tau, d))
        return forward(z, tau, d, *rest, **others)

    monkeypatch.setattr(dynamics, "forward", noted)
    loss, _ = stage.loss(make_batch(4, 6), StepContext(0, 1, GeneratorNoise(seeded(0))))
    loss.backward()
    return stage, read


@pytest.mark.parametrize("own_weights", [True, False])
def test_agent_losses_reach_the_world_only_if_it_lends_its_weights(
    own_weights: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(CONFIG, agent=dataclasses.replace(AGENT, own_weights=own_weights))
    stage, _ = stage_gradients(config, tmp_path, monkeypatch)
    world = {name: p for name, p in stage.model.dynamics.named_parameters()}
    assert all(p.requires_grad for p in world.values())  # its own loss goes on
    reached = {name for name, p in world.items() if p.grad is not None and p.grad.any()}
    if own_weights:
        assert not reached
    else:
        assert {"action.table.weight", "trunk.blocks.0.attention.qkv.weight", "latent_in.weight"} <= reached
    heads = stage.model.agent.heads
    for head in (heads.policy, heads.reward, heads.value, heads.continues):
        assert head[-1].bias.grad is not None and head[-1].bias.grad.any()


@pytest.mark.parametrize("heads_input", ["noised", "uniform", "alternate", "context"])
def test_heads_read_the_noised_pass_or_the_context_level(
    heads_input: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = dataclasses.replace(BEHAVIOUR, heads_input="context" if heads_input == "context" else "noised")
    contexts: Any = "alternate" if heads_input == "alternate" else "noised"
    draw: Any = "uniform" if heads_input == "uniform" else "partial"
    dynamics = dataclasses.replace(FLOW, tau_power=2.0, contexts=contexts, step_draw=draw)
    config = dataclasses.replace(CONFIG, agent_objective=agent, dynamics_objective=dynamics)
    stage, (noised, tau, d) = stage_gradients(config, tmp_path, monkeypatch)
    level, generator = stage.model.dynamics.context_level, seeded(0)
    steps = torch.full((4, 6), 8.0)  # of rows without bootstrap and of a history alike
    if heads_input == "uniform":  # every step, as in the flow loss
        steps = 2.0 ** (4 * torch.rand(4, 6, generator=generator)).long()
    drawn = torch.full((4, 6), level)
    if heads_input != "context":
        drawn = (steps * torch.rand(4, 6, generator=generator).square()).floor() / steps
    if heads_input == "alternate":  # as the frames that the flow loss holds
        drawn[:, ::2] = level
    torch.testing.assert_close((tau, d), (drawn, 1 / steps), atol=0, rtol=0)
    z = make_batch(4, 6).latents
    assert z is not None
    z, share = z.reshape(4, 6, 2, 8), drawn[..., None, None]
    noise = torch.randn(z.shape, generator=generator)  # of the heads' own pass
    torch.testing.assert_close(noised, (1 - share) * noise + share * z, atol=1e-6, rtol=1e-6)


def test_batches_that_clone_nothing_are_refused(tmp_path: Path) -> None:
    data = [make_dataset(tmp_path, [9, 9])]
    train = dataclasses.replace(CONFIG.train_agent, batch=4, length=4)
    for stage, share, refused in (
        (train, 0.75, None),
        (train, 0.8, "batches of 4 x 4 frames"),
        (dataclasses.replace(train, long_length=16), 0.5, "batches of 1 x 16 frames"),
        (dataclasses.replace(train, long_length=16), 1.0, None),
    ):
        objective = dataclasses.replace(BEHAVIOUR, uniform_share=share)
        config = dataclasses.replace(CONFIG, agent_objective=objective, train_agent=stage)
        if refused is None:
            AgentStage(config, data, "", make_dynamics())
        else:
            with pytest.raises(ValueError, match=f"{refused} no row would be cloned .*: raise it"):
                AgentStage(config, data, "", make_dynamics())


@pytest.mark.parametrize(
    ("share", "misses", "uniform", "others"), [(0.5, 0, 3, 3), (1.0, 0, 5, 0), (0.2, 0.4, 1, 3), (0.9, 0, 5, 5)]
)
def test_the_world_learns_from_uniform_rows_and_the_policy_from_relevant_ones(
    share: float, misses: float, uniform: int, others: int, tmp_path: Path
) -> None:
    """Rows with misses teach neither of them. Where rounding leaves no relevant row, nothing is cloned."""
    objective = dataclasses.replace(BEHAVIOUR, uniform_share=share, miss_share=misses)
    train = dataclasses.replace(CONFIG.train_agent, batch=16)
    config = dataclasses.replace(CONFIG, agent_objective=objective, train_agent=train)
    stage = AgentStage(config, [make_dataset(tmp_path, [9, 9])], "", make_dynamics())
    open_heads(stage.model.agent)
    seen: list[Batch] = []
    loss_of_world = stage.losses["dynamics"]
    loss_of_world.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1]))
    mix = stage.clips().mix
    flags = torch.tensor(mix.bc_rows(5)), torch.tensor(mix.flow_rows(5))
    batch = dataclasses.replace(make_batch(5, 6), bc=flags[0], flow=flags[1])

    def metrics_of(**changes: Tensor) -> Mapping[str, Tensor]:
        return stage.loss(dataclasses.replace(batch, **changes), StepContext(0, 1, GeneratorNoise(seeded(0))))[1]

    plain = metrics_of()
    assert [part.rows for part in seen] == [uniform]  # the share of five, rounded up
    assert torch.equal(seen[0].actions, batch.actions[:uniform]) and seen[0].frames is None
    for row in range(5):
        # The last timestep's action and reward are targets of the timesteps before and inputs of none that counts here.
        actions, rewards = batch.actions.clone(), batch.rewards.clone()
        actions[row, -1] = (actions[row, -1] + 1) % torch.tensor(ACTIONS.sizes)
        rewards[row, -1] = 0.25 if rewards[row, -1] > 0.5 else 0.75
        cloned = metrics_of(actions=actions)["next_action_log_prob"] != plain["next_action_log_prob"]
        assert cloned == (row >= others)
        assert metrics_of(rewards=rewards)["reward"] != plain["reward"]  # rewards are learned on all rows
    assert (stage.losses["agent"].rms["policy"].weight > 0) == (others < 5)  # no loss is averaged where there is none


def test_the_worlds_own_loss_goes_on_with_its_bootstrap(tmp_path: Path) -> None:
    """From the first step of phase 2 on: that of phase 1 is over."""
    of_world = dataclasses.replace(FLOW, bootstrap_fraction=0.5, image_fraction=0.0)
    objective = dataclasses.replace(BEHAVIOUR, dynamics_weight=0.25, heads_input="context")
    config = dataclasses.replace(CONFIG, dynamics_objective=of_world, agent_objective=objective)
    stage = AgentStage(config, [make_dataset(tmp_path, [9, 9])], "", make_dynamics())
    open_heads(stage.model.agent)
    own_rows = torch.arange(8) % 2 == 0  # wherever they stand
    batch = dataclasses.replace(make_batch(8, 6), bc=~own_rows, flow=own_rows)
    loss, metrics = stage.loss(batch, StepContext(0, 1, GeneratorNoise(seeded(0))))
    noise = GeneratorNoise(seeded(0))
    features = stage.model.features(batch, stage.model.context_levels(batch), noise)
    of_agent, _ = AgentLoss(objective)(stage.model.agent.heads, features, batch)
    own, terms = ShortcutLoss(of_world)(stage.model.dynamics, batch.select(own_rows), noise, bootstrap=True)
    assert terms["bootstrap"] > 0
    for name in ("flow", "bootstrap"):
        assert torch.equal(metrics[name], terms[name])
    assert loss.item() == pytest.approx(of_agent.item() + 0.25 * own.item(), rel=1e-6)


def test_without_its_own_loss_the_world_is_frozen(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, agent_objective=dataclasses.replace(BEHAVIOUR, dynamics_weight=0.0))
    stage = AgentStage(config, [make_dataset(tmp_path, [9])], "", make_dynamics())
    assert not any(p.requires_grad for p in stage.model.dynamics.parameters())
    assert [len(group["params"]) for group in stage.parameter_groups()] == [len(list(stage.model.agent.parameters()))]


# --- targets --------------------------------------------------------------------------------------------------------


def test_targets_ahead_by_hand() -> None:
    x = torch.tensor([[0, 1, 2, 3, 4]])
    mask = torch.tensor([[False, True, True, True, False]])  # left-padded, and ended after timestep 3
    target, real = targets_ahead(x, mask, 1, 3)
    assert target[0].tolist() == [[1, 2, 3], [2, 3, 4], [3, 4, 4], [4, 4, 4], [4, 4, 4]]
    no = [False] * 3
    assert real[0].tolist() == [no, [True, True, False], [True, False, False], no, no]
    target, real = targets_ahead(x, mask, 0, 2)
    assert target[0].tolist() == [[0, 1], [1, 2], [2, 3], [3, 4], [4, 4]]
    assert real[0].tolist() == [[False, False], [True, True], [True, True], [True, False], [False, False]]
    vectors, _ = targets_ahead(torch.stack((x, 10 * x), dim=-1), mask, 2, 1)
    assert vectors[0, :, 0].tolist() == [[2, 20], [3, 30], [4, 40], [4, 40], [4, 40]]


def test_lambda_returns_by_hand() -> None:
    rewards, continues = torch.tensor([[9.0, 1.0, 2.0]]), torch.tensor([[9.0, 1.0, 0.5]])
    values = torch.tensor([[7.0, 4.0, 6.0]])
    # R_2 = 6; R_1 = 2 + 0.8 * 0.5 * 6 = 4.4; R_0 = 1 + 0.8 * (0.75 * 4 + 0.25 * 4.4) = 4.28
    found = lambda_returns(rewards, continues, values, gamma=0.8, lambda_=0.25)
    torch.testing.assert_close(found, torch.tensor([[4.28, 4.4]]))


def forward_view(
    r: NDArray[np.float64], c: NDArray[np.float64], v: NDArray[np.float64], gamma: float, lambda_: float
) -> NDArray[np.float64]:
    """The returns of one row as the weighted mean of all n-step returns."""
    T = len(v) - 1
    returns = np.zeros(T)
    for t in range(T):
        discount = np.concatenate([[1.0], np.cumprod(gamma * c[t + 1 :])])
        n_step = [(discount[:n] * r[t + 1 : t + 1 + n]).sum() + discount[n] * v[t + n] for n in range(1, T - t + 1)]
        weights = [(1 - lambda_) * lambda_ ** (n - 1) for n in range(1, T - t)] + [lambda_ ** (T - t - 1)]
        returns[t] = np.dot(weights, n_step)
    return returns


@pytest.mark.parametrize("lambda_", [0.0, 0.9, 1.0])
def test_lambda_returns_are_the_mean_of_n_step_returns(lambda_: float) -> None:
    random = np.random.default_rng(0)
    r, c, v = random.normal(size=(3, 6)), random.uniform(size=(3, 6)), random.normal(size=(3, 6))
    found = lambda_returns(torch.from_numpy(r), torch.from_numpy(c), torch.from_numpy(v), 0.95, lambda_)
    assert found.shape == (3, 5)
    expected = np.stack([forward_view(*row, 0.95, lambda_) for row in zip(r, c, v, strict=True)])
    np.testing.assert_allclose(found, expected, atol=1e-12)


# --- phase 2 --------------------------------------------------------------------------------------------------------


def make_outputs(seed: int = 0) -> HeadOutputs:
    """Random logits for `[3, 5]` timesteps."""
    generator, L = seeded(seed), AGENT.distances

    def normal(*shape: int) -> Tensor:
        return torch.randn(3, 5, *shape, generator=generator)

    return HeadOutputs(normal(L, sum(ACTIONS.sizes)), normal(L, AGENT.bins), normal(AGENT.bins), normal())


class FixedHeads:
    """Heads that always say the same."""

    def __init__(self, out: HeadOutputs, config: AgentConfig = AGENT) -> None:
        self.out, self.config, self.actions, heads = out, config, ACTIONS, make_agent().heads
        self.reward_bins, self.value_bins = heads.reward_bins, heads.value_bins
        self.reward_mean, self.reward_std = torch.zeros(()), torch.ones(())

    def __call__(self, features: Tensor) -> HeadOutputs:
        return self.out


def padded_batch() -> Any:
    """Clips `[3, 5]`: whole; ended by a terminal at timestep 2; left-padded up to timestep 1."""
    batch = make_batch(3, 5)
    batch.mask[1, 3:] = False
    batch.is_terminal[1, 2] = True
    batch.mask[2, :1] = False
    return batch


def evaluate(batch: Any = None, heads: Any = None) -> dict[str, float]:
    batch, heads = batch or padded_batch(), heads or FixedHeads(make_outputs())
    _, metrics = AgentLoss(BEHAVIOUR)(heads, torch.zeros(3, 5, 1), batch)
    return {name: value.item() for name, value in metrics.items()}


def test_agent_loss_by_hand() -> None:
    out, batch = make_outputs(), padded_batch()
    heads = FixedHeads(out)
    policy, reward, following = [], [], []
    for b, t in np.argwhere(batch.mask.numpy()):
        for n in range(AGENT.distances):
            if t + 1 + n < 5 and batch.mask[b, t + 1 + n]:
                parts = out.policy[b, t, n].log_softmax(-1)[:3], out.policy[b, t, n, 3:]
                first = F.cross_entropy(out.policy[b, t, n, :3], batch.actions[b, t + 1 + n, 0])
                second = F.cross_entropy(parts[1], batch.actions[b, t + 1 + n, 1])
                policy.append(float(first + second))
                following += [-policy[-1]] if n == 0 else []
            if t + n < 5 and batch.mask[b, t + n]:
                target = heads.reward_bins.encode(batch.rewards[b, t + n])
                reward.append(float(F.cross_entropy(out.reward[b, t, n], target)))
    real = batch.mask
    value = F.cross_entropy(out.value[real], heads.value_bins.encode(batch.returns[real]))
    going_on = F.binary_cross_entropy(out.continues[real].sigmoid(), (~batch.is_terminal[real]).float())
    expected = {
        "policy": np.mean(policy),
        "reward": np.mean(reward),
        "value": float(value),
        "continue": float(going_on),
        "next_action_log_prob": np.mean(following),
    }
    assert evaluate() == pytest.approx(expected, rel=1e-5)
    losses = AgentLoss(BEHAVIOUR)
    assert losses(heads, torch.zeros(3, 5, 1), batch)[0].item() == pytest.approx(4.0)  # four terms at their own RMS
    for rms in losses.rms.values():
        rms.mean_square.fill_(4.0)
        rms.weight.fill_(1.0)
    total = sum(expected[name] for name in ("policy", "reward", "value", "continue")) / 2
    assert losses.eval()(heads, torch.zeros(3, 5, 1), batch)[0].item() == pytest.approx(total, rel=1e-5)
    losses.objective = dataclasses.replace(BEHAVIOUR, policy_weight=3.0)
    total += 2 * expected["policy"] / 2
    assert losses(heads, torch.zeros(3, 5, 1), batch)[0].item() == pytest.approx(total, rel=1e-5)


def test_the_loss_of_two_processes_is_that_of_all_rows() -> None:
    """The rows of one have fewer real timesteps; gradients, and metrics, are averaged over processes."""
    batch, parts = padded_batch(), (slice(0, 1), slice(1, 3))

    def run(rows: slice, reduce: Reduce = one_process) -> tuple[Tensor, dict[str, Tensor], AgentLoss]:
        out = HeadOutputs(*(logits[rows].clone().requires_grad_() for logits in vars(make_outputs()).values()))
        losses = AgentLoss(BEHAVIOUR)
        own = Batch(**{name: None if x is None else x[rows] for name, x in vars(batch).items()})
        loss, metrics = losses(FixedHeads(out), torch.zeros(own.rows, 5, 1), own, reduce=reduce)
        loss.backward()
        return torch.cat([x.grad.flatten(1) for x in vars(out).values()], dim=1), {"loss": loss, **metrics}, losses

    whole_gradient, whole, whole_losses = run(slice(None))
    both = side_by_side(2, lambda rank, reduce: run(parts[rank], reduce))
    torch.testing.assert_close(torch.cat([gradient for gradient, *_ in both]) / 2, whole_gradient)
    for name, value in whole.items():
        torch.testing.assert_close(sum(metrics[name] for _, metrics, _ in both) / 2, value)
    for _, _, losses in both:
        torch.testing.assert_close(losses.state_dict(), whole_losses.state_dict())
    assert float(sum(run(rows)[1]["value"] for rows in parts) / 2) != pytest.approx(float(whole["value"]), rel=1e-3)


def test_padding_does_not_count() -> None:
    expected, batch = evaluate(), padded_batch()
    hidden = ~batch.mask
    batch.actions[hidden] = 0
    batch.rewards[hidden] = 2.0
    batch.returns[hidden] = 2.0
    batch.is_terminal[hidden] = True
    assert evaluate(batch=batch) == expected
    out = make_outputs()
    for part in (out.policy, out.reward, out.value, out.continues):
        part[hidden] = 3.0
    assert evaluate(heads=FixedHeads(out)) == expected
    batch.rewards[0, 4] += 1  # a real timestep does count
    assert evaluate(batch=batch)["reward"] != expected["reward"]


def test_rewards_can_be_learned_by_squared_error_and_standardised() -> None:
    batch, heads = padded_batch(), FixedHeads(make_outputs())
    squared = FixedHeads(heads.out, dataclasses.replace(AGENT, reward_loss="mse"))
    targets, real = targets_ahead(batch.rewards, batch.mask, 0, AGENT.distances)
    decoded = heads.reward_bins.decode(heads.out.reward)
    expected = float((decoded - targets)[real].square().mean())
    assert evaluate(heads=squared)["reward"] == pytest.approx(expected, rel=1e-5)
    for scaled in (heads, squared):
        scaled.reward_mean, scaled.reward_std = torch.tensor(0.5), torch.tensor(2.0)
    expected = float((decoded - (targets - 0.5) / 2)[real].square().mean())
    assert evaluate(heads=squared)["reward"] == pytest.approx(expected, rel=1e-5)
    expected = float(heads.reward_bins.loss(heads.out.reward, (targets - 0.5) / 2)[real].mean())
    assert evaluate(heads=heads)["reward"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("standardise", [False, True])
def test_rewards_are_standardised_by_those_of_the_training_split(standardise: bool, tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path, [9, 5, 7])
    config = dataclasses.replace(
        CONFIG,
        agent=dataclasses.replace(AGENT, reward_range=(-3.0, 3.0)),
        agent_objective=dataclasses.replace(BEHAVIOUR, standardise_rewards=standardise),
    )
    heads = AgentStage(config, [dataset], "", make_dynamics()).model.agent.heads
    mean, std = (dataset.rewards.mean(), dataset.rewards.std(ddof=1)) if standardise else (0.0, 1.0)
    assert heads.reward_mean.item() == pytest.approx(float(mean), abs=1e-6)
    assert heads.reward_std.item() == pytest.approx(float(std), rel=1e-5)


def test_rewards_and_returns_out_of_range_are_refused(tmp_path: Path) -> None:
    """Their bins would clamp them in silence: 1024 would be learned as 1."""
    dataset = make_dataset(tmp_path, [4, 3], rewards=[0, 2, 0, 1024, 0, -1, 0.5])

    def stage(standardise: bool = False, **ranges: Any) -> AgentStage:
        config = dataclasses.replace(
            CONFIG,
            agent=dataclasses.replace(AGENT, **ranges),
            agent_objective=dataclasses.replace(BEHAVIOUR, standardise_rewards=standardise),
        )
        return AgentStage(config, [dataset], "", make_dynamics())

    # Of the first episode 2 + 0.81 * 1024 = 831.44; then 0.9 * 1024; of the second -1 + 0.9 * 0.5.
    held: dict[str, Any] = {"reward_range": (-1.0, 1024.0), "value_range": (-0.56, 1024.0)}
    stage(**held)
    found = "does not hold the data's rewards, -1 to 1024: set it to -1 1024$"
    for span in ((-1.0, 1.0), (0.0, 1024.0)):
        with pytest.raises(ValueError, match=f"agent.reward_range {span[0]:g} to {span[1]:g} {found}"):
            stage(**{**held, "reward_range": span})
    found = r"does not hold the data's returns \(imagination.gamma 0.9\), -0.55 to 1024: set it to"
    for span, wider in (((-2.0, 831.0), "-2 1024"), ((0.0, 1024.0), "-0.56 1024")):
        with pytest.raises(ValueError, match=rf"agent.value_range {span[0]:g} to {span[1]:g} {found} {wider}$"):
            stage(**{**held, "value_range": span})
    mean, std = dataset.rewards.mean(), dataset.rewards.std(ddof=1)
    ends = ((-1 - mean) / std, (1024 - mean) / std)
    found = f"standardised rewards, {ends[0]:g} to {ends[1]:g}: set it to -0.39 2.27$"
    with pytest.raises(ValueError, match=f"agent.reward_range 0 to 1 does not hold the data's {found}"):
        stage(standardise=True, **{**held, "reward_range": (0.0, 1.0)})
    stage(standardise=True, **{**held, "reward_range": (-0.39, 2.27)})


def test_the_presets_hold_the_rewards_they_expect() -> None:
    """A task's events pay 1, each time: with one in every frame, for ever, returns come to 1 / (1 - gamma)."""
    config = minecraft()
    most = 1 / (1 - config.imagination.gamma)
    assert config.agent.reward_range == (0.0, 1.0)
    assert config.agent.value_range[0] == 0 and most <= config.agent.value_range[1] < most + 1
    always = torch.ones(1, 4001)
    returns = lambda_returns(always, always, torch.full((1, 4001), most), config.imagination.gamma, 0.95)
    assert float(returns.max()) <= config.agent.value_range[1]  # in a dream too


@torch.no_grad()
def test_predicted_rewards_are_in_their_own_units() -> None:
    heads = make_agent().heads
    logits = torch.randn(4, AGENT.bins, generator=seeded(0))
    torch.testing.assert_close(heads.expected_reward(logits), heads.reward_bins.decode_peak(logits))
    heads.reward_mean.fill_(0.5)
    heads.reward_std.fill_(2.0)
    torch.testing.assert_close(heads.expected_reward(logits), 2 * heads.reward_bins.decode_peak(logits) + 0.5)
    squared = make_agent(dataclasses.replace(AGENT, reward_loss="mse")).heads  # which trains the mean, not the peak
    torch.testing.assert_close(squared.expected_reward(logits), squared.reward_bins.decode(logits))


@torch.no_grad()
def test_heads_act_by_the_first_distance() -> None:
    heads = make_agent().heads
    x = torch.randn(2, 3, AGENT.tokens * 16, generator=seeded(0))
    out = heads(x)
    shapes = [tuple(part.shape) for part in (out.policy, out.reward, out.value, out.continues)]
    assert shapes == [(2, 3, 3, 5), (2, 3, 3, 11), (2, 3, 11), (2, 3)]
    actions = make_actions(2, 3)
    expected = FactoredCategorical(out.policy[:, :, 0], ACTIONS).log_prob(actions)
    torch.testing.assert_close(heads.act(x).log_prob(actions), expected)


def test_support_by_hand() -> None:
    """Of `q = (.5, .3, .15, .05)` a support of .2 leaves what has at least .1; the rest is never taken."""
    q, p = (FactoredCategorical(torch.tensor([x]).log(), ActionSpec((4,))) for x in ([0.5, 0.3, 0.15, 0.05], [0.1] * 4))
    within = p.within_support_of(q, 0.2)
    torch.testing.assert_close(within.log_probs[0].exp(), torch.tensor([[1 / 3, 1 / 3, 1 / 3, 0.0]]))
    assert within.entropy().item() == pytest.approx(math.log(3))
    assert within.allows(torch.tensor([[2]])).all() and not within.allows(torch.tensor([[3]])).any()
    assert p.allows(torch.tensor([[3]])).all()
    own = q.within_support_of(q, 0.2)
    kl = sum(1 / 3 * math.log(1 / 3 / (share / 0.95)) for share in (0.5, 0.3, 0.15))
    assert within.kl(own).item() == pytest.approx(kl, rel=1e-5)
    drawn = torch.cat([own.sample(GeneratorNoise(seeded(n))) for n in range(200)])
    assert set(drawn.flatten().tolist()) == {0, 1, 2}
    # At 1 only the likeliest is left; factors are limited each by itself.
    two = ActionSpec((2, 3))
    spread = FactoredCategorical(torch.tensor([0.6, 0.4, 0.2, 0.5, 0.3]).log(), two)
    assert spread.within_support_of(spread, 1.0).sample(GeneratorNoise(seeded(0))).tolist() == [0, 1]
    # What is never taken has no gradient, and does no harm to that of the others.
    logits = torch.zeros(1, 4, requires_grad=True)
    limited = FactoredCategorical(logits, ActionSpec((4,))).within_support_of(q, 0.2)
    (gradient,) = torch.autograd.grad((limited.kl(own) + limited.entropy()).sum(), logits)
    assert gradient.isfinite().all() and gradient[0, 3].abs() < 1e-6 and gradient[0, 0].abs() > 0.1


def test_event_loss_by_hand() -> None:
    """A sum over the tasks that there are, a mean over real steps; the head may know more tasks."""
    logits = torch.zeros(1, 3, 4)
    logits[0, 0, 0], logits[0, 2] = math.log(3), 50.0  # three to one; the last step is not real
    events = torch.tensor([[[True, False], [False, False], [False, False]]])
    mask = torch.tensor([[True, True, False]])
    expected = (math.log(4 / 3) + 3 * math.log(2)) / 2
    assert event_loss(logits, events, mask).item() == pytest.approx(expected)
    assert event_loss(logits, events, torch.zeros_like(mask)) == 0


def test_pairs_hold_their_event_whatever_the_lead_of_clips(tmp_path: Path) -> None:
    config = dataclasses.replace(
        CONFIG,
        agent=dataclasses.replace(AGENT, goal="all"),
        agent_objective=dataclasses.replace(BEHAVIOUR, event_lead=20, uniform_share=0.01, event_rows=64),
        train_agent=dataclasses.replace(CONFIG.train_agent, batch=64),
    )
    dataset = make_dataset(tmp_path, [40], events=[(30, 0)])
    encode_dataset(make_tokenizer(), "abc", dataset)
    stage = EventsStage(AgentStage(config, [dataset], "abc", make_dynamics()))
    batch = next(iter(stage.batches(0)))
    assert batch.length == 2 and batch.events is not None and batch.events[1:].any(dim=(1, 2)).all()


def test_phase_2_learns_what_frames_show(tmp_path: Path) -> None:
    """Its loss is over steps inside labelled episodes, on latents noised as a history is; nothing else learns."""
    config = dataclasses.replace(CONFIG, agent=dataclasses.replace(CONFIG.agent, goal="all"))
    dataset, batch = make_dataset(tmp_path, [9, 9], events=[(2, 0)]), make_batch(4, 6)
    events = torch.rand(4, 6, 3, generator=seeded(1)) < 0.3
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[0, :2], mask[1, 4:] = False, False  # before the first timestep, behind the last
    batch = dataclasses.replace(batch, events=events, mask=mask, labelled=torch.tensor([True, True, True, False]))
    found = {}
    for context_tau in (1.0, 0.75):
        world = make_dynamics(dataclasses.replace(DYNAMICS, context_tau=context_tau))
        before = AgentStage(config, [dataset], "", world)
        assert before.model.events is not None and not any(p.requires_grad for p in before.model.events.parameters())
        stage = EventsStage(before)
        assert stage.model.events is not None and batch.latents is not None
        with torch.no_grad():
            torch.nn.init.normal_(stage.model.events.mlp[-1].weight, generator=seeded(2))
        loss, _ = stage.loss(batch, StepContext(0, 1, GeneratorNoise(seeded(4))))
        loss.backward()
        found[context_tau] = loss.item()
        learns = {name for name, p in stage.model.named_parameters() if p.grad is not None}
        (group,) = stage.parameter_groups()
        assert learns == {f"events.{name}" for name, _ in stage.model.events.named_parameters()}
        assert len(group["params"]) == len(learns)
    z = world.pack(batch.latents)
    logits = stage.model.events(z[:3, :-1], z[:3, 1:])[..., :3]
    each = F.binary_cross_entropy_with_logits(logits, events[:3, 1:].float(), reduction="none").sum(dim=-1)
    real = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    assert found[1.0] == pytest.approx(each[real].mean().item(), rel=1e-5) != found[0.75]


def test_risk_by_hand() -> None:
    """Costs are shares of the greatest; the loss is least where the mean is said, over real steps alone."""
    config = dataclasses.replace(AGENT, reward_range=(-2.0, 1.0))
    risk = RiskModel(DYNAMICS.tokens, DYNAMICS.channels, config, ACTIONS)
    with torch.no_grad():
        risk.mlp[-1].weight.zero_()
        risk.mlp[-1].bias.copy_(torch.tensor([math.log(1 / 3), math.log(1 / 9)]))  # a quarter, a tenth
    before, actions = torch.randn(1, 3, DYNAMICS.tokens, DYNAMICS.channels), torch.zeros(1, 3, 2, dtype=torch.long)
    cost, continues = risk.expected(before, actions)
    torch.testing.assert_close(cost, torch.full((1, 3), 0.5))
    torch.testing.assert_close(continues, torch.full((1, 3), 0.9))
    said, costs = risk(before, actions), torch.tensor([[0.5, 0.0, 1.0]])
    ends, mask = torch.tensor([[False, True, True]]), torch.tensor([[True, True, False]])
    of_costs = -0.5 * math.log(1 / 4) - 0.5 * math.log(3 / 4) - math.log(3 / 4)
    expected = (of_costs - math.log(9 / 10) - math.log(1 / 10)) / 2
    assert risk_loss(said, costs, ends, mask).item() == pytest.approx(expected, rel=1e-5)
    assert risk_loss(said, costs, ends, torch.zeros_like(mask)) == 0
    gains = dataclasses.replace(AGENT, reward_range=(0.0, 1.0))
    no_losses = RiskModel(DYNAMICS.tokens, DYNAMICS.channels, gains, ACTIONS)
    assert (no_losses.expected(before, actions)[0] == 0).all()


def cost_stage(tmp_path: Path, **agent: Any) -> RiskStage:
    recorded = {"goal": "recorded", "reward_range": (-5.0, 1.0), "value_range": (-9.0, 9.0), "tasks": 4, **agent}
    config = dataclasses.replace(CONFIG, agent=dataclasses.replace(CONFIG.agent, **recorded))
    before = AgentStage(
        config, [make_dataset(tmp_path / str(agent), [9], rewards=[0.0] * 9, events=[(2, 0)])], "", make_dynamics()
    )
    assert before.model.risk is not None and not any(p.requires_grad for p in before.model.risk.parameters())
    return RiskStage(before)


def test_the_cost_of_a_step_is_what_its_reward_is_below_what_was_achieved(tmp_path: Path) -> None:
    """By hand: an achievement hides no loss; padding and plain videos say nothing; a gain is no cost."""
    stage, batch = cost_stage(tmp_path), make_batch(3, 4)
    risk = stage.model.risk
    assert risk is not None
    with torch.no_grad():
        risk.mlp[-1].weight.zero_()
        risk.mlp[-1].bias.copy_(torch.tensor([math.log(1 / 3), math.log(1 / 9)]))  # a quarter, a tenth
    left = torch.ones(3, 4, 3, dtype=torch.bool)
    left[0, 2:, 1] = False  # two at once
    left[0, 2:, 2] = False
    rewards = torch.tensor([[9.0, -0.5, 1.0, 0.2], [0.0, -2.0, -8.0, -3.0], [0.0, -5.0, -5.0, -5.0]])
    mask = torch.tensor([[True] * 4, [True, True, True, False], [True] * 4])
    ends = torch.zeros(3, 4, dtype=torch.bool)
    ends[1, 2] = True
    fields = {"task": left, "rewards": rewards, "mask": mask, "is_terminal": ends, "events": left}
    seen = dataclasses.replace(batch, **fields, labelled=torch.tensor([True, True, False]))
    shares = torch.tensor([0.1, 0.2, 0.0, 0.4, 1.0])  # of five; the most that there is
    cost = -(shares * math.log(1 / 4) + (1 - shares) * math.log(3 / 4)).sum().item()
    loss, _ = stage.loss(seen, StepContext(0, 1, GeneratorNoise(seeded(4))))
    assert loss.item() == pytest.approx((cost - 4 * math.log(9 / 10) - math.log(1 / 10)) / 5, rel=1e-5)
    loss.backward()
    learns = {name for name, p in stage.model.named_parameters() if p.grad is not None}
    assert learns == {f"risk.{name}" for name, _ in risk.named_parameters()}
    assert len(stage.parameter_groups()[0]["params"]) == len(learns)
    no_losses = cost_stage(tmp_path, goal="all", reward_range=(0.0, 1.0), value_range=(0.0, 9.0)).model.risk
    assert no_losses is not None and (no_losses.shares(rewards) == 0).all()


def test_rare_costs_come_out_as_often_as_they_are(tmp_path: Path) -> None:
    """Token 1 says danger; there action 1 costs 2.5 each second time, and ends one time in four. All else is noise."""
    stage, batch, random = cost_stage(tmp_path), make_batch(64, 6), seeded(3)
    assert batch.latents is not None and stage.model.risk is not None
    optimizer = torch.optim.AdamW(stage.parameter_groups(), lr=1e-2)
    left = torch.ones(64, 6, 3, dtype=torch.bool)
    for _ in range(150):
        latents, actions = torch.randn(batch.latents.shape, generator=random), batch.actions.clone()
        actions[..., 0] = torch.randint(0, 2, (64, 6), generator=random)
        danger = torch.rand(64, 6, generator=random) < 0.5
        stage.model.dynamics.pack(latents)[:, :, 1] = torch.where(danger, 2.0, -2.0)[..., None]
        risky, chance = danger[:, :-1] & (actions[:, 1:, 0] == 1), torch.rand(64, 5, generator=random)
        rewards, ends = torch.zeros(64, 6), torch.zeros(64, 6, dtype=torch.bool)
        rewards[:, 1:] = -2.5 * (risky & (chance < 0.5))
        ends[:, 1:] = risky & (chance < 0.25)
        fields = {"latents": latents, "actions": actions, "rewards": rewards, "is_terminal": ends}
        loss, _ = stage.loss(
            dataclasses.replace(batch, **fields, task=left, events=left), StepContext(0, 1, GeneratorNoise(random))
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    seen = stage.model.dynamics.pack(latents)[:, :-1], actions[:, 1:]
    with torch.no_grad():
        cost, continues = stage.model.risk.expected(*seen)
        with torch.autocast("cpu", torch.bfloat16):
            rough = stage.model.risk.expected(*seen)
    assert cost[risky].mean().item() == pytest.approx(1.25, abs=0.25) and cost[~risky].mean() < 0.1
    assert continues[risky].mean().item() == pytest.approx(0.75, abs=0.06) and continues[~risky].mean() > 0.98
    # In bfloat16 matrices, but not as bfloat16 numbers: between 0.996 and 1 there are none.
    assert rough[1].dtype == torch.float32 and len(set(rough[1][~risky].tolist())) > 50


def test_risk_learns_from_an_episodes_last_steps_as_from_others(tmp_path: Path) -> None:
    """Of an episode's 39 steps each comes as often, but the first seven; the reward says which timestep is which."""
    ranges = {"reward_range": (-1.0, 40.0), "value_range": (0.0, 900.0)}
    agent = dataclasses.replace(CONFIG.agent, goal="recorded", tasks=4, **ranges)
    objective = dataclasses.replace(BEHAVIOUR, event_rows=64)
    config = dataclasses.replace(CONFIG, agent=agent, agent_objective=objective)
    dataset = make_dataset(tmp_path, [40], rewards=range(40), events=[(2, 0)])
    encode_dataset(make_tokenizer(), "abc", dataset)
    stage, counts = RiskStage(AgentStage(config, [dataset], "abc", make_dynamics())), np.zeros(40)
    for batch in itertools.islice(stage.batches(0), 300):
        assert (batch.rows, batch.length) == (8, 9)
        real = batch.mask[:, 1:] & batch.mask[:, :-1]
        np.add.at(counts, batch.rewards[:, 1:][real].long().numpy(), 1)
    assert counts[0] == 0 and 0 < counts[1] < 0.3 * counts[20]
    assert counts[32:].mean() == pytest.approx(counts[8:32].mean(), rel=0.06)


@torch.no_grad()
def test_each_distance_has_an_output_layer_of_its_own() -> None:
    heads = make_agent().heads
    x = torch.randn(2, 3, AGENT.tokens * 16, generator=seeded(0))
    out = heads(x)
    for head, found, size in ((heads.policy, out.policy, 5), (heads.reward, out.reward, AGENT.bins)):
        last, hidden = head[-1], head[:-1](x)
        torch.nn.init.normal_(last.bias)
        assert found.shape[-2:] == (3, size) and last.weight.shape == (3 * size, AGENT.hidden)
        again = heads(x).policy if head is heads.policy else heads(x).reward
        for n in range(3):
            own = slice(n * size, (n + 1) * size)
            torch.testing.assert_close(again[..., n, :], hidden @ last.weight[own].T + last.bias[own])


# --- phase 3 --------------------------------------------------------------------------------------------------------


def softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


def pmpo(
    logits: NDArray[np.float64],
    prior: NDArray[np.float64],
    actions: NDArray[np.int64],
    advantages: NDArray[np.float64],
    config: ImaginationConfig,
) -> float:
    """The loss over the states that count, `[N, ...]`."""
    good: list[float] = []
    bad: list[float] = []
    kl = []
    for row, prior_row, action, advantage in zip(logits, prior, actions, advantages, strict=True):
        p, q = [softmax(row[:3]), softmax(row[3:])], [softmax(prior_row[:3]), softmax(prior_row[3:])]
        log_p = sum(math.log(part[a]) for part, a in zip(p, action, strict=True))
        (good if advantage >= 0 else bad).append(log_p)
        kl.append(sum((a * np.log(a / b)).sum() for a, b in zip(p, q, strict=True)))
    loss = config.beta * np.mean(kl)
    loss -= config.alpha * np.mean(good) if good else 0
    return float(loss + ((1 - config.alpha) * np.mean(bad) if bad else 0))


@pytest.mark.parametrize("shift", [0.0, 10.0, -10.0])  # both signs, then D- empty, then D+ empty
def test_pmpo_equals_its_equation(shift: float) -> None:
    config = ImaginationConfig(alpha=0.7, beta=0.2)
    generator = seeded(0)
    logits, prior = torch.randn(2, 4, 6, 5, generator=generator).double().unbind()
    advantages = torch.randn(4, 6, generator=generator) + shift
    advantages[0, 0] = max(shift, 0.0)  # nothing gained is not a loss
    mask = torch.rand(4, 6, generator=generator) < 0.7
    mask[0, 0] = True
    actions = make_actions(4, 6)
    loss, metrics = PmpoLoss(config)(
        FactoredCategorical(logits, ACTIONS), FactoredCategorical(prior, ACTIONS), actions, advantages, mask
    )
    real = mask.numpy()
    signs = advantages.numpy()[real]
    expected = pmpo(logits.numpy()[real], prior.numpy()[real], actions.numpy()[real], signs, config)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert metrics["positive"].item() == pytest.approx((signs >= 0).mean())
    # Only the sign of an advantage counts.
    larger, _ = PmpoLoss(config)(
        FactoredCategorical(logits, ACTIONS), FactoredCategorical(prior, ACTIONS), actions, 7 * advantages, mask
    )
    assert torch.equal(larger, loss)


def test_pmpo_leaves_out_what_is_within_the_margin() -> None:
    """Where nothing pays, the sign of what is left is chance: such states have the prior's pull alone."""
    logits, prior = torch.randn(2, 1, 4, 5, generator=seeded(0)).unbind()
    policy, anchor = (FactoredCategorical(x, ACTIONS) for x in (logits, prior))
    advantages = torch.tensor([[0.1, 0.09, -0.1, -0.11]])
    actions, mask = make_actions(1, 4), torch.ones(1, 4, dtype=torch.bool)
    loss, metrics = PmpoLoss(ImaginationConfig(alpha=0.7, beta=0.2, margin=0.1))(
        policy, anchor, actions, advantages, mask
    )
    log_prob = policy.log_prob(actions)[0]
    torch.testing.assert_close(loss, 0.3 * log_prob[3] - 0.7 * log_prob[0] + 0.2 * policy.kl(anchor).mean())
    assert metrics["positive"].item() == pytest.approx(0.25)


def test_pmpo_raises_good_actions_and_lowers_bad_ones() -> None:
    logits = torch.zeros(1, 2, 5, requires_grad=True)
    prior = FactoredCategorical(torch.zeros(1, 2, 5), ACTIONS)
    actions = torch.tensor([[[1, 0], [1, 0]]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    losses = PmpoLoss(ImaginationConfig())
    loss, _ = losses(FactoredCategorical(logits, ACTIONS), prior, actions, torch.tensor([[0.1, -3.0]]), mask)
    (gradient,) = torch.autograd.grad(loss, logits)
    # alpha (1/3 - [a = 1]) for the good state: minus the gradient of alpha ln p
    torch.testing.assert_close(gradient[0, 0, :3], 0.5 * (torch.full((3,), 1 / 3) - torch.tensor([0.0, 1, 0])))
    torch.testing.assert_close(gradient[0, 1], -gradient[0, 0])
    nothing, _ = losses(FactoredCategorical(logits, ACTIONS), prior, actions, torch.ones(1, 2), ~mask)
    assert nothing.item() == 0.0
