"""Files that are whole or not there, and folders that one process at a time writes to."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embody.errors import UserError

__all__ = ["alone", "aside", "write_json"]


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else writes to `folder` while the block runs; a `UserError` if another process is at it already."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise UserError(f"{folder}: another process writes there: wait until it is done") from None
    except OSError:  # a file system without locks
        pass
    try:
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which becomes `path` when the block ends well: never half a file there."""
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
    """Write JSON-ready `values` aside, then rename."""
    with aside(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
