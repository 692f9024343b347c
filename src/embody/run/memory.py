"""How much memory a run took at most."""

import sys

__all__ = ["peak_memory_gib"]


def peak_memory_gib(workers: int) -> float:
    """Largest resident size of this process in GiB, plus `workers` times that of its largest child that has ended.

    The kernel's own peaks: psutil knows one on Windows only, and asked now and then for the present size it would miss
    what lies between. On Windows children do not count.
    """
    try:
        import resource
    except ImportError:  # Windows; where there is `resource`, psutil imports it
        import psutil

        memory = psutil.Process().memory_info()
        return getattr(memory, "peak_wset", memory.rss) / 2**30
    own, child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return (own + workers * child) * (1 if sys.platform == "darwin" else 1024) / 2**30  # bytes there, KiB on Linux
