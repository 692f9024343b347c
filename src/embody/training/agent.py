"""Phase 2: the agent learns behaviour cloning, rewards, values and continues; the dynamics loss continues.

If the agent has its own weights, its losses do not change the dynamics; if it shares the dynamics' layers, as in the
paper, they finetune it. In multi-achievement mode `EventsStage` and `RiskStage` then train the outcome models.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from embody.agent import Agent, AgentLoss, event_loss, risk_loss
from embody.config import Config
from embody.cost.flops import agent_row_flops, event_row_flops, risk_row_flops
from embody.data import (
    BatchShapes,
    ClipSpec,
    Dataset,
    EpisodeRow,
    EpisodeSelection,
    Mix,
    Placement,
    Relabelling,
    batches,
    stage_steps,
)
from embody.data.sampling.batch import Batch
from embody.dynamics import Dynamics, ShortcutLoss
from embody.dynamics.shortcut import Levels, alternate_contexts, draw_levels, noise_to
from embody.errors import UserError
from embody.model import WorldAndAgent
from embody.nn.noise import Noise
from embody.training.loop import StepContext
from embody.training.rewards import check_ranges, reward_statistics

__all__ = ["AgentStage", "EventsStage", "RiskStage"]


class AgentStage:
    """Trains the agent on latents, actions, rewards and tasks, by the agent's losses and the dynamics loss."""

    def __init__(
        self,
        config: Config,
        datasets: Sequence[Dataset],
        tokenizer_hash: str,
        dynamics: Dynamics,
        episode_filter: Callable[[EpisodeRow], bool] | None = None,
        *,
        name: str = "agent",
    ) -> None:
        self.name = name
        self.config, self.run_config = config.train_agent, config
        self.datasets, self.tokenizer_hash = datasets, tokenizer_hash
        self.episode_filter = episode_filter
        clips = self.clips()
        self.steps = stage_steps(datasets, self.config, clips)
        for rows, length in clips.shapes.distinct():
            if not any(clips.mix.bc_rows(rows)):
                raise UserError(
                    f"train_agent.batch {self.config.batch}: in batches of {rows} x {length} frames no row would be"
                    f" cloned (agent_objective.uniform_share {config.agent_objective.uniform_share:g}): raise it, or"
                    " set uniform_share 1"
                )
        torch.manual_seed(config.seed + 2)
        agent = Agent(config.agent, dynamics.config.trunk, dynamics.actions)
        gamma, once = config.imagination.gamma, config.agent_objective.once
        rewards = reward_statistics(datasets, agent.goal, gamma, once)
        if rewards is not None:
            check_ranges(config, rewards)
            if config.agent_objective.standardise_rewards:
                agent.heads.reward_mean.fill_(rewards.mean)
                agent.heads.reward_std.fill_(max(rewards.std, 1e-3))
        self.model: WorldAndAgent = WorldAndAgent(dynamics, agent)
        # The dynamics learns only if its loss continues or if it shares its layers with the agent.
        trains_world = config.agent_objective.dynamics_weight > 0 or not config.agent.own_weights
        dynamics.requires_grad_(trains_world)
        self.losses = nn.ModuleDict(
            {"agent": AgentLoss(config.agent_objective), "dynamics": ShortcutLoss(config.dynamics_objective)}
        )
        agent.goal.check(datasets, config.agent)
        for later in self.model.outcome_models:
            later.requires_grad_(False)

    def parameter_groups(self) -> list[dict[str, Any]]:
        world = [p for p in self.model.dynamics.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [{"params": list(self.model.agent.parameters())}]
        if world:
            groups.append({"params": world, "lr_scale": self.run_config.agent_objective.world_lr_scale})
        return groups

    def clips(self) -> ClipSpec:
        config = self.run_config
        agent, objective, imagination = config.agent, config.agent_objective, config.imagination
        return ClipSpec(
            EpisodeSelection("train", True, self.episode_filter, self.run_config.data.weights),
            BatchShapes.of(self.config),
            self.tokenizer_hash,
            Placement(left_pad=imagination.context - 1),
            Mix(objective.uniform_share, objective.miss_share, objective.event_lead, flow="uniform"),
            Relabelling(imagination.gamma, objective.once, agent.goal, agent.words),
        )

    def batches(self, start: int) -> Iterable[Batch]:
        return self.batches_of(self.clips(), start)

    def batches_of(self, clips: ClipSpec, start: int) -> Iterable[Batch]:
        """Batches `start`, `start + 1`, ... of `clips`, from the stage's datasets and seed."""
        return batches(
            self.datasets, clips, seed=self.run_config.seed + 2, start=start, workers=self.run_config.workers
        )

    def loss(self, batch: Batch, context: StepContext) -> tuple[Tensor, Mapping[str, Tensor]]:
        config, dynamics, agent = self.run_config.agent_objective, self.model.dynamics, self.model.agent
        noise, reduce = context.noise, context.reduce
        features = self.model.features(batch, self._levels(batch, noise), noise)
        loss, metrics = self.losses["agent"](agent.heads, features, batch, reduce=reduce)
        if config.dynamics_weight > 0:
            own = batch.flow.nonzero()[:, 0].tolist()  # on the CPU, see `Batch.flow`
            world_loss, world_metrics = self.losses["dynamics"](
                dynamics, batch.select(batch.flow), noise.part(own, len(own)), bootstrap=True, reduce=reduce
            )
            loss, metrics = loss + config.dynamics_weight * world_loss, {**metrics, **world_metrics}
        return loss, metrics

    def row_flops(self, frames: int, context: StepContext) -> float:
        return agent_row_flops(self.run_config, frames)

    def _levels(self, batch: Batch, noise: Noise) -> Levels:
        """The levels of the frames that the heads read: drawn as in the flow loss [P], or the context level."""
        k_max, objective = self.model.dynamics.config.k_max, self.run_config.dynamics_objective
        context_levels = self.model.context_levels(batch)
        if self.run_config.agent_objective.heads_input == "context":
            return context_levels
        uniform = objective.step_draw == "uniform"
        shape = (batch.rows, batch.length)
        levels = draw_levels(*shape, k_max, uniform, noise, objective.tau_power, finest=uniform)
        if objective.contexts == "alternate":
            levels = alternate_contexts(levels, self.model.dynamics.context_level, 1 / k_max)
        return levels


class _StepModelStage:
    """A stage after the agent's that trains one outcome model, in place, on pairs of successive frames."""

    name: str

    def __init__(self, before: AgentStage, part: nn.Module | None, steps: int, length: int) -> None:
        """`before` is finished; `part` of its model is trained for `steps` steps on clips of `length` frames."""
        assert part is not None
        self.agent_stage, self.steps = before, steps
        rows = max(1, before.run_config.agent_objective.event_rows // (length - 1))
        self.config = replace(before.config, batch=rows, length=length, long_length=0, muon_lr=0.0)
        self.model: WorldAndAgent = before.model.requires_grad_(False)
        self.part = part.requires_grad_(True)
        self.losses: nn.Module = nn.Identity()

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.part.parameters())}]

    def latents(self, batch: Batch, noise: Noise) -> Tensor:
        """The batch's latents `[B, T, S, C]`, noised to the context level, since those of dreams are not clean
        either."""
        assert batch.latents is not None
        z = self.model.dynamics.pack(batch.latents)
        return noise_to(self.model.context_levels(batch).tau, z, noise.normal(*z.shape))


