"""Which tasks a step achieved, read off what changed between two frames.

The reward head reads features, which know the action: where no recording ever goes it takes the action for the deed,
and imagination finds that (docs/LOG.md). Two frames show the deed.
Legend: B rows, T slots, S tokens, C channels, P tasks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embody.agent.model import mlp
from embody.config import AgentConfig

__all__ = ["Events", "event_loss"]


class Events(nn.Module):
    """An MLP on the latents before a step and on what the step changed in them."""

    def __init__(self, latent_size: int, config: AgentConfig) -> None:
        """`latent_size`: numbers a frame, S C."""
        super().__init__()
        self.mlp = mlp(2 * latent_size, config.event_hidden, config.tasks)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Logits `[..., P]` of tasks achieved between the latents of a frame, `[..., S C]`, and those of the next."""
        return self.mlp(torch.cat((before, after - before), dim=-1))


def event_loss(logits: Tensor, events: Tensor, mask: Tensor) -> Tensor:
    """Binary cross-entropy, a sum over the tasks, a mean over steps that are real (`mask` `[B, T]`).

    `logits` `[B, T, at least P]`; `events` bool `[B, T, P]`.
    """
    tasks = events.shape[-1]
    loss_BTP = F.binary_cross_entropy_with_logits(logits[..., :tasks], events.float(), reduction="none")
    return (loss_BTP.sum(dim=-1) * mask).sum() / mask.sum().clamp(min=1)
