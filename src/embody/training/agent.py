"""Phase 2: cloning, reward, value and continue heads learn on agent tokens; the dynamics loss goes on.

With the agent's own weights the agent's losses cannot reach the world; in the paper's sharing they finetune it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from embody.agent import Agent, AgentLoss
from embody.batch import Batch
from embody.config import Config
from embody.cost.flops import agent_row_flops
from embody.data import Dataset, EpisodeRow, batches, discounted_returns, steps_per_epoch, uniform_rows
from embody.dynamics import Dynamics, ShortcutLoss
from embody.dynamics.shortcut import Levels, draw_levels, hold_contexts
from embody.model import WorldAndAgent

__all__ = ["AgentStage"]


class AgentStage:
    """Latents, actions, rewards and tasks in; agent losses and the dynamics loss out."""

    name = "agent"

    def __init__(
        self,
        config: Config,
        datasets: Sequence[Dataset],
        tokenizer_hash: str,
        dynamics: Dynamics,
        episode_filter: Callable[[EpisodeRow], bool] | None = None,
    ) -> None:
        self.config, self.whole = config.train_agent, config
        self.datasets, self.tokenizer_hash = datasets, tokenizer_hash
        self.episode_filter = episode_filter
        self.steps = max(1, round(self.config.epochs * steps_per_epoch(datasets, "train", self.config)))
        torch.manual_seed(config.seed + 2)
        agent = Agent(config.agent)
        _set_reward_statistics(agent, config, datasets)
        self.model: WorldAndAgent = WorldAndAgent(dynamics, agent)
        # Without its own loss the world has nothing to learn here, unless it shares its layers with the agent.
        trains_world = config.agent.dynamics_weight > 0 or not config.agent.own_weights
        dynamics.requires_grad_(trains_world)
        self.losses = nn.ModuleDict({"agent": AgentLoss(config.agent), "dynamics": ShortcutLoss()})

    def parameter_groups(self) -> list[dict[str, Any]]:
        world = [p for p in self.model.dynamics.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [{"params": list(self.model.agent.parameters())}]
        if world:
            groups.append({"params": world, "lr_scale": self.whole.agent.world_lr_scale})
        return groups

    def batches(self, start: int) -> Iterable[Batch]:
        return batches(
            self.datasets,
            "train",
            self.config,
            source="latents",
            tokenizer_hash=self.tokenizer_hash,
            seed=self.whole.seed + 2,
            start=start,
            left_pad=self.whole.imagination.context - 1,
            gamma=self.whole.imagination.gamma,
            words=self.whole.agent.words,
            episode_filter=self.episode_filter,
            uniform_share=self.whole.agent.uniform_share,
            workers=self.whole.workers,
        )

    def loss(self, batch: Batch, generator: torch.Generator, progress: float) -> tuple[Tensor, Mapping[str, Tensor]]:
        config, dynamics, agent = self.whole.agent, self.model.dynamics, self.model.agent
        features = self.model.features(batch, self._levels(batch, generator), generator)
        uniform = uniform_rows(batch.rows, config.uniform_share)
        cloned_from = uniform if uniform < batch.rows else 0
        loss, metrics = self.losses["agent"](agent.heads, features, batch, cloned_from)
        if config.dynamics_weight > 0:
            world_loss, world_metrics = self.losses["dynamics"](
                dynamics, batch.head(uniform), generator, bootstrap=True
            )
            loss, metrics = loss + config.dynamics_weight * world_loss, {**metrics, **world_metrics}
        return loss, metrics

    def row_flops(self, frames: int, progress: float) -> float:
        return agent_row_flops(self.whole, frames)

    def _levels(self, batch: Batch, generator: torch.Generator) -> Levels:
        """Levels that the heads read: drawn as the flow loss draws them [P], or that of a history (the seed's)."""
        config, context_levels = self.model.dynamics.config, self.model.context_levels(batch)
        if self.whole.agent.heads_input == "context":
            return context_levels
        uniform = config.step_draw == "uniform"
        shape = (batch.rows, batch.length)
        levels = draw_levels(*shape, config.k_max, uniform, generator, config.tau_power, finest=uniform)
        if config.contexts == "alternate":
            levels = hold_contexts(levels, self.model.dynamics.context_level, 1 / config.k_max)
        return levels


def _set_reward_statistics(agent: Agent, config: Config, datasets: Sequence[Dataset]) -> None:
    """Mean and deviation of the training rewards, if they are to be standardised.

    A `ValueError` if rewards or returns leave the range of their bins, which would clamp them in silence.
    """
    of_datasets = [
        (dataset.rewards, discounted_returns(dataset.rewards, dataset.offsets, config.imagination.gamma))
        for dataset in datasets
    ]
    rewards, returns = (
        np.concatenate([_of_training(dataset, both[i]) for dataset, both in zip(datasets, of_datasets, strict=True)])
        for i in range(2)
    )
    of_rewards = "rewards"
    if config.agent.standardise_rewards:
        mean, std = rewards.mean(dtype=np.float64), max(rewards.std(ddof=1, dtype=np.float64), 1e-3)
        agent.heads.reward_mean.fill_(mean)
        agent.heads.reward_std.fill_(std)
        rewards, of_rewards = (rewards - mean) / std, "standardised rewards"
    _must_hold("reward_range", config.agent.reward_range, rewards, of_rewards)
    of_returns = f"returns (imagination.gamma {config.imagination.gamma:g})"
    _must_hold("value_range", config.agent.value_range, returns, of_returns)


def _of_training(dataset: Dataset, values: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([values[dataset.rows(row.id, 0, row.length)] for row in dataset.episodes("train")])


def _must_hold(setting: str, span: tuple[float, float], values: NDArray[Any], what: str) -> None:
    found = float(values.min()), float(values.max())
    if found[0] < span[0] or found[1] > span[1]:
        wide = math.floor(100 * min(found[0], span[0])) / 100, math.ceil(100 * max(found[1], span[1])) / 100
        raise ValueError(
            f"agent.{setting} {span[0]:g} to {span[1]:g} does not hold the data's {what}, {found[0]:g} to"
            f" {found[1]:g}: set it to {wide[0]:g} {wide[1]:g}"
        )
