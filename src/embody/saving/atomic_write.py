"""Writing files atomically, and locking folders against a second process."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock

from embody.errors import UserError

__all__ = ["atomic_write", "exclusive_lock", "write_json"]


@contextlib.contextmanager
def exclusive_lock(folder: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Create `folder` and hold its lock while the block runs; a `UserError` if another process holds it.

    With `waiting` it waits for that process instead, after calling `waiting` with a line that says so.

    The lock is the file `.NAME.lock` beside the folder. The system releases it when its process ends, so the file of a
    killed process blocks nobody. Where locks are not supported (some network file systems, a read-only parent), the
    block runs without one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    real = folder.resolve()  # one lock for the folder, also if a link leads to it
    lock = filelock.FileLock(real.with_name(f".{real.name}.lock"), timeout=0, fallback_to_soft=False)
    with contextlib.suppress(OSError):
        try:
            lock.acquire()
        except filelock.Timeout:
            if waiting is None:
                raise UserError(f"{folder}: another process writes there: wait until it is done") from None
            waiting(f"{folder}: waiting for another process that writes there")
            lock.acquire(timeout=-1)
    try:
        yield
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):  # Windows cannot delete an open file
                os.unlink(
                    lock.lock_file
                )  # before the release, so that a process that has just opened the file tries again
        lock.release()


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path, which is renamed to `path` if the block succeeds; so `path` is never half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    """Write JSON-ready `values` atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
