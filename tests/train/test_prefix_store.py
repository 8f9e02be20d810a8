"""Frozen outputs beyond the memory budget: in files, the same, reopened, never stale."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from coralx.errors import StoreError
from coralx.train.backbone import Backbone
from coralx.train.prefix import EncodedRows
from coralx.train.prefix_store import CHUNK, PrefixStore, drop_parts
from coralx.train.rows import Rows

CHOSEN = [3, 0, 7]


def _encode(rows: Rows, backbone: Backbone, store: PrefixStore | None = None) -> EncodedRows:
    return EncodedRows(rows, backbone, None, max_tokens=16, depths=(2, 4), store=store)


def test_files_hold_what_memory_would(text_rows: Rows, backbone: Backbone, tmp_path: Path) -> None:
    kept = _encode(text_rows, backbone).batch(CHOSEN)
    mapped = _encode(text_rows, backbone, PrefixStore(tmp_path / "prefix", 0)).batch(CHOSEN)
    assert torch.equal(mapped.at(4), kept.at(4))
    assert torch.equal(mapped.at(2), kept.at(2))
    assert len(list((tmp_path / "prefix").glob("*.bin"))) == 2


def test_memory_is_used_up_to_the_budget(
    text_rows: Rows, backbone: Backbone, tmp_path: Path
) -> None:
    one = (1 + sum(_encode(text_rows, backbone).lengths)) * backbone.hidden * 4
    for budget, files in ((2 * one, 0), (one, 1), (one - 1, 2)):
        folder = tmp_path / str(budget)
        _encode(text_rows, backbone, PrefixStore(folder, budget)).prepare(4)
        assert len(list(folder.glob("*.bin"))) == files


def test_what_was_not_filled_leaves_its_share_of_the_budget(tmp_path: Path) -> None:
    store, size = PrefixStore(tmp_path, 24), (2, 3)
    for _ in range(3):
        store.make("one", size, torch.float32, torch.device("cpu"))
        store.drop("one")
    store.make("one", size, torch.float32, torch.device("cpu"))
    store.keep("one")
    store.drop("one")  # it was kept
    assert not list(tmp_path.iterdir())
    store.make("two", size, torch.float32, torch.device("cpu"))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_later_process_computes_nothing_again(
    text_rows: Rows, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _encode(text_rows, backbone, PrefixStore(tmp_path, 0)).batch(CHOSEN).at(4).clone()
    monkeypatch.setattr(backbone, "run", None)
    again = _encode(text_rows, backbone, PrefixStore(tmp_path, 0)).batch(CHOSEN).at(4)
    assert torch.equal(again, first)


def test_other_rows_have_other_files(text_rows: Rows, backbone: Backbone, tmp_path: Path) -> None:
    _encode(text_rows, backbone, PrefixStore(tmp_path, 0)).prepare(4)
    turned = text_rows.take(range(len(text_rows))[::-1])
    alone = _encode(turned, backbone).batch(CHOSEN).at(4)
    mapped = _encode(turned, backbone, PrefixStore(tmp_path, 0)).batch(CHOSEN).at(4)
    assert torch.equal(mapped, alone)
    assert len(list(tmp_path.glob("*.bin"))) == 4


def test_another_base_format_or_cut_of_the_tokens_has_other_files(
    tiny_model: Callable[[str], Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_model("llama")

    def count(*texts: str) -> int:
        size = len(texts)
        rows = Rows(texts, np.zeros(size, np.int8), ("all",) * size, (None,) * size)
        EncodedRows(rows, base, None, 16, store=PrefixStore(tmp_path, 0)).prepare(1)
        return len(list(tmp_path.glob("*.bin")))

    assert count("how do", "i bake bread") == 1
    assert count("how do", "i bake bread") == 1
    assert count("how do i", "bake bread") == 2  # the same tokens, end to end
    monkeypatch.setattr(base.products, "dtype", torch.bfloat16)
    assert count("how do", "i bake bread") == 3
    monkeypatch.setattr(base, "digest", "of another model")
    assert count("how do", "i bake bread") == 4


def test_a_files_name_says_all_that_its_content_depends_on(
    tiny_model: Callable[[str], Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of rows of equal lengths, too; on a GPU and with another torch the last bits are others."""
    base, store = tiny_model("llama"), PrefixStore(tmp_path, 0)

    def key(text: str, depth: int = 1) -> str:
        rows = Rows((text,), np.zeros(1, np.int8), ("all",), (None,))
        return EncodedRows(rows, base, None, 16, store=store)._key(depth)

    encoded = EncodedRows(Rows(("bake",), np.zeros(1, np.int8), ("all",), (None,)), base, None, 16)
    encoded._store = store
    keys = [key("bake"), key("bread"), key("bake", 2)]
    for owner, name, other in (
        (base, "dtype", torch.bfloat16),
        (base, "device", torch.device("cuda")),
        (torch, "__version__", "another"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, other)
            keys.append(encoded._key(1))
    assert keys[0] == encoded._key(1)
    assert len(set(keys)) == 6


def test_a_file_that_was_not_finished_is_not_used(
    text_rows: Rows, backbone: Backbone, tmp_path: Path
) -> None:
    whole = _encode(text_rows, backbone).batch(CHOSEN).at(2)
    _encode(text_rows, backbone, PrefixStore(tmp_path, 0)).prepare(2)
    (path,) = tmp_path.glob("*.bin")
    path.write_bytes(bytes(path.stat().st_size))
    path.rename(path.with_suffix(".part"))
    again = _encode(text_rows, backbone, PrefixStore(tmp_path, 0)).batch(CHOSEN).at(2)
    assert torch.equal(again, whole)


def test_a_file_cut_short_is_made_anew(text_rows: Rows, backbone: Backbone, tmp_path: Path) -> None:
    whole = _encode(text_rows, backbone, PrefixStore(tmp_path, 0)).batch(CHOSEN).at(4).clone()
    for path in tmp_path.glob("*.bin"):
        os.truncate(path, path.stat().st_size // 2)
    again = _encode(text_rows, backbone, PrefixStore(tmp_path, 0)).batch(CHOSEN).at(4)
    assert torch.equal(again, whole)


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_a_damaged_file_is_made_anew(
    place: float, text_rows: Rows, backbone: Backbone, tmp_path: Path
) -> None:
    """One bit in another place, in the content or in the digest after it."""
    whole = _encode(text_rows, backbone).batch(CHOSEN).at(4)
    _encode(text_rows, backbone, PrefixStore(tmp_path, 0)).prepare(4)
    for path in tmp_path.glob("*.bin"):
        data = bytearray(path.read_bytes())
        data[round(place * (len(data) - 1))] ^= 1
        path.write_bytes(bytes(data))
    again = _encode(text_rows, backbone, PrefixStore(tmp_path, 0)).batch(CHOSEN).at(4)
    assert torch.equal(again, whole)


@pytest.mark.parametrize("place", [CHUNK - 1, CHUNK, 2 * CHUNK + 3])
def test_a_damaged_file_is_known_wherever_the_damage_is(place: int, tmp_path: Path) -> None:
    """Of a file that is read in three pieces, the last of four bytes."""
    form = (CHUNK // 2 + 1,), torch.float32
    store = PrefixStore(tmp_path, 0)
    store.make("key", *form, torch.device("cpu")).fill_(1)
    store.keep("key")
    assert store.find("key", *form) is not None
    with (tmp_path / "key.bin").open("r+b") as file:
        file.seek(place)
        file.write(b"x")
    assert store.find("key", *form) is None


def test_what_killed_processes_left_half_filled_is_removed(tmp_path: Path) -> None:
    for key in ("one", "two"):
        PrefixStore(tmp_path, 0).make(key, (2, 3), torch.float32, torch.device("cpu"))
    store = PrefixStore(tmp_path, 0)
    store.make("whole", (2, 3), torch.float32, torch.device("cpu"))
    store.keep("whole")
    drop_parts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["whole.bin"]


def test_a_full_disk_is_told_before_anything_is_written(
    text_rows: Rows, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(StoreError, match=r"No space left on device.*training\.prefix_memory_gb"):
        _encode(text_rows, backbone, PrefixStore(tmp_path, 0)).prepare(2)
    assert not list(tmp_path.iterdir())


def test_two_processes_that_make_one_file_do_not_meet(tmp_path: Path) -> None:
    one, other = PrefixStore(tmp_path, 0), PrefixStore(tmp_path, 0)
    form = ((2, 3), torch.float32)
    first = one.make("key", *form, torch.device("cpu"))
    first += 1
    second = other.make("key", *form, torch.device("cpu"))
    assert bool((first == 1).all()), "what one has filled is not emptied by the other"
    second += 2
    one.keep("key")
    other.keep("key")
    assert bool((first == 1).all())
    assert [path.name for path in tmp_path.iterdir()] == ["key.bin"]


def test_what_cannot_be_computed_leaves_no_file(
    text_rows: Rows, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    rows = _encode(text_rows, backbone, PrefixStore(tmp_path, 0))
    with monkeypatch.context() as patch:
        patch.setattr(backbone, "run", interrupt)
        with pytest.raises(KeyboardInterrupt):
            rows.prepare(4)
    assert not list(tmp_path.iterdir())
    assert torch.equal(rows.batch(CHOSEN).at(4), _encode(text_rows, backbone).batch(CHOSEN).at(4))


def test_a_file_is_on_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    replace = Path.replace

    def note(path: Path, target: Path) -> Path:
        done.append("name")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", lambda _: done.append("sync"))
    monkeypatch.setattr(Path, "replace", note)
    store = PrefixStore(tmp_path, 0)
    store.make("key", (2, 3), torch.float32, torch.device("cpu"))
    store.keep("key")
    assert done == ["sync", "name"]
