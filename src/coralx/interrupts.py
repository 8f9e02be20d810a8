"""Ctrl-C, SIGTERM and SIGHUP: at once, but never in the middle of a write.

All raise KeyboardInterrupt. While something is being written (`unbroken`) they are held back to
its end, which is milliseconds away; anywhere else the run is at a safe point, because its state
is what the journal says and nothing else.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

KINDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class _Held:
    """How deep in writes the main thread is, and whether a signal waits for their end."""

    depth: int = 0
    waiting: bool = False


_held = _Held()


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP stop what runs inside with KeyboardInterrupt.

    Python lets the main thread alone set signal handlers; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with handlers_kept():
        _listen()
        yield


@contextlib.contextmanager
def whole_process() -> Iterator[None]:
    """As `stoppable`, and what comes after is the end of the process, in which signals are ignored:
    a second Ctrl-C would interrupt Python's own clearing up with a traceback.
    """
    _listen()
    try:
        yield
    finally:
        for kind in KINDS:
            signal.signal(kind, signal.SIG_IGN)


@contextlib.contextmanager
def unbroken() -> Iterator[None]:
    """Hold signals back to the end of what runs inside; for writes, which are short."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _held.depth += 1
    try:
        yield
    finally:
        _held.depth -= 1
        if _held.depth == 0 and _held.waiting:
            _held.waiting = False
            raise KeyboardInterrupt


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """Undo what a library does to the handlers of these signals while it is started."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {kind: signal.getsignal(kind) for kind in KINDS}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _listen() -> None:
    for kind in KINDS:
        # Who starts a command under nohup wants it to outlive the terminal.
        if kind != signal.SIGHUP or signal.getsignal(kind) != signal.SIG_IGN:
            signal.signal(kind, _stop)


def _stop(_signal: int, _frame: FrameType | None) -> None:
    if _held.depth:
        _held.waiting = True
    else:
        raise KeyboardInterrupt
