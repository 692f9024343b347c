"""Which number format multiplies matrices fastest here."""

import statistics
import time
from typing import Literal

import torch

__all__ = ["fastest_precision"]


def fastest_precision(device: torch.device) -> Literal["float32", "bfloat16"]:
    """`bfloat16` on GPUs and on CPUs whose bf16 product takes at most half of the float32 one; else `float32`."""
    if device.type == "cuda":
        return "bfloat16"
    return "bfloat16" if 2 * _seconds(torch.bfloat16) < _seconds(torch.float32) else "float32"


def _seconds(dtype: torch.dtype) -> float:
    a = torch.ones(512, 256, dtype=dtype)
    b = torch.ones(256, 512, dtype=dtype)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return statistics.median(times)
