"""What a unit of work is, and what is counted of it."""

import resource
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.workloads import Precision

__all__ = ["Unit", "autocast", "counts", "peak_bytes"]


@dataclass(frozen=True)
class Unit:
    """`run` is timed; `prepare`, before each, is not. What `run` returns must be finite."""

    run: Callable[[], Tensor]
    models: tuple[nn.Module, ...]
    flops: float | None = None  # by the formulas of embody.cost, where there are any
    prepare: Callable[[], None] = lambda: None
    latencies: list[float] | None = None  # of each answer, where that is asked for; `run` adds its own
    counting: Callable[[], AbstractContextManager[Any]] = nullcontext  # around the count, for what no mode can watch


def autocast(precision: Precision) -> AbstractContextManager[Any]:
    """Products in bfloat16, parameters in float32."""
    return torch.autocast("cpu", torch.bfloat16) if precision == "bfloat16" else nullcontext()


class _Calls(TorchDispatchMode):
    """Counts the operators that arrive at a kernel, and notes which parameters they read."""

    def __init__(self, models: tuple[nn.Module, ...]) -> None:
        super().__init__()
        self.parameters = {id(p): p.numel() for model in models for p in nn.Module.parameters(model)}
        self.calls, self.read = 0, set[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.calls += 1
        self.read |= {id(x) for x in tree_leaves((args, kwargs)) if id(x) in self.parameters}
        return func(*args, **kwargs)


def counts(unit: Unit) -> dict[str, float]:
    """Operator calls, parameters read and FLOPs of one unit.

    The FLOP counter knows no attention kernel of the CPU: it counts with the plain formula in its place.
    """
    with unit.counting():
        unit.prepare()
        with _Calls(unit.models) as calls:
            unit.run()
        unit.prepare()
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            unit.run()
    read = sum(calls.parameters[key] for key in calls.read)
    return {"calls": calls.calls, "parameters": read, "flops_counted": counter.get_total_flops()}


def peak_bytes() -> int:
    """The most memory that this process has held, the libraries included."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would also remember the process that started this one
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
