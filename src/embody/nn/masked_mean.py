"""Means over the real entries of a batch whose rows may be spread over processes."""

from collections.abc import Callable

from torch import Tensor

__all__ = ["Reduce", "masked_mean", "one_process"]

Reduce = Callable[[Tensor], Tensor]  # the mean of a tensor over all processes, without gradient


def one_process(x: Tensor) -> Tensor:
    """The `Reduce` of a run in one process."""
    return x


def masked_mean(x: Tensor, mask: Tensor, reduce: Reduce = one_process) -> Tensor:
    """`sum(mask x) / reduce(sum(mask))`, `[]`, for a bool `mask` of x's shape; 0 if the mask is all false.

    The average of this over processes is the masked mean over all their entries. The average of each process's own mean
    would give more weight to the entries of a process that has few.
    """
    return (x * mask).sum() / reduce(mask.sum()).clamp(min=1)
