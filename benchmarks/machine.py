"""What the machine is, in words that name no host."""

import os
import platform
import re
from pathlib import Path

__all__ = ["describe", "slug"]

_TOLD = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def describe() -> dict[str, object]:
    """Processor, instruction sets that matter here, cores given to this process, memory, load before the run."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    flags = set(" ".join(re.findall(r"^flags\s*:\s*(.+)$", info, re.MULTILINE)[:1]).split())
    return {
        "processor": model.group(1).strip() if model else platform.machine(),
        "instructions": [flag for flag in _TOLD if flag in flags],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "load_before": round(os.getloadavg()[0], 2),
    }


def slug(machine: dict[str, object]) -> str:
    """For a file's name: processor, cores, and AMX where there is one."""
    name = re.sub(r"\([^)]*\)|\bprocessor\b|\bCPU\b|@.*", " ", str(machine["processor"]), flags=re.IGNORECASE)
    words = [*re.findall(r"[a-z0-9]+", name.lower()), f"{machine['cores']}cores"]
    return "-".join(words + ["amx"] * ("amx_bf16" in str(machine["instructions"])))
