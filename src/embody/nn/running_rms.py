"""Loss terms on one scale: each is divided by its running root mean square [P]."""

import torch
from torch import Tensor, nn

from embody.nn.masked_mean import Reduce, one_process

__all__ = ["RunningRms"]


class RunningRms(nn.Module):
    """`loss / sqrt(EMA(loss^2))`, with the average corrected for its start at zero; the divisor has no gradient.

    The divisor is 1 until the first update.
    """

    mean_square: Tensor
    weight: Tensor

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean_square", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(()))

    def forward(self, loss: Tensor, valid: Tensor | None = None, reduce: Reduce = one_process) -> Tensor:
        """The scaled loss. If `valid`, bool `[]`, is false, the running average is not updated.

        `reduce` averages `loss` over processes for the running average; `valid` is the same in all processes.
        """
        if self.training:
            share = torch.full_like(self.weight, 1 - self.decay)
            share = share if valid is None else share * valid
            self.mean_square.lerp_(reduce(loss.detach().float()).square(), share)
            self.weight.lerp_(torch.ones_like(self.weight), share)
        return loss / self.divisor()

    def divisor(self) -> Tensor:
        """The running root mean square, `[]`."""
        rms = (self.mean_square / self.weight.clamp(min=1e-12)).sqrt().clamp(min=1e-8)
        return torch.where(self.weight > 0, rms, 1.0)
