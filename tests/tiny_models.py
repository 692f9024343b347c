"""Models, batches and datasets small enough for a test to recompute their results."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from embody.agent import Agent
from embody.config import (
    ActionSpec,
    AgentConfig,
    AgentObjective,
    Config,
    DynamicsConfig,
    DynamicsObjective,
    EnvConfig,
    EvaluationConfig,
    ImaginationConfig,
    SamplingConfig,
    StageConfig,
    TokenizerConfig,
    TokenizerObjective,
    TransformerConfig,
)
from embody.data import EVERY_TASK, Dataset, DatasetWriter, Episode, Meta, open_dataset
from embody.data.sampling.batch import Batch
from embody.dynamics import Dynamics
from embody.nn.transformer import Block
from embody.tokenizer import Tokenizer
from embody.tokenizer.lpips import LPIPS_NETS, LpipsNet

TASK = "tiny"
ACTIONS = ActionSpec((3, 2))
VOCABULARY = ("<pad>", "<unknown>", "go", "to", "the", "red", "blue", "door")

TRUNK = TransformerConfig(width=16, depth=4, heads=4, kv_heads=2, pattern="STST", mlp_width=24)
# With a single time layer a ring that drops frames equals attention over the frames it still holds.
ONE_TIME_LAYER = dataclasses.replace(TRUNK, pattern="STSS")
SMALL = dataclasses.replace(TRUNK, depth=2, pattern="ST")

FRAME = (8, 12)
TOKENIZER = TokenizerConfig(patch=4, latents=4, channels=4, context=3, encoder=SMALL, decoder=SMALL)
PIXELS = TokenizerObjective(lpips="none")
DYNAMICS = DynamicsConfig(tokens=2, channels=8, registers=2, context=8, trunk=TRUNK, k_max=8)
FLOW = DynamicsObjective()
SAMPLING = SamplingConfig(k_sample=4)
AGENT = AgentConfig(
    tokens=2,
    vocabulary=len(VOCABULARY),
    words=4,
    word_width=4,
    hidden=16,
    event_hidden=16,
    distances=3,
    bins=11,
    reward_range=(-4.0, 4.0),
    value_range=(-8.0, 8.0),
)
BEHAVIOUR = AgentObjective(event_steps=3, event_rows=4, risk_steps=3)
STAGE = StageConfig(batch=4, length=4, checkpoint_every=100, log_every=1)
CONFIG = Config(
    env=EnvConfig(tasks=(TASK,), max_steps=(9,), height=FRAME[0], width=FRAME[1], actions=ACTIONS),
    tokenizer=TOKENIZER,
    tokenizer_objective=PIXELS,
    dynamics=DYNAMICS,
    dynamics_objective=FLOW,
    agent=AGENT,
    agent_objective=BEHAVIOUR,
    sampling=SAMPLING,
    imagination=ImaginationConfig(context=3, horizon=4, gamma=0.9),
    evaluation=EvaluationConfig(context=3),
    train_agent=STAGE,
    train_imagination=STAGE,
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_tokenizer(config: TokenizerConfig = TOKENIZER, frame: tuple[int, int] = FRAME) -> Tokenizer:
    torch.manual_seed(0)
    tokenizer = Tokenizer(config, frame)
    open_layers(tokenizer)
    return tokenizer.eval()


def make_dynamics(config: DynamicsConfig = DYNAMICS) -> Dynamics:
    torch.manual_seed(1)
    dynamics = Dynamics(config, ACTIONS)
    open_layers(dynamics)
    nn.init.normal_(dynamics.latent_out.weight, std=0.3)
    return dynamics


def make_agent(config: AgentConfig = AGENT, trunk: TransformerConfig = TRUNK) -> Agent:
    torch.manual_seed(2)
    agent = Agent(config, trunk, ACTIONS)
    open_layers(agent)
    open_heads(agent)
    return agent


def open_layers(model: nn.Module) -> None:
    """Scale up the layers' outputs, which are near 0 at first, as if the model had been trained."""
    for block in model.modules():
        if isinstance(block, Block):
            for out in (block.attention.out, block.mlp.out):
                nn.init.normal_(out.weight, std=out.in_features**-0.5)


def open_heads(agent: Agent) -> None:
    """Make output layers random, which are 0 at first, so that predictions depend on the features."""
    torch.manual_seed(3)
    for head in (agent.heads.policy, agent.heads.reward, agent.heads.value, agent.heads.continues):
        nn.init.normal_(head[-1].weight, std=0.5)


