"""How checkpoints are named on disk, for those who write them and those who sweep them."""

from __future__ import annotations

import re
from pathlib import Path

from coralx.errors import StoreError

SUFFIX = ".safetensors"
WRITING = ".writing"  # in its place while a file is not whole yet

# Genome, stage and the begin of a fingerprint: what `save_checkpoint` gives.
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*/[A-Za-z0-9_.-]+-[0-9a-f]{16}")


def is_checkpoint_id(name: str) -> bool:
    """Whether a checkpoint can be called so. No such name leads out of its folder."""
    return _ID.fullmatch(name) is not None


def checkpoint_path(folder: Path, name: str) -> Path:
    """Where a checkpoint of that id lies: in the folder, whatever a journal from elsewhere says.

    Raises:
        StoreError: no checkpoint can be called so.
    """
    if not is_checkpoint_id(name):
        raise StoreError(
            f"{folder}: a checkpoint is called GENOME/STAGE- and 16 digits of its fingerprint, got "
            f"{name!r:.200}: the journal is not as a run wrote it; restore it from a backup"
        )
    return folder / f"{name}{SUFFIX}"
