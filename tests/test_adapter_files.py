"""An exported adapter: on disk before its sidecar says so, and whole or known not to be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from coralx.adapter_files import SIDECAR, is_whole, seal_adapter

NAMES = ["adapter_config.json", "adapter_model.safetensors"]


def write(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        (folder / name).write_text(f"what {name} holds", encoding="utf-8")
    seal_adapter(folder, NAMES, {"stage": "S2"})
    return folder


def test_all_is_on_disk_before_the_sidecar_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut leaves is what was synced: the other files, the sidecar, the folders."""
    synced: list[tuple[int, int]] = []
    sync = os.fsync

    def note(file: int) -> None:
        found = os.fstat(file)
        synced.append((found.st_ino, found.st_mtime_ns))
        sync(file)

    def when(path: Path) -> int:
        found = path.stat()
        return synced.index((found.st_ino, found.st_mtime_ns))

    monkeypatch.setattr(os, "fsync", note)
    folder = write(tmp_path / "adapters" / "one")
    others = [when(folder / name) for name in NAMES]
    assert max(others) < when(folder / SIDECAR) < when(folder) < when(folder.parent)


@pytest.mark.parametrize("name", [*NAMES, SIDECAR])
@pytest.mark.parametrize("loss", ["missing", "empty", "zeros", "of another kind"])
def test_an_adapter_of_which_anything_is_lost_is_not_whole(
    loss: str, name: str, tmp_path: Path
) -> None:
    assert not is_whole(tmp_path)
    path = write(tmp_path) / name
    assert is_whole(tmp_path)
    data = path.read_bytes()
    path.unlink()
    if loss != "missing":
        path.write_bytes({"empty": b"", "zeros": bytes(len(data))}.get(loss, b"[1, 2]"))
    assert not is_whole(tmp_path)
    assert is_whole(write(tmp_path))
