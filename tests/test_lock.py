"""One process at a time on a run directory; the dead hold nothing."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from coralx import lock
from coralx.errors import StoreError
from coralx.lock import LOCK, Owner, RunLock
from coralx.store import Store

HOLD = """
import sys, time
from pathlib import Path
from coralx.store import Store
store = Store(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> "subprocess.Popen[str]":
    """Another process that holds tmp_path."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_second_process_is_refused_with_the_owners_pid_and_host(
    holder: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    with pytest.raises(StoreError) as caught:
        Store(tmp_path)
    assert f"process {holder.pid} on host {socket.gethostname()}" in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_left_by_a_dead_process_is_taken_over(
    holder: "subprocess.Popen[str]", tmp_path: Path, kind: signal.Signals
) -> None:
    holder.send_signal(kind)
    holder.wait()
    assert (tmp_path / LOCK).exists(), "it had no chance to remove it"
    Store(tmp_path).close()
    assert not (tmp_path / LOCK).exists()


def test_a_second_lock_in_the_same_process_is_refused_too(tmp_path: Path) -> None:
    first = RunLock(tmp_path)
    with pytest.raises(StoreError, match=f"process {os.getpid()}"):
        RunLock(tmp_path)
    first.release()
    first.release()
    RunLock(tmp_path).release()


def test_a_lock_file_that_says_nothing_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("{", encoding="utf-8")
    RunLock(tmp_path).release()


@pytest.mark.parametrize("there", [True, False])
def test_what_a_link_leads_to_is_neither_emptied_nor_made(there: bool, tmp_path: Path) -> None:
    """A folder from elsewhere may hold anything."""
    run, own = tmp_path / "run", tmp_path / "own"
    run.mkdir()
    if there:
        own.write_text("text", encoding="utf-8")
    (run / LOCK).symlink_to(own)
    with pytest.raises(StoreError, match=r"lock: must be a file of CoralX's own, and is a link"):
        Store(run)
    assert own.exists() == there
    assert not there or own.read_text(encoding="utf-8") == "text"
    own.write_text("", encoding="utf-8")
    assert not lock.is_lock(run / LOCK)


def test_a_removed_lock_file_does_not_let_two_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is opened, its owner removes it and a third makes a new one: not ours."""
    first = RunLock(tmp_path)
    names = iter([False, True])
    first.release()
    with monkeypatch.context() as patch:
        patch.setattr(lock, "_is_named", lambda file, path: next(names))
        second = RunLock(tmp_path)
    assert next(names, None) is None
    second.release()


def test_a_full_disk_leaves_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(lock.errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refuse)
        with pytest.raises(StoreError, match=r"No space left .* give the same command again"):
            Store(tmp_path)
    assert not list(tmp_path.iterdir())
    Store(tmp_path).close()


def test_a_lock_that_is_another_process_s_by_now_is_not_removed(tmp_path: Path) -> None:
    first = RunLock(tmp_path)
    assert first.holds
    (tmp_path / LOCK).unlink()
    assert not first.holds
    second = RunLock(tmp_path)
    first.release()
    assert second.holds
    second.release()
    assert not second.holds


@pytest.fixture
def _no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks."""

    def refuse(*_: int) -> None:
        raise OSError(lock.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)


def leave(directory: Path, **changes: object) -> None:
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "born": None, "since": "then"}
    (directory / LOCK).write_text(json.dumps(owner | changes), encoding="utf-8")


@pytest.mark.usefixtures("_no_locks")
def test_without_locks_the_owner_in_the_file_decides(tmp_path: Path) -> None:
    leave(tmp_path)
    with pytest.raises(StoreError, match="in use"):
        RunLock(tmp_path)
    leave(tmp_path, host="elsewhere", pid=1)
    with pytest.raises(StoreError, match="on host elsewhere"):
        RunLock(tmp_path)
    leave(tmp_path, pid=2**22 + 5)  # above any pid
    RunLock(tmp_path).release()


@pytest.mark.usefixtures("_no_locks")
def test_a_later_process_with_the_same_pid_is_not_the_owner(tmp_path: Path) -> None:
    leave(tmp_path, born=1)
    assert not Owner(os.getpid(), socket.gethostname(), 1, "then").alive
    RunLock(tmp_path).release()


@pytest.mark.usefixtures("_no_locks")
def test_without_locks_an_owner_on_another_host_is_never_taken_for_dead(tmp_path: Path) -> None:
    leave(tmp_path, host="elsewhere", pid=2**22 + 5)  # above any pid here
    with pytest.raises(StoreError, match="on host elsewhere"):
        RunLock(tmp_path)


def test_a_process_of_another_user_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert Owner(os.getpid(), socket.gethostname(), None, "then").alive
