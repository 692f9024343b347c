"""Signals that ask a command to end. A training ends only after a complete step."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

__all__ = ["Interrupted", "deferred_signals", "follow_parent", "raise_on_signals"]

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def raise_on_signals() -> None:
    """From now on Ctrl-C, SIGTERM and SIGHUP raise `Interrupted` in the main thread, unless they are ignored
    (nohup)."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handle)


def follow_parent(worker: int = 0) -> None:
    """Set up a worker process: it ignores signals, which its parent gets too, and ends when its parent ends.

    `worker` is not used; some callers pass the number of the worker.
    """
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end(sentinel: int = parent.sentinel) -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


@contextlib.contextmanager
def deferred_signals() -> Iterator[Callable[[], int | None]]:
    """Keep the first signal that comes while the block runs, so that the block can end in order; a second one raises at
    once.

    Yields a function that returns the kept signal's number, or None. Only the main thread receives signals: in any
    other thread the function always returns None.
    """
    kept: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if kept:
            raise Interrupted(number)
        kept.append(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        for number, handler in before.items():
            if handler not in (signal.SIG_IGN, None):
                signal.signal(number, handle)
    try:
        yield lambda: kept[0] if kept else None
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
