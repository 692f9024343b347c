"""Processes that train together, as threads: each has some rows of a batch, and they average tensors."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import torch
from torch import Tensor

from embody.nn.masked_mean import Reduce

R = TypeVar("R")


def side_by_side(processes: int, run: Callable[[int, Reduce], R]) -> list[R]:
    """`run(rank, reduce)` of each process; all must call `reduce` equally often."""
    barrier, brought = Barrier(processes, timeout=60), [torch.zeros(())] * processes

    def start(rank: int) -> R:
        def reduce(x: Tensor) -> Tensor:
            assert not x.requires_grad
            brought[rank] = x
            barrier.wait()
            mean = torch.stack(list(brought)).double().mean(dim=0).to(torch.float32)
            barrier.wait()
            return mean

        try:
            return run(rank, reduce)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(processes) as pool:
        return list(pool.map(start, range(processes)))
