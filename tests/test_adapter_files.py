"""An exported adapter: on disk before its sidecar says so, and whole or known not to be."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from coralx.adapter_files import SIDECAR, _digest, is_whole, read_facts, seal_adapter

NAMES = ["adapter_config.json", "adapter_model.safetensors"]
FACTS: dict[str, Any] = {"genome": {"id": "aa", "r": 4}, "stage": "S2", "threshold": 0.186}


def write(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        (folder / name).write_text(f"what {name} holds", encoding="utf-8")
    seal_adapter(folder, NAMES, FACTS)
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
    assert not is_whole(tmp_path, {})
    path = write(tmp_path) / name
    assert is_whole(tmp_path, {})
    data = path.read_bytes()
    path.unlink()
    if loss != "missing":
        path.write_bytes({"empty": b"", "zeros": bytes(len(data))}.get(loss, b"[1, 2]"))
    assert not is_whole(tmp_path, {})
    assert is_whole(write(tmp_path), {})


@pytest.mark.parametrize("change", [{"threshold": 0.886}, {"files": {}}, {"stage": None}])
def test_a_sidecar_that_was_changed_is_noticed(change: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path) / SIDECAR
    facts = read_facts(tmp_path)
    assert {name: facts[name] for name in FACTS} == FACTS
    written = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(written | change), encoding="utf-8")
    assert not is_whole(tmp_path, {})
    with pytest.raises(ValueError, match="not as it was written"):
        read_facts(tmp_path)


@pytest.mark.parametrize("change", [{"genome": {"id": "bb", "r": 4}}, {"stage": "S3"}, {"x": 1}])
def test_an_adapter_of_another_genome_or_stage_is_not_whole(
    change: dict[str, Any], tmp_path: Path
) -> None:
    folder = write(tmp_path)
    stated = {"genome": FACTS["genome"], "stage": "S2"}
    assert is_whole(folder, stated)
    assert not is_whole(folder, stated | change)


@pytest.mark.parametrize(
    "files",
    [None, [], ["adapter_model.safetensors"], {}, {"adapter_config.json": ""}]
    + [
        {"adapter_model.safetensors": "", name: ""} for name in ("/dev/zero", "../x", "coralx.json")
    ],
)
def test_a_sidecar_that_names_no_adapters_files_is_damaged(files: Any, tmp_path: Path) -> None:
    """Sealed as it is: it came so, and what it names would be read."""
    facts = FACTS | {"files": files}
    (tmp_path / SIDECAR).write_text(json.dumps(facts | {"sha256": _digest(facts)}), "utf-8")
    with pytest.raises(ValueError, match="does not name an adapter's files"):
        read_facts(tmp_path)
    assert not is_whole(tmp_path, {})


def test_a_sidecar_that_is_nested_without_end_is_damaged(tmp_path: Path) -> None:
    (tmp_path / SIDECAR).write_text("[" * 100_000 + "]" * 100_000, encoding="utf-8")
    with pytest.raises(ValueError, match="nested too deeply"):
        read_facts(tmp_path)
