"""Files that are there whole or not at all, after a loss of power, too: a new name is on disk once
its folder is. And folders that are gone when they should be."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from coralx.errors import StoreError
from coralx.interrupts import unbroken


def write_whole(path: Path, text: str) -> None:
    """Write a text file as `write_aside` does, in the place of a link, too: in a folder from
    elsewhere it may lead to anything.

    Raises:
        StoreError: the folder cannot be written.
    """
    with _beside(path) as file:
        file.write(text)


@contextlib.contextmanager
def write_aside(path: Path, advice: str = "") -> Iterator[TextIO]:
    """A text file that takes the path's place once all of it is on disk, so that nobody ever meets
    half a file; if an error ends it, never. A link stays, and what it leads to is written. Half a
    character, as in a path that is no UTF-8, is written as its number (`\\udce9`, as JSON does).

    Args:
        advice: what else helps where it cannot be written.

    Raises:
        StoreError: the folder cannot be written, or something else than a file has the path.
    """
    with _beside(follow(path), advice) as file:
        yield file


@contextlib.contextmanager
def _beside(path: Path, advice: str = "") -> Iterator[TextIO]:
    taken = os.path.lexists(path) and not path.is_symlink()
    if taken and not path.is_file():  # of a device or a pipe nothing would be left
        raise StoreError(f"{path}: is no regular file, so it is not replaced; move it away{advice}")
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with aside.open("x", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            yield file
        put_in_place(aside, path)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written: {error.strerror or error}; free space or allow writing in "
            f"{path.parent}{advice}"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def put_in_place(aside: Path, path: Path) -> None:
    """Let a file that was written beside the path take its place, once all of it is on disk."""
    with aside.open("rb") as file:
        os.fsync(file.fileno())
    aside.replace(path)
    sync_folder(path.parent)


@contextlib.contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A folder that is gone at the end, also where a second Ctrl-C comes while it is removed."""
    folder = tempfile.TemporaryDirectory(prefix=prefix)
    try:
        yield Path(folder.name)
    finally:
        with unbroken():
            folder.cleanup()


def follow(path: Path) -> Path:
    """What a link leads to; any other path as it is."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to disk. What was renamed into it before is there for good.

    Raises:
        OSError: the folder cannot be opened. A file system that cannot sync folders is let be.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # EINVAL on some network file systems, which have no such notion
        pass
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each on disk before the next."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)
    folder.mkdir(exist_ok=True)  # raises where a file is in the way
