"""Loss terms on one scale: each divided by a running root mean square of itself."""

import torch
from torch import Tensor, nn

__all__ = ["RunningRms"]


class RunningRms(nn.Module):
    """`loss / sqrt(EMA(loss^2))`, the average corrected for its start at zero; the divisor carries no gradient."""

    mean_square: Tensor
    weight: Tensor

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean_square", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))

    def forward(self, loss: Tensor) -> Tensor:
        if self.training:
            self.mean_square.lerp_(loss.detach().float().square(), 1 - self.decay)
            self.weight.lerp_(torch.ones_like(self.weight), 1 - self.decay)
        return loss / self.divisor()

    def divisor(self) -> Tensor:
        """The running root mean square, `[]`."""
        return (self.mean_square / self.weight.clamp(min=1e-12)).sqrt().clamp(min=1e-8)
