"""Steps whose loss or gradient is not finite change nothing; too many in a row end the training."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from embody.errors import UserError
from embody.training.loss_scale import LossScale

__all__ = ["MOST_IN_A_ROW", "FiniteSteps"]

MOST_IN_A_ROW = 20


class FiniteSteps:
    """Decides on the device, step by step, whether a step counts, so that the host never waits for a decision.

    A step that is not finite leaves the weights, their average, the optimisers' state and the running statistics of the
    losses as they were. `skipped` and `in_a_row`, int64 `[]`, count such steps of the entire training, and the last
    ones in a row; `longest`, int64 `[]`, is the longest series of them since this object was made.
    """

    def __init__(self, losses: nn.Module, device: torch.device, skipped: int = 0, in_a_row: int = 0) -> None:
        self.statistics = list(losses.buffers())
        self.before: list[Tensor] = []
        self.skipped = torch.tensor(skipped, device=device)
        self.in_a_row = torch.tensor(in_a_row, device=device)
        self.longest = self.in_a_row.clone()

    def begin(self) -> None:
        """Remember the running statistics before the losses of a step change them."""
        self.before = [statistic.clone() for statistic in self.statistics]

    def decide(
        self, loss: Tensor, norm: Tensor, optimizers: Sequence[torch.optim.Optimizer], scale: LossScale | None = None
    ) -> Tensor:
        """Whether `loss` and the gradients' `norm`, both `[]`, are finite: bool `[]`, on their device.

        If not, the running statistics are put back, and the optimisers' next step changes nothing. A step whose
        gradients overflowed because of `scale` is left out, too, but not counted.
        """
        finite = torch.isfinite(loss.detach()) & torch.isfinite(norm)
        counted = ~finite if scale is None else ~finite & ~scale.update(loss, norm)
        for statistic, before in zip(self.statistics, self.before, strict=True):
            statistic.copy_(torch.where(finite, statistic, before))
        for optimizer in optimizers:
            optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]  # read by fused AdamW and our Muon
        self.skipped += counted
        self.in_a_row.copy_(torch.where(finite, 0, self.in_a_row + counted))
        torch.maximum(self.longest, self.in_a_row, out=self.longest)
        return finite

    def check(self, stage: str, steps: int, checkpoint: Path, kept: int) -> None:
        """Wait for the device; a `UserError` if `MOST_IN_A_ROW` steps in a row were not finite.

        `steps` are done, and `checkpoint` holds the state after `kept` of them (0: it was never written).
        """
        if int(self.longest) < MOST_IN_A_ROW:
            return
        resume = (
            f"goes on from step {kept} ({checkpoint})" if kept else "starts again, as no checkpoint was written yet"
        )
        raise UserError(
            f"{stage}: {int(self.longest)} steps in a row up to step {steps} had a loss or gradient that is not finite:"
            f" lower its lr and muon_lr; the command then {resume}"
        )
