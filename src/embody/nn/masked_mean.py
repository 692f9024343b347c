"""Means over the real entries of a batch whose rows may be spread over processes."""

from collections.abc import Callable

from torch import Tensor

__all__ = ["Reduce", "masked_mean", "one_process"]

Reduce = Callable[[Tensor], Tensor]  # the mean of a tensor over all processes, without gradient


def one_process(x: Tensor) -> Tensor:
    """The `Reduce` of a run in one process."""
    return x


def masked_mean(x: Tensor, mask: Tensor, reduce: Reduce = one_process) -> Tensor:
    """`sum(mask x) / reduce(sum(mask))`, `[]`, for a bool `mask` of x's shape; 0 where nothing is real.

    The mean of this over processes, which is what averaged gradients are of, is the masked mean over all their rows:
    that of each one's own mean would weigh the entries of a process with few of them more.
    """
    return (x * mask).sum() / reduce(mask.sum()).clamp(min=1)
