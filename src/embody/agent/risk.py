"""Predicts the expected cost of a step and the probability that it ends the episode, from its first frame and action.

Sampled dreams rarely contain low-probability damage, so the reward uses its predicted expectation (docs/LOG.md).
Legend: B rows, T timesteps, S tokens, C channels, A action factors.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embody.agent.model import mlp
from embody.config import ActionSpec, AgentConfig
from embody.nn.masked_mean import Reduce, masked_mean, one_process

__all__ = ["RiskModel", "RiskLogits", "risk_loss"]


@dataclass(frozen=True)
class RiskLogits:
    """The logits of a step's cost and end."""

    cost: Tensor  # [...]: of the cost as a share of the greatest cost
    end: Tensor  # [...]: of the step being the episode's last


class RiskModel(nn.Module):
    """A shared MLP on each token, then an MLP on the concatenated outputs and the one-hot action.

    Costs are the negative parts of recorded rewards; if `reward_range` begins at 0 there are none.
    """

    def __init__(self, tokens: int, channels: int, config: AgentConfig, actions: ActionSpec) -> None:
        """A frame's latents are `[tokens, channels]`."""
        super().__init__()
        hidden, kept = config.event_hidden, config.event_channels
        self.greatest = max(0.0, -config.reward_range[0])  # the greatest cost of a step
        self.token = nn.Sequential(nn.Linear(channels, hidden), nn.SiLU(), nn.Linear(hidden, kept), nn.SiLU())
        self.sizes = actions.sizes
        self.mlp = mlp(tokens * kept + sum(self.sizes), hidden, 2)

    def forward(self, before: Tensor, actions: Tensor) -> RiskLogits:
        """Logits of `actions`, int64 `[..., A]`, taken at latents `[..., S, C]`."""
        seen = self.token(before).flatten(-2)
        taken = [F.one_hot(a, size) for a, size in zip(actions.unbind(-1), self.sizes, strict=True)]
        # In bfloat16 a continue probability above 99.8% would round to 1, and an end is mostly less likely than 0.2%.
        return RiskLogits(*self.mlp(torch.cat((seen, *taken), dim=-1)).float().unbind(-1))

    def shares(self, costs: Tensor) -> Tensor:
        """`costs` as shares of the greatest cost, from 0 to 1."""
        return (costs / self.greatest).clamp(0, 1) if self.greatest else torch.zeros_like(costs)

    def expected(self, before: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """The expected cost, from 0 to `greatest`, and the continue probability, `[...]` each."""
        risk = self(before, actions)
        return self.greatest * risk.cost.sigmoid(), 1 - risk.end.sigmoid()


def risk_loss(risk: RiskLogits, costs: Tensor, ends: Tensor, mask: Tensor, reduce: Reduce = one_process) -> Tensor:
    """Binary cross-entropy of cost and end, averaged over the steps in `mask`, bool `[B, T]`.

    `costs` `[B, T]` are shares of the greatest cost, whose mean minimises the loss; `ends` is bool `[B, T]`.
    """
    loss_BT = F.binary_cross_entropy_with_logits(risk.cost, costs, reduction="none")
    loss_BT = loss_BT + F.binary_cross_entropy_with_logits(risk.end, ends.float(), reduction="none")
    return masked_mean(loss_BT, mask, reduce)
