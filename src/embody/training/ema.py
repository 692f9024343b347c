"""The moving average of a model's weights, which a stage saves at its end."""

import copy

import torch
from torch import Tensor, nn

__all__ = ["MovingAverage"]


class MovingAverage:
    """`average <- decay average + (1 - decay) model` for trained parameters; buffers are copied.

    The decay of step n is `min(decay, (n + 1) / (n + 10))`, so that the first steps are forgotten soon.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = copy.deepcopy(model).requires_grad_(False), decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int, counts: Tensor) -> None:
        """Update the average with the weights after `step` (from 0), if `counts`, bool `[]` on their device, is
        true."""
        share = torch.where(counts, 1 - min(self.decay, (step + 1) / (step + 10)), 0.0)
        pairs = zip(self.model.parameters(), model.parameters(), strict=True)
        trained = [(a, m) for a, m in pairs if m.requires_grad]
        if trained:
            torch._foreach_lerp_([a for a, _ in trained], [m for _, m in trained], [share] * len(trained))
        for a, m in zip(self.model.buffers(), model.buffers(), strict=True):
            a.copy_(m)
