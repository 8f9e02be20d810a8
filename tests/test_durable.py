"""Files that are there whole or not at all, and what they may take the place of."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from coralx.durable import make_folder, write_aside, write_whole
from coralx.errors import StoreError


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    write_whole(path, "first")
    with pytest.raises(ZeroDivisionError), write_aside(path) as file:
        file.write(f"half {1 / 0}")
    assert path.read_text(encoding="utf-8") == "first"
    write_whole(path, "second")
    assert path.read_text(encoding="utf-8") == "second"
    assert list(tmp_path.iterdir()) == [path]


def test_half_a_character_is_written_as_json_would_write_it(tmp_path: Path) -> None:
    """A night's work does not end without its report for a folder that is no UTF-8."""
    write_whole(tmp_path / "kept", json.dumps("caf\udce9 é", ensure_ascii=False))
    text = (tmp_path / "kept").read_text(encoding="utf-8")
    assert text == '"caf\\udce9 é"'
    assert json.loads(text) == "caf\udce9 é"


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_what_it_leads_to_is_written(there: bool, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    file, link = tmp_path / "elsewhere" / "file", tmp_path / "link"
    link.symlink_to(file)
    if there:
        file.write_text("before", encoding="utf-8")
    with write_aside(link) as opened:
        opened.write("after")
    assert link.is_symlink()
    assert file.read_text(encoding="utf-8") == "after"
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_in_a_run_is_replaced_and_what_it_leads_to_is_left(
    there: bool, tmp_path: Path
) -> None:
    """A run from elsewhere may hold links to anything."""
    (tmp_path / "elsewhere").mkdir()
    file, link = tmp_path / "elsewhere" / "file", tmp_path / "link"
    link.symlink_to(file)
    if there:
        file.write_text("before", encoding="utf-8")
    write_whole(link, "after")
    assert not link.is_symlink()
    assert link.read_text(encoding="utf-8") == "after"
    assert [path.read_text(encoding="utf-8") for path in file.parent.iterdir()] == [
        "before"
    ] * there


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_replaced(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "kept"
    make(path)
    before = path.stat()
    with pytest.raises(StoreError, match="kept: is no regular file, so it is not replaced"):
        write_whole(path, "text")
    assert os.path.samestat(path.stat(), before)
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What is forced to disk, by inode, and what is given its name, in order."""
    found: list[tuple[str, int]] = []
    sync, replace = os.fsync, Path.replace

    def note_sync(file: int) -> None:
        found.append(("sync", os.fstat(file).st_ino))
        sync(file)

    def note_name(path: Path, target: Path) -> Path:
        found.append(("name", path.stat().st_ino))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_name)
    return found


def test_a_file_is_on_disk_before_it_has_its_name_and_the_name_after(
    done: list[tuple[str, int]], tmp_path: Path
) -> None:
    path = tmp_path / "kept"
    write_whole(path, "text")
    file, folder = path.stat().st_ino, tmp_path.stat().st_ino
    assert done == [("sync", file), ("name", file), ("sync", folder)]


def test_all_of_a_file_is_forced_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it waits in a buffer by then."""
    sizes: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda file: sizes.append(os.fstat(file).st_size))
    write_whole(tmp_path / "kept", "text")
    assert sizes[0] == len("text")


def test_each_folder_is_on_disk_before_the_next(
    done: list[tuple[str, int]], tmp_path: Path
) -> None:
    make_folder(tmp_path / "one" / "two")
    assert done == [("sync", path.stat().st_ino) for path in (tmp_path, tmp_path / "one")]
