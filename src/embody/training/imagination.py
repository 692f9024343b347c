"""Phase 3: policy and value heads improve inside the dream (PMPO); all the rest is frozen."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from embody.agent import PmpoLoss, lambda_returns
from embody.batch import Batch
from embody.config import Config
from embody.data import Dataset, batches, steps_per_epoch
from embody.imagination import Dream
from embody.model import WorldAndAgent

__all__ = ["ImaginationStage", "Trajectories", "dream_trajectories"]


@dataclass(frozen=True)
class Trajectories:
    """Imagined slots 0 .. T, slot 0 being the context's last."""

    features: Tensor  # float32 [B, T + 1, H]
    actions: Tensor  # int64 [B, T, A]: taken at slots 0 .. T-1
    rewards: Tensor  # float32 [B, T + 1]; slot 0 is not read
    continues: Tensor  # float32 [B, T + 1], probabilities; slot 0 is not read
    alive: Tensor  # bool [B, T]: whether the dream still went on at slots 0 .. T-1


def dream_trajectories(model: WorldAndAgent, batch: Batch, *, horizon: int, generator: torch.Generator) -> Trajectories:
    """One rollout from each context of `batch`, by the live policy."""
    assert batch.latents is not None
    dream = Dream(model.dynamics, model.agent, k_sample=model.dynamics.config.k_sample, generator=generator)
    features = [dream.reset(batch.latents, batch.actions, batch.is_first, batch.task)[:, -1]]
    actions, rewards = [], [torch.zeros(batch.rows, device=batch.rewards.device)]
    continues = [torch.ones_like(rewards[0])]
    for _ in range(horizon):
        with torch.no_grad():
            action = model.agent.heads.act(features[-1]).sample(generator)
        step = dream.step(action)
        actions.append(action)
        features.append(step.features)
        rewards.append(step.reward)
        continues.append(step.continues)
    going_on = torch.stack(continues[:-1], dim=1) > 0.5
    return Trajectories(
        torch.stack(features, dim=1),
        torch.stack(actions, dim=1),
        torch.stack(rewards, dim=1),
        torch.stack(continues, dim=1),
        going_on.long().cumprod(dim=1).bool(),
    )


class ImaginationStage:
    """Contexts in, PMPO and value losses over one imagined rollout each out; a rollout serves `updates` steps."""

    name = "imagination"

    def __init__(
        self,
        config: Config,
        datasets: Sequence[Dataset],
        tokenizer_hash: str,
        model: WorldAndAgent,
    ) -> None:
        # Contexts have one length: a dream starts from exactly so many frames.
        self.config = replace(config.train_imagination, length=config.imagination.context, long_length=0)
        self.whole = config
        self.datasets, self.tokenizer_hash = datasets, tokenizer_hash
        self.steps = max(1, round(self.config.epochs * steps_per_epoch(datasets, "train", self.config)))
        self.model: WorldAndAgent = model.requires_grad_(False)
        heads = model.agent.heads
        self.prior = copy.deepcopy(heads).eval()
        self.trained = [*heads.policy.parameters(), *heads.value.parameters()]
        for parameter in self.trained:
            parameter.requires_grad_(True)
        self.losses: nn.Module = PmpoLoss(config.imagination)
        self.dreamt: Trajectories | None = None

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": self.trained}]

    def batches(self, start: int) -> Iterable[Batch]:
        context = self.whole.imagination.context
        return batches(
            self.datasets,
            "train",
            self.config,
            source="latents",
            tokenizer_hash=self.tokenizer_hash,
            seed=self.whole.seed + 3,
            start=start,
            left_pad=context - 1,
            words=self.whole.agent.words,
            contexts=True,
            workers=self.whole.workers,
        )

    def loss(self, batch: Batch, generator: torch.Generator, progress: float) -> tuple[Tensor, Mapping[str, Tensor]]:
        config, heads = self.whole.imagination, self.model.agent.heads
        if self.dreamt is None or round(progress * self.steps) % config.updates == 0:
            self.dreamt = dream_trajectories(self.model, batch, horizon=config.horizon, generator=generator)
            if config.shuffle_rewards:
                self.dreamt = replace(self.dreamt, rewards=_shuffled(self.dreamt, generator))
        dreamt = self.dreamt
        rewards = dreamt.rewards
        value_logits = heads.value(dreamt.features)
        values = heads.value_bins.decode(value_logits).detach()
        returns = lambda_returns(rewards, dreamt.continues, values, config.gamma, config.lambda_)
        policy, prior = heads.act(dreamt.features[:, :-1]), self.prior.act(dreamt.features[:, :-1])
        loss, metrics = self.losses(policy, prior, dreamt.actions, returns - values[:, :-1], dreamt.alive)
        value_BT = heads.value_bins.loss(value_logits[:, :-1], returns)
        alive = dreamt.alive.float()
        value = (value_BT * alive).sum() / alive.sum().clamp(min=1)
        arrived = rewards[:, 1:] * alive
        metrics = {
            **metrics,
            "value": value.detach(),
            "imagined_reward": arrived.sum(dim=1).mean(),
            "imagined_length": alive.sum(dim=1).mean(),
        }
        return loss + value, metrics


def _shuffled(dreamt: Trajectories, generator: torch.Generator) -> Tensor:
    """The control: rewards `[B, T + 1]` that came while the dreams went on change places among themselves."""
    rewards = dreamt.rewards.clone()
    arrived = rewards[:, 1:][dreamt.alive]
    order = torch.randperm(len(arrived), generator=generator, device=arrived.device)
    rewards[:, 1:][dreamt.alive] = arrived[order]
    return rewards
