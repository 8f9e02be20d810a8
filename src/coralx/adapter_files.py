"""The folder of an exported adapter: whole once its sidecar, which is written last and says what
the other files hold, is there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from coralx.durable import sync_folder, write_whole

SIDECAR = "coralx.json"  # beside a PEFT adapter: what scoring needs and PEFT does not know
FILES = "files"  # its key for the SHA-256 of the others, by name


def seal_adapter(folder: Path, names: Iterable[str], facts: Mapping[str, object]) -> None:
    """Write the sidecar, after which the adapter survives a loss of power.

    Args:
        names: of the adapter's other files.

    Raises:
        OSError, StoreError: the folder cannot be written.
    """
    marks = {}
    for name in names:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
            marks[name] = hashlib.file_digest(file, "sha256").hexdigest()
    text = json.dumps({**facts, FILES: marks}, indent=2) + "\n"
    write_whole(folder / SIDECAR, text)
    sync_folder(folder.parent)


def is_whole(folder: Path) -> bool:
    """Whether all that was exported is there as it was written; reads every file once."""
    try:
        marks = json.loads((folder / SIDECAR).read_text(encoding="utf-8"))[FILES]
        return all(
            hashlib.sha256((folder / name).read_bytes()).hexdigest() == mark
            for name, mark in marks.items()
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False
