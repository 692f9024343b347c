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
from embody.nn.masked_mean import Reduce, masked_mean, one_process

__all__ = ["Events", "event_loss"]


class Events(nn.Module):
    """What each token was and what the step changed in it, by one MLP for all tokens; an MLP on all of that.

    Wherever in the picture a zombie falls, it is the same weights that see it: a hundred examples are enough.
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