class EventsStage(_StepModelStage):
    """After the agent, trains only `EventClassifier`, on pairs of frames of which many have an event or a miss.

    Events are too rare in the agent's own batches: from 2,000 of them it would learn only half of Crafter's events
    (docs/LOG.md).
    """

    name = "events"

    def __init__(self, before: AgentStage) -> None:
        super().__init__(before, before.model.events, before.run_config.agent_objective.event_steps, length=2)

    def batches(self, start: int) -> Iterable[Batch]:
        clips = self.agent_stage.clips()
        clips = replace(clips, shapes=BatchShapes.of(self.config), mix=replace(clips.mix, event_lead=0))
        return self.agent_stage.batches_of(clips, start)

    def loss(self, batch: Batch, context: StepContext) -> tuple[Tensor, Mapping[str, Tensor]]:
        assert batch.events is not None
        z = self.latents(batch, context.noise)
        logits = self.model.event_logits(z[:, :-1], z[:, 1:])
        return event_loss(logits, batch.events[:, 1:], _steps(batch), context.reduce), {}

    def row_flops(self, frames: int, context: StepContext) -> float:
        return event_row_flops(self.agent_stage.run_config, frames)


class RiskStage(_StepModelStage):
    """After `EventsStage`, trains only `RiskModel`, on steps drawn uniformly, because it predicts expectations.

    A clip may begin at any timestep but the last and may outlast its episode. So an episode's last steps, which often
    have a cost, are drawn as often as others; only its first seven are drawn less often.
    """

    name = "risk"

    def __init__(self, before: AgentStage) -> None:
        length = 9  # eight steps a clip; clips of two frames take longer to read than to train on
        super().__init__(before, before.model.risk, before.run_config.agent_objective.risk_steps, length)

    def batches(self, start: int) -> Iterable[Batch]:
        clips = self.agent_stage.clips()
        placement = replace(clips.placement, contexts=True, after=self.config.length - 1)
        clips = replace(clips, shapes=BatchShapes.of(self.config), placement=placement, mix=Mix())
        return self.agent_stage.batches_of(clips, start)

    def loss(self, batch: Batch, context: StepContext) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The cost of a step is the number of first achievements minus the recorded reward."""
        risk = self.model.risk
        assert risk is not None
        paid = (batch.task[:, :-1] & ~batch.task[:, 1:]).sum(dim=-1)
        costs = risk.shares(paid - batch.rewards[:, 1:])
        predicted = risk(self.latents(batch, context.noise)[:, :-1], batch.actions[:, 1:])
        return risk_loss(predicted, costs, batch.is_terminal[:, 1:], _steps(batch), context.reduce), {}

    def row_flops(self, frames: int, context: StepContext) -> float:
        return risk_row_flops(self.agent_stage.run_config, frames)


def _steps(batch: Batch) -> Tensor:
    """Which steps, from timestep t to t + 1, are real and have a recorded action: bool `[B, T - 1]`."""
    return batch.mask[:, 1:] & batch.mask[:, :-1] & batch.labelled[:, None]
