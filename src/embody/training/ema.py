"""The moving average of a model's weights, which is what a stage leaves."""

import copy

import torch
from torch import nn

__all__ = ["MovingAverage"]


class MovingAverage:
    """`average <- decay average + (1 - decay) model` for trained parameters; buffers are copied.

    The decay of step n is `min(decay, (n + 1) / (n + 10))`: the first steps are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = copy.deepcopy(model).requires_grad_(False), decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after `step` (from 0)."""
        decay = min(self.decay, (step + 1) / (step + 10))
        pairs = zip(self.model.parameters(), model.parameters(), strict=True)
        trained = [(a, m) for a, m in pairs if m.requires_grad]
        if trained:
            torch._foreach_lerp_([a for a, _ in trained], [m for _, m in trained], 1 - decay)
        for a, m in zip(self.model.buffers(), model.buffers(), strict=True):
            a.copy_(m)
