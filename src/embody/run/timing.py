"""Wall time and peak memory of a run, and the machine it ran on."""

import contextlib
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from embody.config import Config
from embody.data import write_json
from embody.errors import UserError, WriteError
from embody.recording.workers import processes
from embody.run.memory import peak_memory_gib
from embody.saving.json_files import read_object

__all__ = ["machine_line", "resources", "timed"]


@contextlib.contextmanager
def timed(config: Config, stage: str, *, restart: bool = False) -> Iterator[Callable[[], None]]:
    """Add the wall seconds of the block to those of `stage` in the run (`restart`: replace them), even if it raises.

    Yields a function that records the seconds and the peak memory so far. Stages call it at checkpoints, so that a
    killed stage loses only the time since its last checkpoint.
    """
    seconds, memory = config.run_dir / "seconds.json", config.run_dir / "memory.json"
    start, earlier = time.monotonic(), 0.0 if restart else _read(seconds).get(stage, 0.0)
    workers = max(processes(config.collect.workers), config.workers)

    def record() -> None:
        write_json(seconds, _read(seconds) | {stage: round(earlier + time.monotonic() - start, 1)})
        write_json(memory, {"peak_gib": max(peak_memory_gib(workers), _read(memory).get("peak_gib", 0.0))})

    try:
        yield record
    except BaseException:
        with contextlib.suppress(WriteError):  # on a full disk, the error of the block is the one to show
            record()
        raise
    record()


def resources(config: Config, device: torch.device) -> dict[str, Any]:
    """Wall seconds, peak memory, machine and versions of the run so far, as `results.json` keeps them."""
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
    """GPU, processor, number of cores and precision, as one line of text."""
    return ", ".join([*_gpu(device).values(), _processor(), f"{torch.get_num_threads()} cores", precision])


def _read(path: Path) -> dict[str, float]:
    found = read_object(path, "delete it") if path.exists() else {}
    if not all(isinstance(value, int | float) and value >= 0 for value in found.values()):
        raise UserError(f"{path} is damaged (numbers of at least 0 expected): delete it")
    return found


def _gpu(device: torch.device) -> dict[str, str]:
    return {"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {}


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
