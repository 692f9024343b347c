"""How fast a training goes."""

import contextlib
import time
from collections.abc import Iterator

import torch

from embody.training.precision import matrix_rate

__all__ = ["Throughput"]


class Throughput:
    """What a second of training held since the last `rates`."""

    def __init__(self, device: torch.device, precision: str) -> None:
        self.matrix_rate = matrix_rate(device, precision)
        self._begin()

    def _begin(self) -> None:
        self.frames, self.flops, self.waited, self.since = 0, 0.0, 0.0, time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of this block as waiting for data."""
        began = time.perf_counter()
        yield
        self.waited += time.perf_counter() - began

    def count(self, frames: int, flops: float) -> None:
        """A step on so many frames is done."""
        self.frames += frames
        self.flops += flops

    def rates(self) -> dict[str, float]:
        """`mfu` is the share of the measured matrix rate, `data_wait` that of the time spent waiting for batches.

        Where batches are dreamt, the time to dream them is waited for too.
        """
        seconds = max(time.perf_counter() - self.since, 1e-9)
        rates = {
            "frames_per_second": self.frames / seconds,
            "mfu": self.flops / seconds / self.matrix_rate,
            "data_wait": self.waited / seconds,
        }
        self._begin()
        return rates
