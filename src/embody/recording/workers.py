"""Worker processes that end with their parent."""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from embody.interruption import follow_parent

__all__ = ["processes", "worker_pool"]


def processes(workers: int) -> int:
    """`workers`, or if that is 0 the number of cores that this process may use."""
    return workers or len(os.sched_getaffinity(0))


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """A pool of spawned processes, or None for one worker. (Forking a process that has threads can deadlock.)"""
    if workers <= 1:
        yield None
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=follow_parent)
    try:
        yield pool
    except KeyboardInterrupt:  # waiting for them would take too long; complete files are kept
        for process in multiprocessing.active_children():
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
