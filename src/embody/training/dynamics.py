"""Phase 1b: the dynamics learns to predict latents by shortcut forcing."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from embody.config import Config
from embody.cost.flops import dynamics_row_flops
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
from embody.dynamics import Dynamics, ShortcutLoss
from embody.training.loop import StepContext

__all__ = ["DynamicsStage"]


class DynamicsStage:
    """Trains the dynamics on latents and actions, by the shortcut-forcing loss."""

    def __init__(
        self, config: Config, datasets: Sequence[Dataset], tokenizer_hash: str, *, name: str = "dynamics"
    ) -> None:
        self.name = name
        self.config, self.run_config = config.train_dynamics, config
        self.datasets, self.tokenizer_hash = datasets, tokenizer_hash
        self.steps = stage_steps(datasets, self.config, self.clips())
        torch.manual_seed(config.seed + 1)
        self.model: Dynamics = Dynamics(config.dynamics, config.env.actions)
        self.losses: nn.Module = ShortcutLoss(config.dynamics_objective)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.model.parameters())}]

    def clips(self) -> ClipSpec:
        return ClipSpec(
            EpisodeSelection("train", weights=self.run_config.data.weights),
            BatchShapes.of(self.config),
            self.tokenizer_hash,
            Placement(left_pad=self.run_config.imagination.context - 1),
            Mix(self.run_config.dynamics_objective.uniform_share),
            Relabelling(words=self.run_config.agent.words),
        )

    def batches(self, start: int) -> Iterable[Batch]:
        seed, workers = self.run_config.seed + 1, self.run_config.workers
        return batches(self.datasets, self.clips(), seed=seed, start=start, workers=workers)

    def loss(self, batch: Batch, context: StepContext) -> tuple[Tensor, Mapping[str, Tensor]]:
        bootstrap = self._bootstraps(context)
        return self.losses(self.model, batch, context.noise, bootstrap=bootstrap, reduce=context.reduce)

    def row_flops(self, frames: int, context: StepContext) -> float:
        dynamics, objective = self.run_config.dynamics, self.run_config.dynamics_objective
        return dynamics_row_flops(dynamics, objective, frames, bootstrap=self._bootstraps(context))

    def _bootstraps(self, context: StepContext) -> bool:
        return context.progress >= self.run_config.dynamics_objective.bootstrap_start
