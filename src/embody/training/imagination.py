"""Phase 3: the policy and value heads learn in dreams (PMPO); the rest is frozen unless `finetune` is "agent"."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from embody.agent import PmpoLoss, end_at_reward, lambda_returns
from embody.config import Config, SamplingConfig
from embody.cost.flops import imagination_row_flops
from embody.data import (
    BatchShapes,
    ClipSpec,
    Dataset,
    EpisodeSelection,
    Mix,
    Placement,
    Relabelling,
    batches,
    stage_steps,
)
from embody.data.sampling.batch import Batch
from embody.imagination import Dream
from embody.model import Precision, WorldAndAgent, for_inference
from embody.nn.masked_mean import masked_mean
from embody.nn.noise import Noise, RowNoise
from embody.training.loop import StepContext

__all__ = ["ImaginationStage", "Trajectories", "dream_trajectories"]


@dataclass(frozen=True)
class Trajectories:
    """Dreams: timestep 0 is the context's last one, timesteps 1 to T are imagined."""

    contexts: Batch  # the contexts that the dreams started from
    latents: Tensor  # float32 [B, T, L, Z] of timesteps 1 .. T
    features: Tensor  # float32 [B, T + 1, H]
    actions: Tensor  # int64 [B, T, A]: taken at timesteps 0 .. T-1
    rewards: Tensor  # float32 [B, T + 1]; index 0 is not used
    continues: Tensor  # float32 [B, T + 1], probabilities from 0 to 1; index 0 is not used
    alive: Tensor  # bool [B, T]: whether the dream still goes on at timesteps 0 .. T-1
    task: Tensor  # the words of a label, int64 [B, W], or the tasks left after timesteps 1 .. T, bool [B, T, P]

    @property
    def rows(self) -> int:
        return self.contexts.rows

    @property
    def length(self) -> int:
        """Timesteps of the contexts."""
        return self.contexts.length

    def to(self, device: torch.device) -> "Trajectories":
        """Returns itself, since dreams are made on the device that uses them."""
        return self


def dream_trajectories(
    model: WorldAndAgent, batch: Batch, sampling: SamplingConfig, *, horizon: int, noise: Noise
) -> Trajectories:
    """One dream of `horizon` steps from each context of `batch`, with actions sampled from the current policy."""
    assert batch.latents is not None
    dream = Dream(
        model,
        k_sample=sampling.k_sample,
        noise=noise,
        longest=batch.length + horizon,
    )
    features = [dream.reset(batch.latents, batch.actions, batch.is_first, batch.task)[:, -1]]
    latents, actions, rewards = [], [], [torch.zeros(batch.rows, device=batch.rewards.device)]
    continues, tasks = [torch.ones_like(rewards[0])], []
    for _ in range(horizon):
        with torch.no_grad():
            action = model.agent.heads.act(features[-1], sampling.support).sample(noise)
        step = dream.step(action)
        latents.append(step.latents)
        actions.append(action)
        features.append(step.features)
        rewards.append(step.reward)
        continues.append(step.continues)
        assert dream.task is not None
        tasks.append(dream.task)
    return Trajectories(
        batch,
        torch.stack(latents, dim=1),
        torch.stack(features, dim=1),
        torch.stack(actions, dim=1),
        torch.stack(rewards, dim=1),
        torch.stack(continues, dim=1),
        _alive(torch.stack(continues, dim=1)),
        model.goal.concatenate_timesteps(tasks),
    )


def _alive(continues: Tensor) -> Tensor:
    return (continues[:, :-1] > 0.5).long().cumprod(dim=1).bool()


