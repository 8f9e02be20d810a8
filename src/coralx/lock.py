"""Sole use of a run directory: two processes that write one journal would spoil it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from coralx.errors import StoreError

LOCK = "lock"

# What flock says on file systems that have no locks.
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


@dataclass(frozen=True)
class Owner:
    """Who holds a lock. `born` is when the process started, in ticks since the machine did: a
    later process may get the same pid, but not the same birth."""

    pid: int
    host: str
    born: int | None
    since: str

    @property
    def alive(self) -> bool:
        """Whether this very process still runs; True for one on another host, which cannot be
        told from here."""
        if self.host != socket.gethostname():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return self.born is None or self.born == _birth(self.pid)


class RunLock:
    """Holds `RUN/lock` from its making to `release`.

    The lock is the system's (flock), which lets go of it when its process ends in whatever way:
    a lock left by a dead process is free. The file names the owner, for the message to others.
    Where the file system has no locks, the owner named in the file decides alone.

    Raises:
        StoreError: another process holds it; the message names its pid and host. Or it is a link.
        OSError: the directory cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK
        self._file = self._take(directory)
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, json.dumps(asdict(_this_process())).encode(), 0)
        except BaseException:  # on a full disk, too, the command can be given again
            self.release()
            raise

    @property
    def holds(self) -> bool:
        """Whether `RUN/lock` is still the locked file: not where the folder was renamed or removed
        meanwhile, or the file was removed by hand."""
        return self._file >= 0 and _is_named(self._file, self._path)

    def release(self) -> None:
        """Let go; a second time does nothing."""
        if self._file < 0:
            return
        if self.holds:  # or it is another process's
            self._path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = -1

    def _take(self, directory: Path) -> int:
        while True:
            file = self._open()
            if not _lock(file):
                owner = _read_owner(file)
                os.close(file)
                raise StoreError(_refuse(directory, owner))
            if _is_named(file, self._path):
                return file
            os.close(file)  # its last owner removed it meanwhile: take the new one

    def _open(self) -> int:
        """What is opened is emptied later: never what a link leads to."""
        how = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(self._path, how, 0o644)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise StoreError(
                f"{self._path}: must be a file of CoralX's own, and is a link; remove it"
            ) from None


def is_lock(path: Path) -> bool:
    """Whether the file was made by a `RunLock`, dead or alive: it names an owner, or nobody yet."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return os.fstat(file).st_size == 0 or _read_owner(file) is not None
    finally:
        os.close(file)


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        owner = _read_owner(file)
        return owner is None or not owner.alive
    return True


def _is_named(file: int, path: Path) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except OSError:  # no such file, or no way to it
        return False


def _read_owner(file: int) -> Owner | None:
    try:
        return Owner(**json.loads(os.pread(file, 4096, 0)))
    except (OSError, ValueError, TypeError):  # being written, or not ours
        return None


def _refuse(directory: Path, owner: Owner | None) -> str:
    who = "another process"
    if owner is not None:
        who = f"process {owner.pid} on host {owner.host} since {owner.since}"
    return (
        f"{directory}: one process at a time may write a run; it is in use by {who}. "
        f"Wait for it or stop it (a process that has died holds nothing); if you are sure that it "
        f"is gone, remove {directory / LOCK}"
    )


def _this_process() -> Owner:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Owner(os.getpid(), socket.gethostname(), _birth(os.getpid()), now)


def _birth(pid: int) -> int | None:
    """Start time of a process as Linux counts it (proc(5), field 22), None where unknown."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return int(text.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
