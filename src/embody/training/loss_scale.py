"""Loss scaling, without which small gradients become 0 in float16."""

import torch
from torch import Tensor

__all__ = ["LossScale"]

_GROWTH_INTERVAL = 2000  # steps
_MOST = 2.0**24


class LossScale:
    """The factor `value`, float32 `[]`, of a loss whose gradients are computed in float16; they are divided by it.

    As in `torch.amp.GradScaler`, a step whose gradients overflow halves it, and 2000 finite steps in a row double it.
    All is computed on the device, so that the host never waits. It stays between 1 and 2^24. `steps`, int64 `[]`, is
    the number of finite steps in a row since it last changed.
    """

    def __init__(self, device: torch.device, value: float, steps: int) -> None:
        self.value = torch.tensor(value, device=device)
        self.steps = torch.tensor(steps, device=device)

    def update(self, loss: Tensor, norm: Tensor) -> Tensor:
        """Adapt the factor to a step; returns whether its gradients overflowed because of it: bool `[]`.

        `loss` is the unscaled loss and `norm` the norm of the gradients, both `[]`. Where the loss itself is not
        finite, or the factor is 1 already, the factor is not the reason.
        """
        bounded, finite = torch.isfinite(norm), torch.isfinite(loss.detach())
        overflowed = finite & ~bounded & (self.value > 1)
        steps = torch.where(finite & bounded, self.steps + 1, 0)
        grows = steps == _GROWTH_INTERVAL
        factor = torch.where(overflowed, 0.5, torch.where(grows, 2.0, 1.0))
        self.value.copy_((self.value * factor).clamp(1.0, _MOST))
        self.steps.copy_(torch.where(grows, 0, steps))
        return overflowed
