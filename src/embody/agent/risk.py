"""The expected cost of a step, and the probability that it ends the episode, from the frame before it and its action.

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
    """Logits `[...]` of what a step costs, as a share of the greatest cost, and of its being the episode's last."""

    cost: Tensor
    end: Tensor


class RiskModel(nn.Module):
    """A shared MLP on each token, then an MLP on the concatenated outputs and the one-hot action.

    Costs are the negative parts of recorded rewards: with a reward range from 0 up there are none.
    """

    def __init__(self, tokens: int, channels: int, config: AgentConfig, actions: ActionSpec) -> None:
        """A frame's latents are `[tokens, channels]`."""
        super().__init__()
        hidden, kept = config.event_hidden, config.event_channels
        self.greatest = max(0.0, -config.reward_range[0])  # a recorded reward is never less than minus this
        self.token = nn.Sequential(nn.Linear(channels, hidden), nn.SiLU(), nn.Linear(hidden, kept), nn.SiLU())
        self.sizes = actions.sizes
        self.mlp = mlp(tokens * kept + sum(self.sizes), hidden, 2)

    def forward(self, before: Tensor, actions: Tensor) -> RiskLogits:
        """Of `actions` int64 `[..., A]` taken when latents `[..., S, C]` are seen."""
        seen = self.token(before).flatten(-2)
        taken = [F.one_hot(a, size) for a, size in zip(actions.unbind(-1), self.sizes, strict=True)]
        # In bfloat16 a chance to go on would be 1 wherever that to end is below 0.2%: most ends come by such chances.
        return RiskLogits(*self.mlp(torch.cat((seen, *taken), dim=-1)).float().unbind(-1))

    def shares(self, costs: Tensor) -> Tensor:
        """`costs` as shares of the greatest, 0 to 1."""
        return (costs / self.greatest).clamp(0, 1) if self.greatest else torch.zeros_like(costs)

    def expected(self, before: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """The expected cost, 0 to `greatest`, and the probability that the episode goes on: `[...]` each."""
        risk = self(before, actions)
        return self.greatest * risk.cost.sigmoid(), 1 - risk.end.sigmoid()


def risk_loss(risk: RiskLogits, costs: Tensor, ends: Tensor, mask: Tensor, reduce: Reduce = one_process) -> Tensor:
    """Cross-entropy of both, whose least is at the mean; a mean over steps that are real (`mask` `[B, T]`).

    `costs` `[B, T]`, shares of the greatest; `ends` bool `[B, T]`.
    """
    loss_BT = F.binary_cross_entropy_with_logits(risk.cost, costs, reduction="none")
    loss_BT = loss_BT + F.binary_cross_entropy_with_logits(risk.end, ends.float(), reduction="none")
    return masked_mean(loss_BT, mask, reduce)
