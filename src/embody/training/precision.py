"""Chooses the number format that multiplies matrices fastest on this machine, and measures how fast."""

import functools
import statistics
import time
from typing import Literal

import torch

from embody.nn.precision import gpu_precision

__all__ = ["fastest_precision", "matrix_rate"]


def fastest_precision(device: torch.device) -> Literal["float32", "bfloat16", "float16"]:
    """On a GPU see `gpu_precision`; `bfloat16` on CPUs whose bf16 product takes at most half of the float32 one, else
    `float32`."""
    if device.type == "cuda":
        return gpu_precision(device)
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


@functools.cache
def matrix_rate(device: torch.device, precision: str) -> float:
    """The measured peak rate of large matrix products, in FLOP/s, which is 100% MFU; takes about 0.2 s."""
    size = 8192 if device.type == "cuda" else 512
    a, b = (torch.ones(size, size, dtype=getattr(torch, precision), device=device) for _ in range(2))
    best, start = float("inf"), time.perf_counter()
    while time.perf_counter() - start < 0.2 or best == float("inf"):
        began = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
