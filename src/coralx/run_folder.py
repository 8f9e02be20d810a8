"""The folder of a new run: nothing of the user's own is in it, and it can be written."""

from __future__ import annotations

import tempfile
from pathlib import Path

from coralx.config import PREFIX_FOLDER
from coralx.errors import StoreError
from coralx.lock import LOCK
from coralx.store import JOURNAL, has_begun

SETTINGS = "config.yaml"
# What a run writes, or removes, by these names; all else in its folder it leaves alone.
WRITTEN = (
    SETTINGS,
    JOURNAL,
    LOCK,
    "checkpoints",
    "adapters",
    PREFIX_FOLDER,
    "summary.json",
    "report.html",
)
# What a run killed before its first record may leave: the journal, still empty or with half of
# that record, comes before the settings.
BEFORE_FIRST_RECORD = {SETTINGS, JOURNAL, LOCK}


def check_new(directory: Path) -> None:
    """Pass if a run may begin there: also where one was killed before its first record.

    Raises:
        StoreError: it holds a run, or files that a run would overwrite or remove.
    """
    if has_begun(directory):
        raise StoreError(
            f"{directory}: holds a run already; `coralx resume {directory}` goes on with it, or "
            "choose another --out"
        )
    taken = [name for name in WRITTEN if (directory / name).exists()]
    if taken and not (set(taken) <= BEFORE_FIRST_RECORD and _is_half_begun(directory / JOURNAL)):
        raise StoreError(
            f"{directory}: a new run overwrites nothing, and this folder holds "
            f"{', '.join(sorted(taken))} already; choose another --out, or move them away"
        )


def check_writable(directory: Path) -> None:
    """Pass if the folder, or the one it will be made in, can be written; leaves nothing there.

    Raises:
        StoreError: it cannot.
    """
    try:
        there = next(path for path in (directory, *directory.parents) if path.exists())
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise StoreError(
            f"{directory}: cannot be written: {error.strerror or error}; free space or allow "
            "writing, or choose another --out"
        ) from None


def _is_half_begun(journal: Path) -> bool:
    """Whether it is the journal of a run that has not begun, and no file of another kind."""
    try:
        begin = journal.read_bytes()
    except OSError:
        return False
    sign = b'{"kind": "run_started"'
    return begin.startswith(sign[: len(begin)])
