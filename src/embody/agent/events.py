"""Which tasks a step achieved, predicted from the frames before and after it.

The reward head reads features, which hold the action. Off the recorded distribution it predicts a reward from the
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

    Sharing makes a hundred positive examples of a task enough, wherever in the picture they happened.
    """

    def __init__(self, tokens: int, channels: int, config: AgentConfig) -> None:
        """A frame's latents are `[tokens, channels]`."""
        super().__init__()
        hidden, kept = config.event_hidden, config.event_channels
        self.token = nn.Sequential(nn.Linear(2 * channels, hidden), nn.SiLU(), nn.Linear(hidden, kept), nn.SiLU())
        self.mlp = mlp(tokens * kept, hidden, config.tasks)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Logits `[..., P]` of tasks achieved between the latents of a frame, `[..., S, C]`, and those of the next."""
        changed = torch.cat((before, after - before), dim=-1)
        return self.mlp(self.token(changed).flatten(-2))


def event_loss(logits: Tensor, events: Tensor, mask: Tensor, reduce: Reduce = one_process) -> Tensor:
    """Binary cross-entropy, a sum over the tasks, a mean over steps that are real (`mask` `[B, T]`).

    `logits` `[B, T, at least P]`; `events` bool `[B, T, P]`.
    """
    tasks = events.shape[-1]
    loss_BTP = F.binary_cross_entropy_with_logits(logits[..., :tasks], events.float(), reduction="none")
    return masked_mean(loss_BTP.sum(dim=-1), mask, reduce)
