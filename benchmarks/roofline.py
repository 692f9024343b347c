"""What the machine can do: `python -m benchmarks.roofline` prints JSON.

Matrix rates are the best of several sizes and repetitions, in FLOP/s; bandwidths count what a loop must read and write,
on arrays far larger than the cache, in bytes/s.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

__all__ = ["roofline"]

SIZES = (512, 1024, 2048, 4096)
_SECONDS = 1.0  # spent on each measurement
_CPU = torch.device("cpu")


def best(work: Callable[[], object], seconds: float, device: torch.device = _CPU) -> float:
    """The least seconds that `work` took on `device`, at least 3 times and for so long."""

    def whole() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()

    whole()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < until:
        start = time.perf_counter()
        whole()
        times.append(time.perf_counter() - start)
    return min(times)


def matrix_rate(
    dtype: torch.dtype, sizes: tuple[int, ...], seconds: float, device: torch.device = _CPU
) -> dict[str, float]:
    """FLOP/s of `[n, n] @ [n, n]` for each n, and the `best`; no larger n where one product would take several seconds.

    bfloat16 without instructions for it (AVX2 alone) runs at 0.3 GFLOP/s.
    """
    rates: dict[str, float] = {}
    for n in sizes:
        if rates and 2 * n**3 / max(rates.values()) > 3 * seconds:
            break
        a, b, out = (torch.randn(n, n, device=device).to(dtype) for _ in range(3))
        rates[str(n)] = 2 * n**3 / best(partial(torch.mm, a, b, out=out), seconds, device)
    return {**rates, "best": max(rates.values())}


def bandwidth(numbers: int, seconds: float) -> dict[str, float]:
    """Bytes/s of `a = b` and of `a = b + 2 c` on arrays of so many float32 numbers."""
    a, b, c = torch.empty(numbers), torch.ones(numbers), torch.ones(numbers)
    copy, triad = best(lambda: a.copy_(b), seconds), best(lambda: torch.add(b, c, alpha=2, out=a), seconds)
    return {"bytes": 4 * numbers, "copy": 2 * 4 * numbers / copy, "triad": 3 * 4 * numbers / triad}


def array_bytes() -> int:
    """Twice the last-level cache and at least 1 GiB, but no more than a tenth of the memory: there are three arrays."""
    caches = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    largest = max((int(path.read_text().strip().rstrip("K")) * 1024 for path in caches), default=0)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(max(2 * largest, 2**30), memory // 10)


def roofline(*, tiny: bool = False) -> dict[str, dict[str, float]]:
    """Rates by precision, and the bandwidth."""
    sizes, seconds = ((64, 128), 0.01) if tiny else (SIZES, _SECONDS)
    return {
        "float32": matrix_rate(torch.float32, sizes, seconds),
        "bfloat16": matrix_rate(torch.bfloat16, sizes, seconds),
        "bandwidth": bandwidth((2**20 if tiny else array_bytes()) // 4, seconds),
    }


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    print(json.dumps(roofline(tiny="--tiny" in sys.argv)))
