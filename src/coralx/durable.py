"""Files that survive a loss of power: a new name is on disk once its folder is."""

from __future__ import annotations

import os
from pathlib import Path


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
    missing = [folder, *folder.parents]
    missing = [path for path in missing if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)
    folder.mkdir(exist_ok=True)  # raises where a file is in the way
