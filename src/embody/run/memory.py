"""The peak memory of a run."""

import sys

__all__ = ["peak_memory_gib"]


def peak_memory_gib(workers: int) -> float:
    """Peak resident size of this process in GiB, plus `workers` times that of its largest child that has ended.

    The kernel keeps these peaks; sampling the current size with psutil would miss peaks between samples. On Windows
    only this process counts.
    """
    try:
        import resource
    except ImportError:  # on Windows; psutil is imported only there
        import psutil

        memory = psutil.Process().memory_info()
        return getattr(memory, "peak_wset", memory.rss) / 2**30
    own, child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return (own + workers * child) * (1 if sys.platform == "darwin" else 1024) / 2**30  # bytes there, KiB on Linux
