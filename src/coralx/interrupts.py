"""Ctrl-C, SIGTERM and SIGHUP: at once, but never in the middle of a write.

All raise KeyboardInterrupt. While something is being written (`unbroken`) they are held back to
its end, which is milliseconds away; anywhere else the run is at a safe point, because its state
is what the journal says and nothing else.

The command listens before it imports anything else, so this module imports little.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

KINDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
AGAIN_SECONDS = 0.05


class _Held:
    """How deep in writes the main thread is, and whether a signal waits for their end."""

    depth = 0
    waiting = False


_held = _Held()


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP stop what runs inside with KeyboardInterrupt.

    Python lets the main thread alone set signal handlers; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with handlers_kept(), _not_lost():
        _listen()
        yield


@contextlib.contextmanager
def whole_process() -> Iterator[None]:
    """As `stoppable`, and what comes after is the end of the process, in which signals are ignored:
    a second Ctrl-C would interrupt Python's own clearing up with a traceback.
    """
    _listen()
    try:
        with _not_lost():
            yield
    finally:
        for kind in KINDS:
            signal.signal(kind, signal.SIG_IGN)


@contextlib.contextmanager
def unbroken() -> Iterator[None]:
    """Hold signals back to the end of what runs inside; for reads and writes, which are short."""
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


@contextlib.contextmanager
def _not_lost() -> Iterator[None]:
    """What a handler raises while some `__del__` or callback of a library runs goes no further:
    Python calls the unraisable hook instead. The signal is then sent again, once that is over."""
    before = sys.unraisablehook

    def send_again(lost: Any) -> None:
        if lost.exc_type is not KeyboardInterrupt:
            before(lost)
            return
        main = threading.main_thread().ident
        timer = threading.Timer(AGAIN_SECONDS, signal.pthread_kill, (main, signal.SIGINT))
        timer.daemon = True
        timer.start()

    sys.unraisablehook = send_again
    try:
        yield
    finally:
        sys.unraisablehook = before


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