def make_lpips_weights(net: LpipsNet) -> dict[str, Tensor]:
    """Random weights with which features neither vanish nor explode, and every layer matters."""
    generator, weights, width, heads = seeded(0), {}, 3, 0
    for i, conv in enumerate(LPIPS_NETS[net]):
        shape = (conv.width, width, conv.kernel, conv.kernel)
        weights[f"conv{i}_weight"] = torch.randn(shape, generator=generator) * (2 / (width * conv.kernel**2)) ** 0.5
        weights[f"conv{i}_bias"] = 0.1 * torch.randn(conv.width, generator=generator)
        if conv.read:
            weights[f"head{heads}"] = torch.rand(conv.width, generator=generator)
            heads += 1
        width = conv.width
    return weights


def make_frames(rows: int, length: int, seed: int = 0) -> Tensor:
    """uint8 `[B, T, 3, 8, 12]`, all pixels random."""
    return torch.randint(0, 256, (rows, length, 3, 8, 12), generator=seeded(seed), dtype=torch.uint8)


def make_actions(*shape: int, seed: int = 0) -> Tensor:
    """int64 `[*shape, A]`."""
    generator = seeded(seed)
    return torch.stack([torch.randint(0, size, shape, generator=generator) for size in ACTIONS.sizes], dim=-1)


def make_batch(rows: int, length: int, seed: int = 0) -> Batch:
    """Clips from the middle of episodes: without first timesteps, terminals and padding."""
    generator = seeded(seed)
    no = torch.zeros(rows, length, dtype=torch.bool)
    return Batch(
        actions=make_actions(rows, length, seed=seed),
        rewards=torch.randn(rows, length, generator=generator),
        returns=torch.randn(rows, length, generator=generator),
        is_first=no,
        is_terminal=no.clone(),
        mask=~no,
        task=torch.randint(2, len(VOCABULARY), (rows, AGENT.words), generator=generator),
        labelled=torch.ones(rows, dtype=torch.bool),
        is_null=no.clone(),
        bc=torch.ones(rows, dtype=torch.bool),
        flow=torch.ones(rows, dtype=torch.bool),
        latents=torch.randn(rows, length, TOKENIZER.latents, TOKENIZER.channels, generator=generator),
    )


def make_dataset(
    root: Path,
    lengths: list[int],
    split: Literal["train", "validation"] = "train",
    rewards: Sequence[float] | None = None,
    events: Sequence[tuple[int, int]] | None = None,
) -> Dataset:
    """Episodes of random pixels, actions and (if not given, one after the other) rewards, of so many timesteps each.

    With `events`, of each the (timestep, task), they are recordings of three tasks: "go", "red" and "door".
    """
    tasks = (TASK,) if events is None else ("go", "red", "door")
    labels = () if events is None else tasks
    writer = DatasetWriter(root / TASK, Meta(tasks, ACTIONS, 8, 12, 5, VOCABULARY, labels=labels))
    episodes = [_episode(seed, steps) for seed, steps in enumerate(lengths)]
    if events is not None:
        for place, steps in enumerate(lengths):
            at = np.zeros((steps, len(tasks)), bool)
            at[tuple(np.array(events).T)] = True
            fields = {"task": EVERY_TASK, "label": "", "source": "person"}
            episodes[place] = dataclasses.replace(episodes[place], **fields, events=at)
    if rewards is not None:
        parts = np.split(np.array(rewards, np.float32), np.cumsum(lengths)[:-1])
        episodes = [dataclasses.replace(e, rewards=part) for e, part in zip(episodes, parts, strict=True)]
    writer.write_shard(split, 0, episodes)
    writer.finish()
    return open_dataset(root / TASK)


def _episode(seed: int, steps: int) -> Episode:
    random = np.random.default_rng(seed)
    actions, rewards = random.integers(0, ACTIONS.sizes, (steps, 2)), random.normal(size=steps).astype(np.float32)
    actions[0], rewards[0] = 0, 0
    frames = random.integers(0, 256, (steps, 8, 12, 3), dtype=np.uint8)
    terminal = np.arange(steps) == steps - 1
    return Episode(frames, actions, rewards, terminal, TASK, "go to the red", "expert", 0.0, seed, True)
