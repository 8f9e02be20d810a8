"""How checkpoints are named on disk, for those who write them and those who sweep them."""

from __future__ import annotations

from pathlib import Path

SUFFIX = ".safetensors"
WRITING = ".writing"  # in its place while a file is not whole yet


def checkpoint_path(folder: Path, name: str) -> Path:
    """Where a checkpoint of that id lies."""
    return folder / f"{name}{SUFFIX}"