class ImaginationStage:
    """Trains on one dream from each context, by the PMPO and value losses; each batch of dreams serves `updates`
    steps."""

    def __init__(
        self,
        config: Config,
        datasets: Sequence[Dataset],
        tokenizer_hash: str,
        model: WorldAndAgent,
        *,
        name: str = "imagination",
    ) -> None:
        self.name = name
        # All contexts have the same length.
        self.config = replace(config.train_imagination, length=config.imagination.context, long_length=0)
        self.run_config = config
        self.datasets, self.tokenizer_hash = datasets, tokenizer_hash
        self.steps = stage_steps(datasets, self.config, self.clips())
        self.model: WorldAndAgent = model.requires_grad_(False)
        heads = model.agent.heads
        if config.sampling.support:
            heads.keep_cloned_policy()
        self.trained = [*heads.policy.parameters(), *heads.value.parameters()]
        if config.imagination.finetune == "agent":
            others = [p for name, p in model.agent.named_parameters() if not name.startswith("heads.")]
            shared = [] if config.agent.own_weights else model.dynamics.parameters()
            self.trained += [*others, *shared]
        learnt = {id(parameter) for parameter in self.trained}
        # Only trained parameters are copied: at the paper's size the dynamics alone is 6 GiB.
        self.prior = copy.deepcopy(model, {id(p): p for p in model.parameters() if id(p) not in learnt}).eval()
        for parameter in self.trained:
            parameter.requires_grad_(True)
        self.losses: nn.Module = PmpoLoss(config.imagination)
        self.dreamer: WorldAndAgent | None = None

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": self.trained}]

    def clips(self) -> ClipSpec:
        dreams, agent = self.run_config.imagination, self.run_config.agent
        return ClipSpec(
            EpisodeSelection("train", labelled_only=True, weights=self.run_config.data.weights),
            BatchShapes.of(self.config),
            self.tokenizer_hash,
            Placement(dreams.context - 1, contexts=True, first_timesteps=dreams.first_timesteps),
            Mix(dreams.uniform_share, event_lead=dreams.horizon),
            Relabelling(goal=agent.goal, words=agent.words),
        )

    def batches(self, start: int) -> Iterable[Trajectories]:
        """Batches of dreams, made with the current policy when the first of their `updates` steps begins."""
        updates, device = self.run_config.imagination.updates, self.model.agent.token_MD.device
        assert start % updates == 0, "training can resume only where new dreams begin"
        for number, contexts in enumerate(self.contexts(start // updates), start // updates):
            noise = RowNoise(self.run_config.seed + 3, number, device=device)
            dreamt = self.dream(contexts.to(device), noise)
            for _ in range(updates):
                yield dreamt

    def contexts(self, start: int) -> Iterable[Batch]:
        """Batches `start`, `start + 1`, ... of contexts."""
        seed, workers = self.run_config.seed + 3, self.run_config.workers
        return batches(self.datasets, self.clips(), seed=seed, start=start, workers=workers)

    def dream(self, contexts: Batch, noise: Noise) -> Trajectories:
        """One dream from each of the `contexts`; its rewards and ends are those that the losses use."""
        config = self.run_config.imagination
        dreamt = dream_trajectories(
            self._dreamer(), contexts, self.run_config.sampling, horizon=config.horizon, noise=noise
        )
        if config.finetune == "agent":
            dreamt = self._seen_by_prior(dreamt, noise)
        if config.shuffle_rewards:
            dreamt = replace(dreamt, rewards=_shuffled(dreamt, noise))
        if self.run_config.agent_objective.once:
            continues = end_at_reward(dreamt.rewards, dreamt.continues)
            dreamt = replace(dreamt, continues=continues, alive=_alive(continues))
        return dreamt

    def loss(self, dreamt: Trajectories, context: StepContext) -> tuple[Tensor, Mapping[str, Tensor]]:
        config, heads = self.run_config.imagination, self.model.agent.heads
        rewards, features = dreamt.rewards, dreamt.features
        if config.finetune == "agent":
            features = self._recompute_features(self.model, dreamt, context.noise)
        value_logits = heads.value(features)
        values = heads.value_bins.decode(value_logits).detach()
        returns = lambda_returns(rewards, dreamt.continues, values, config.gamma, config.lambda_)
        support = self.run_config.sampling.support
        policy = heads.act(features[:, :-1], support)
        prior = self.prior.agent.heads.act(dreamt.features[:, :-1], support)
        # By bfloat16 rounding, a sampled action may now be just outside the support: it does not count.
        taken = dreamt.alive & policy.allows(dreamt.actions)
        loss, metrics = self.losses(
            policy, prior, dreamt.actions, returns - values[:, :-1], taken, reduce=context.reduce
        )
        value_BT = heads.value_bins.loss(value_logits[:, :-1], returns)
        value = masked_mean(value_BT, dreamt.alive, context.reduce)
        alive = dreamt.alive.float()
        arrived = rewards[:, 1:] * alive
        metrics = {
            **metrics,
            "value": value.detach(),
            "imagined_reward": arrived.sum(dim=1).mean(),
            "imagined_length": alive.sum(dim=1).mean(),
        }
        return loss + value, metrics

    def row_flops(self, frames: int, context: StepContext) -> float:
        return imagination_row_flops(
            self.run_config, dreams=float(context.step % self.run_config.imagination.updates == 0)
        )

    def _dreamer(self) -> WorldAndAgent:
        """The model to dream with: a copy whose frozen matrices are cast once, with the current heads."""
        device = self.model.agent.token_MD.device.type
        autocast = torch.is_autocast_enabled(device)
        heads_only = self.run_config.imagination.finetune == "heads"
        if not autocast and not self.run_config.compile:
            return self.model
        if self.dreamer is None or not heads_only:
            half: Precision = "float16" if torch.get_autocast_dtype(device) == torch.float16 else "bfloat16"
            precision: Precision = half if autocast else "float32"
            self.dreamer = for_inference(
                self.model, precision=precision, compiled=self.run_config.compile and heads_only
            )
            self.dreamer.agent.heads = self.model.agent.heads
        return self.dreamer

    def _recompute_features(self, model: WorldAndAgent, dreamt: Trajectories, noise: Noise) -> Tensor:
        """The features `[B, T + 1, H]` that `model` computes from the latents of dreams."""
        contexts = dreamt.contexts
        assert contexts.latents is not None
        frames = dreamt.latents.shape[1]
        z, later = model.dynamics.pack(contexts.latents), torch.zeros_like(dreamt.alive)
        sequence = replace(
            contexts,
            latents=torch.cat((z, dreamt.latents), dim=1),
            actions=torch.cat((contexts.actions, dreamt.actions), dim=1),
            is_first=torch.cat((contexts.is_first, later), dim=1),
            mask=torch.cat((contexts.mask, ~later), dim=1),
            is_null=torch.cat((contexts.is_null, later), dim=1),
            task=model.goal.concatenate_timesteps((contexts.task, dreamt.task)),
        )
        return model.features(sequence, model.context_levels(sequence), noise)[:, -frames - 1 :]

    @torch.no_grad()
    def _seen_by_prior(self, dreamt: Trajectories, noise: Noise) -> Trajectories:
        """The same dreams with features, rewards and continues of the frozen prior, which cannot drift."""
        features = self._recompute_features(self.prior, dreamt, noise)
        rewards, continues = self.prior.goal.outcome(self.prior, features, dreamt.rewards, dreamt.continues)
        rewards[:, 0], continues[:, 0] = 0.0, 1.0
        return replace(dreamt, features=features, rewards=rewards, continues=continues, alive=_alive(continues))


def _shuffled(dreamt: Trajectories, noise: Noise) -> Tensor:
    """The control shuffled_rewards: rewards `[B, T + 1]`, permuted among all timesteps before the ends of the
    dreams."""
    rewards = dreamt.rewards.clone()
    arrived = rewards[:, 1:][dreamt.alive]
    order = noise.uniform(*dreamt.alive.shape)[dreamt.alive].argsort()
    rewards[:, 1:][dreamt.alive] = arrived[order]
    return rewards
