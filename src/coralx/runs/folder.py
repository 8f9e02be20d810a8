"""The folder of a run: a new one overwrites nothing of the user's own; an edit of the settings in
an old one is noticed."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from coralx.config import PREFIX_FOLDER, Config, load_config
from coralx.errors import ConfigError, StoreError, remedy
from coralx.lock import LOCK, is_lock
from coralx.store import JOURNAL, has_begun

SETTINGS = "config.yaml"
CHECKPOINTS = "checkpoints"
ADAPTERS = "adapters"
SUMMARY = "summary.json"
REPORT = "report.html"
# What a run writes, or removes, by these names; all else in its folder it leaves alone.
WRITTEN = (
    SETTINGS,
    JOURNAL,
    LOCK,
    CHECKPOINTS,
    ADAPTERS,
    PREFIX_FOLDER,
    SUMMARY,
    REPORT,
)
# What a run killed before its first record may leave: the lock comes first, then the journal, still
# empty or with half of that record, then the settings.
BEFORE_FIRST_RECORD = {SETTINGS, JOURNAL, LOCK}


def adapter_folder(directory: Path, genome: str) -> Path:
    """Where the adapter of a front member lies."""
    return directory / ADAPTERS / genome


def check_name(directory: Path) -> None:
    """Pass if the path can be a run's: it is UTF-8, as safetensors opens no other, and no file's.

    Raises:
        StoreError: it cannot.
    """
    path = str(directory.absolute())
    try:
        path.encode()
    except UnicodeEncodeError:
        raise StoreError(
            f"{path.encode(errors='backslashreplace').decode()}: the path of a run must be UTF-8; "
            "rename the folder that is not, or choose another --out"
        ) from None
    if os.path.isfile(directory):
        raise StoreError(f"{directory}: is a file; name a folder")


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
    taken = [name for name in WRITTEN if os.path.lexists(directory / name)]
    if taken and not _is_half_begun(directory, taken):
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
        with contextlib.suppress(FileNotFoundError):
            directory.lstat()  # where the name is too long, that says so
        there = next(path for path in (directory, *directory.parents) if os.path.lexists(path))
        if there.is_symlink() and not there.exists():
            raise StoreError(
                f"{there}: is a link to nothing; make the folder that it leads to, or choose "
                "another --out"
            )
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise StoreError(
            f"{directory}: cannot be written: {error.strerror or error}; {remedy(error)}, or "
            "choose another --out"
        ) from None


def changed_settings(directory: Path, config: Config) -> list[str]:
    """The keys that the folder's settings file gives other values than the run has, which are those
    of its journal; what is wrong with the file if it cannot be read. Nothing without a file."""
    path = directory / SETTINGS
    if not path.exists():
        return []
    try:
        written = load_config(path, recorded=True)
    except ConfigError as error:
        return list(error.problems)
    return list(_differences(config.model_dump(mode="json"), written.model_dump(mode="json")))


def _differences(one: Any, other: Any, place: str = "") -> Iterator[str]:
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        if one != other:
            yield place
        return
    for key in dict.fromkeys((*one, *other)):
        yield from _differences(one.get(key), other.get(key), f"{place}.{key}".lstrip("."))


def _is_half_begun(directory: Path, taken: list[str]) -> bool:
    """Whether the files are those of a run that has not begun, and none is of another kind."""
    if taken == [LOCK]:  # an owner that lives is told when the lock is taken
        return is_lock(directory / LOCK)
    try:
        begin = (directory / JOURNAL).read_bytes()
    except OSError:
        return False
    sign = b'{"kind": "run_started"'
    return set(taken) <= BEFORE_FIRST_RECORD and begin.startswith(sign[: len(begin)])
