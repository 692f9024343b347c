"""Predicts which tasks a step achieved from the frames before and after it.

The features that the reward head reads contain the action. Where there are no recordings it predicts a reward from the
action alone, and imagination exploits that (docs/LOG.md). These logits do not see the action.
Legend: B rows, T timesteps, S tokens, C channels, P tasks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embody.agent.model import mlp
from embody.config import AgentConfig
from embody.nn.masked_mean import Reduce, masked_mean, one_process

__all__ = ["EventClassifier", "event_loss"]


class EventClassifier(nn.Module):
    """A shared MLP on (token, change of token), then an MLP on the concatenated outputs.

    Because the first MLP is shared, about a hundred positive pairs of a task suffice, wherever in the frame it happens.
    """

    def __init__(self, tokens: int, channels: int, config: AgentConfig) -> None:
        """The latents of a frame are `[tokens, channels]`."""
        super().__init__()
        hidden, kept = config.event_hidden, config.event_channels
        self.token = nn.Sequential(nn.Linear(2 * channels, hidden), nn.SiLU(), nn.Linear(hidden, kept), nn.SiLU())
        self.mlp = mlp(tokens * kept, hidden, config.tasks)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Logits `[..., P]` of the tasks achieved between a frame's latents `before`, `[..., S, C]`, and `after`."""
        changed = torch.cat((before, after - before), dim=-1)
        return self.mlp(self.token(changed).flatten(-2))


def event_loss(logits: Tensor, events: Tensor, mask: Tensor, reduce: Reduce = one_process) -> Tensor:
    """Binary cross-entropy, summed over tasks and averaged over the steps in `mask`, bool `[B, T]`.

    `logits` `[B, T, at least P]`; `events` bool `[B, T, P]`.
    """
    tasks = events.shape[-1]
    loss_BTP = F.binary_cross_entropy_with_logits(logits[..., :tasks], events.float(), reduction="none")
    return masked_mean(loss_BTP.sum(dim=-1), mask, reduce)
