"""How long a run took, how much memory, and on which machine."""

import contextlib
import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embody.config import Config
from embody.data import write_json
from embody.recording.workers import processes
from embody.run.memory import peak_memory_gib

__all__ = ["machine_line", "spent", "timed"]


@contextlib.contextmanager
def timed(config: Config, stage: str, *, anew: bool = False) -> Iterator[Callable[[], None]]:
    """Add the seconds of the block to those of `stage` in the run, or begin them `anew`; interrupted or not.

    Yields a function that records the seconds and the peak memory so far: called at checkpoints, a killed stage keeps
    them.
    """
    seconds, memory = config.run_dir / "seconds.json", config.run_dir / "memory.json"
    start, before = time.monotonic(), 0.0 if anew else _read(seconds).get(stage, 0.0)
    workers = max(processes(config.collect.workers), config.workers)

    def record() -> None:
        write_json(seconds, _read(seconds) | {stage: round(before + time.monotonic() - start, 1)})
        write_json(memory, {"peak_gib": max(peak_memory_gib(workers), _read(memory).get("peak_gib", 0.0))})

    try:
        yield record
    finally:
        record()


def spent(config: Config, device: torch.device) -> dict[str, Any]:
    """What the run has taken so far, on which machine and with which versions, for its results."""
    seconds = _read(config.run_dir / "seconds.json")
    return {
        "wall_seconds": sum(seconds.values()),
        "stage_seconds": seconds,
        "peak_memory_gib": _read(config.run_dir / "memory.json")["peak_gib"],
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "machine": {
            "cpu": _processor(),
            **_gpu(device),
            "cores": torch.get_num_threads(),
            "precision": config.precision,
        },
        "date": time.strftime("%Y-%m-%d"),
    }


def machine_line(device: torch.device, precision: str) -> str:
    """The machine in words."""
    return ", ".join([*_gpu(device).values(), _processor(), f"{torch.get_num_threads()} cores", precision])


def _read(path: Path) -> dict[str, float]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _gpu(device: torch.device) -> dict[str, str]:
    return {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
