"""Writing files atomically, and locking folders against a second process."""

import contextlib
import errno
import glob
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import filelock

from embody.errors import UserError, WriteError

__all__ = [
    "atomic_write",
    "check_writable",
    "exclusive_lock",
    "open_to_append",
    "write_bytes",
    "write_json",
    "write_text",
    "writing",
]

_ADVICE = {
    errno.ENOSPC: "free some space, then run the same command again",
    errno.EDQUOT: "free some of your quota, then run the same command again",
    errno.EFBIG: "raise the limit of file sizes (`ulimit -f`), or use another file system",
}
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_SECONDS_LEFT = 24 * 3600  # for which the temporary file of a killed process is left
_FAILED_WRITES = (*_ADVICE, errno.EROFS)  # errors that only writing raises


@contextlib.contextmanager
def exclusive_lock(folder: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Create `folder` and hold its lock while the block runs; a `UserError` if another process holds it.

    With `waiting` it waits for that process instead, after calling `waiting` with a line that says so.

    The lock is the file `.NAME.lock` beside the folder. The system releases it when its process ends, so the file of a
    killed process blocks nobody. Where locks are not supported (some network file systems, a read-only parent), the
    block runs without one. A `WriteError` if the folder cannot be created.
    """
    with writing(folder):
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
def writing(path: Path, size: int | None = None) -> Iterator[None]:
    """Raise any error of the system in the block as a `WriteError` that names `path`.

    `size`: bytes that the file needs, if known; the message for a full disk says it.
    """
    try:
        yield
    except OSError as error:
        raise WriteError(_message(path, error, size)) from error


def _message(path: Path, error: OSError, size: int | None) -> str:
    space = ""
    if error.errno == errno.ENOSPC and size is not None:
        with contextlib.suppress(OSError):
            space = f" ({_megabytes(size)} needed, {_megabytes(shutil.disk_usage(path.parent).free)} free)"
    advice = _ADVICE.get(error.errno or 0, "allow writing there, or choose another folder")
    return f"{path} cannot be written: {error.strerror or error}{space}: {advice}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.3f} MB"


@contextlib.contextmanager
def atomic_write(path: Path, size: int | None = None) -> Iterator[Path]:
    """Yield a temporary path, which is renamed to `path` if the block succeeds; so `path` is never half-written.

    The temporary path has a random name, so that nobody can have put a link there. A killed process leaves it behind;
    a later call removes it once it is a day old. A `WriteError` if the file cannot be written; `size`: see `writing`.
    Other errors of the block pass through.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - old.lstat().st_mtime > _SECONDS_LEFT:
                    old.unlink()
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o666))
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        _remove(temporary)  # first, so that the message counts its space as free
        if error.errno in _FAILED_WRITES:
            raise WriteError(_message(path, error, size)) from error
        raise
    finally:
        _remove(temporary)


def _remove(temporary: Path) -> None:
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)


def open_to_append(path: Path) -> TextIO:
    """Open `path` to append text to it; a `WriteError` if that is not possible, or if it is a link or a FIFO."""
    with writing(path):
        if path.is_symlink():
            raise FileExistsError(errno.EEXIST, "it is a link")
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NO_LINK
        handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    return os.fdopen(handle, "a", encoding="utf-8")


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write `content` atomically; a `WriteError` if that is not possible."""
    with atomic_write(path, len(content)) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, as `write_bytes`. A surrogate, such as of a name that is not UTF-8, becomes `\\udcff`."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, values: Any) -> None:
    """Write JSON-ready `values`, as `write_bytes`."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def check_writable(folder: Path) -> None:
    """A `WriteError` if no file can be created in `folder`, or no folder where it shall be; leaves nothing behind."""
    probe = next(place for place in (folder, *folder.parents) if place.exists()) / f".{secrets.token_hex(8)}.tmp"
    with writing(folder):
        probe.touch(exist_ok=False)
        probe.unlink(missing_ok=True)
