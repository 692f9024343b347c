"""The speed of a training."""

import contextlib
import time
from collections.abc import Iterator

import torch

from embody.training.precision import matrix_rate

__all__ = ["Throughput"]


class Throughput:
    """Frames, FLOPs and waiting time a second since the last call of `rates`."""

    def __init__(self, device: torch.device, precision: str) -> None:
        self.matrix_rate = matrix_rate(device, precision)
        self._begin()

    def _begin(self) -> None:
        self.frames, self.flops, self.waited, self.since = 0, 0.0, 0.0, time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside this context as waiting for data."""
        began = time.perf_counter()
        yield
        self.waited += time.perf_counter() - began

    def count(self, frames: int, flops: float) -> None:
        """Count a finished step of `frames` frames and `flops` FLOPs."""
        self.frames += frames
        self.flops += flops

    def rates(self) -> dict[str, float]:
        """The rates since the last call: `frames_per_second`, `mfu` and `data_wait`, both from 0 to 1.

        `mfu` is FLOP/s over the measured matrix rate, `data_wait` the share of time spent waiting for batches; dreaming
        counts as waiting.
        """
        seconds = max(time.perf_counter() - self.since, 1e-9)
        rates = {
            "frames_per_second": self.frames / seconds,
            "mfu": self.flops / seconds / self.matrix_rate,
            "data_wait": self.waited / seconds,
        }
        self._begin()
        return rates
