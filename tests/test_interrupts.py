"""Ctrl-C, SIGTERM and SIGHUP: at once, but never in the middle of a write."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from coralx.interrupts import KINDS, stoppable, unbroken


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """SIGHUP is ignored where the tests run under nohup, and so by what they start."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_stops_at_once(kind: signal.Signals) -> None:
    done = []
    before = signal.getsignal(kind)

    def work() -> None:
        with stoppable():
            os.kill(os.getpid(), kind)
            done.append("not to be reached")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert not done
    assert signal.getsignal(kind) is before


@pytest.mark.parametrize("kind", KINDS)
def test_a_write_is_finished_first_and_then_it_stops(kind: signal.Signals) -> None:
    done = []

    def write() -> None:
        with unbroken():
            os.kill(os.getpid(), kind)
            with unbroken():  # one write within another
                done.append("first half")
            done.append("second half")
        done.append("not to be reached")

    with pytest.raises(KeyboardInterrupt), stoppable():
        write()
    assert done == ["first half", "second half"]


def test_a_second_signal_does_not_break_what_the_first_began() -> None:
    """Pressing Ctrl-C twice: the last record is still written whole."""
    done = []

    def end() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            with unbroken():
                os.kill(os.getpid(), signal.SIGINT)
                done.append("recorded")

    with pytest.raises(KeyboardInterrupt), stoppable():
        end()
    assert done == ["recorded"]


def test_a_hangup_that_is_ignored_stays_so() -> None:
    """As nohup leaves it: the command is to outlive the terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_error_in_a_write_is_not_hidden_where_no_signal_came() -> None:
    with pytest.raises(ValueError, match="disk"), stoppable(), unbroken():
        raise ValueError("disk")


@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_within_a_finaliser_is_not_lost(kind: signal.Signals) -> None:
    """Python prints what is raised there and goes on."""

    class Library:
        def __del__(self) -> None:
            os.kill(os.getpid(), kind)
            done.append("finalised")

    def work() -> None:
        Library()
        for _ in range(600):
            time.sleep(0.1)
        done.append("not to be reached")

    done: list[str] = []
    before = sys.unraisablehook
    with pytest.raises(KeyboardInterrupt), stoppable():
        work()
    assert not done
    assert sys.unraisablehook is before


def test_other_errors_within_a_finaliser_are_told_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        def __del__(self) -> None:
            raise ValueError("of the library")

    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: told.append(lost.exc_type))
    with stoppable():
        Library()
    assert told == [ValueError]


def test_other_threads_keep_their_handlers() -> None:
    seen = []

    def work() -> None:
        with stoppable(), unbroken():
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_signal_while_the_process_ends_says_nothing() -> None:
    code = (
        "import atexit, os, signal, sys\n"
        "from coralx.__main__ import main\n"
        "for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):\n"
        "    atexit.register(os.kill, os.getpid(), kind)\n"
        "sys.argv = ['coralx', '--version']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_signal_while_the_command_is_imported_ends_it_alike() -> None:
    code = (
        "import os, runpy, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "runpy.run_module('coralx', run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize(
    ("command", "work"),
    [
        ("plan", "coralx.plan.cost.plan_run"),
        ("run", "coralx.runs.running.start_run"),
        ("compare", "coralx.compare.comparison.Comparison.measure"),
    ],
)
def test_any_command_ends_alike_on_sigterm(
    command: str, work: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that what it would remove at its end, such as temporary files, is removed."""
    from typer.testing import CliRunner

    from coralx.cli import app

    monkeypatch.setattr(work, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    done = CliRunner().invoke(app, [command])
    assert done.exit_code == 130
    assert command == "plan" or "stopped" in done.stderr
