"""The journal: what was appended is read back; torn and damaged lines are told apart."""

import os
import resource
import shutil
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coralx import store as store_module
from coralx.config import Config
from coralx.errors import StoreError
from coralx.lock import LOCK
from coralx.records import Genome, LoRAConfig, Repair, TrainingResult
from coralx.store import JOURNAL, Store, has_begun, read_history, read_start

STARTED = {"config": Config().model_dump(mode="json"), "seed": 0}


def result(name: str) -> TrainingResult:
    return TrainingResult(
        job="g0-S0-0",
        genome=Genome(id=name),
        generation=0,
        stage="S0",
        stage_index=0,
        lora_cfg=LoRAConfig(),
        objectives={"task_skill": float("nan")},
    )


def fill(directory: Path) -> Path:
    store = Store(directory)
    store.append("run_started", STARTED)
    store.append("results", [result("a"), result("b")])
    store.append("results", [result("c")])
    store.close()
    return directory


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return fill(tmp_path / "run")


def names(directory: Path) -> list[str]:
    return [r.genome.id for r in read_history(directory).results]


def test_what_was_appended_is_read_back(directory: Path) -> None:
    history = read_history(directory)
    assert names(directory) == ["a", "b", "c"]
    assert history.config == Config()
    assert not history.finished


def test_repairs_are_read_back(directory: Path) -> None:
    repair = Repair(
        checkpoint="a/S0-1", reason="gone", jobs=("j",), steps=3, seconds=1, identical=True
    )
    store = Store(directory)
    store.append("repaired", repair)
    store.close()
    assert read_history(directory).repairs == [repair]


def test_a_torn_last_line_is_left_out_and_overwritten(directory: Path) -> None:
    with (directory / JOURNAL).open("ab") as file:
        file.write(b'{"kind": "results", "val')
    assert len(read_history(directory).results) == 3
    store = Store(directory)
    assert "half a record (24 bytes)" in store.warning
    store.append("run_finished", {})
    store.close()
    history = read_history(directory)
    assert (len(history.results), history.finished) == (3, True)


@settings(max_examples=60)
@given(share=st.floats(0, 1))
def test_cut_anywhere_the_journal_holds_whole_records_alone(
    share: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = fill(tmp_path_factory.mktemp("cut"))
    data = (directory / JOURNAL).read_bytes()
    cut = data[: round(share * len(data))]
    (directory / JOURNAL).write_bytes(cut)
    if b"\n" not in cut:
        assert not has_begun(directory)
        with pytest.raises(StoreError, match="before its first record"):
            read_history(directory)
        return
    assert names(directory) == [[], ["a", "b"], ["a", "b", "c"]][cut.count(b"\n") - 1]
    Store(directory).close()
    assert (directory / JOURNAL).read_bytes() == cut[: cut.rfind(b"\n") + 1]


@settings(max_examples=100)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_noticed(
    place: float, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = fill(tmp_path_factory.mktemp("flip"))
    data = bytearray((directory / JOURNAL).read_bytes())
    data[int(place * (len(data) - 1))] ^= 1 << bit  # the last newline has a test of its own
    (directory / JOURNAL).write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"line \d+ is damaged"):
        read_history(directory)


@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_of_the_last_newline_loses_nothing_and_is_mended(
    bit: int, directory: Path
) -> None:
    data = (directory / JOURNAL).read_bytes()
    (directory / JOURNAL).write_bytes(data[:-1] + bytes([data[-1] ^ 1 << bit]))
    assert names(directory) == ["a", "b", "c"]
    store = Store(directory)
    assert "newline of its last line was damaged" in store.warning
    assert (directory / JOURNAL).read_bytes() == data
    store.append("results", [result("d")])
    store.close()
    assert names(directory) == ["a", "b", "c", "d"]


def test_a_damaged_middle_line_is_named_by_number_with_advice(directory: Path) -> None:
    lines = (directory / JOURNAL).read_bytes().split(b"\n")
    lines[1] = lines[1][:20]
    (directory / JOURNAL).write_bytes(b"\n".join(lines))
    with pytest.raises(StoreError, match=r"line 2 is damaged .*head -n 1"):
        read_history(directory)


def test_with_a_damaged_first_line_there_is_nothing_to_keep(directory: Path) -> None:
    data = (directory / JOURNAL).read_bytes()
    (directory / JOURNAL).write_bytes(data[1:])
    with pytest.raises(StoreError, match=r"line 1 is damaged .*backup, or begin anew"):
        read_history(directory)


@pytest.mark.parametrize(
    "order", [(0, 2), (0, 2, 1), (0, 1, 1, 2)], ids=["missing", "moved", "doubled"]
)
def test_a_line_that_is_not_the_one_that_was_there_is_named(
    directory: Path, order: tuple[int, ...]
) -> None:
    lines = (directory / JOURNAL).read_bytes().splitlines(keepends=True)
    (directory / JOURNAL).write_bytes(b"".join(lines[i] for i in order))
    wrong = next(place for place, i in enumerate(order) if place != i) + 1
    with pytest.raises(StoreError, match=f"line {wrong} is damaged or not the one"):
        read_history(directory)


def test_a_journal_cut_as_advised_can_be_gone_on_with(directory: Path) -> None:
    lines = (directory / JOURNAL).read_bytes().splitlines(keepends=True)
    (directory / JOURNAL).write_bytes(b"".join(lines[:2]))
    store = Store(directory)
    store.append("results", [result("d")])
    store.close()
    assert names(directory) == ["a", "b", "d"]


def test_seconds_of_all_sittings_add_up_even_of_killed_ones(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([100.0, 107.5, 200.0, 203.0])
    monkeypatch.setattr(store_module.time, "monotonic", lambda: next(now))
    for kind in ("results", "resumed"):  # the first is killed after 7.5 s, the second goes on
        store = Store(directory)
        store.append("resumed", {})
        store.append("paused" if kind == "resumed" else "results", {} if kind == "resumed" else [])
        store.close()
    assert read_history(directory).seconds == pytest.approx(7.5 + 3.0, abs=0.5)


def test_a_folder_without_journal_is_no_run(tmp_path: Path) -> None:
    assert not has_begun(tmp_path)
    with pytest.raises(StoreError, match="not a run directory"):
        read_history(tmp_path)


def test_a_journal_must_begin_with_the_start(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append("results", [result("a")])
    store.close()
    with pytest.raises(StoreError, match="line 1"):
        read_history(tmp_path)


def test_a_file_in_the_way_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(StoreError, match=r"cannot be written.*move away what is in its place"):
        Store(tmp_path / "run")


@pytest.mark.parametrize("name", [JOURNAL, LOCK])
def test_a_folder_in_the_way_is_named_with_what_helps(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(StoreError, match=f"{name}: cannot be written: Is a directory; move away"):
        Store(tmp_path)


OTHER = {"coralx": "9.9"}
CLOSED = {
    "index": 0,
    "population": ["a"],
    "front": ["a"],
    "front_stages": ["S0"],
    "hypervolume": 0.5,
    "diversity": 0.5,
    "first_front_share": 1.0,
}
CONFIG = STARTED["config"]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("run_started", {"config": {**CONFIG, "zzz": 1}, "versions": OTHER}),
        ("run_started", {"versions": OTHER}),
        ("run_started", {"config": None, "versions": OTHER}),
        ("run_started", {"config": "config.yaml", "versions": OTHER}),
        ("results", None),
        ("results", 7),
        ("results", {"a": 1}),
        ("job", [1]),
        ("generation", {"index": 0, "zzz": 1}),
        ("generation", {**CLOSED, "front_stages": []}),
        ("run_started", {**STARTED, "versions": OTHER, "rows": 5}),
        ("run_started", {**STARTED, "versions": OTHER, "classes": [1]}),
        ("run_started", {**STARTED, "versions": OTHER, "reading": {"cut": {}}}),
        ("run_started", {**STARTED, "versions": OTHER, "steps_per_epoch": "1"}),
        ("run_started", {**STARTED, "versions": OTHER, "steps_per_epoch": float("nan")}),
        ("resumed", {"versions": OTHER, "fingerprints": "x"}),
        ("zzz", {}),
        (["results"], {}),
    ],
)
def test_what_another_version_wrote_is_named_with_that_version(
    kind: Any, value: Any, tmp_path: Path
) -> None:
    records = [(kind, value, 0.0)]
    if kind != "run_started":
        records = [("run_started", STARTED, 0.0), ("resumed", {"versions": OTHER}, 1.0), *records]
    write_sealed(tmp_path, records)
    with pytest.raises(StoreError, match=r"that wrote it, 9\.9: ") as caught:
        read_history(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / JOURNAL}: a {kind!r} record ")


def test_a_line_that_is_nested_without_end_is_damaged(tmp_path: Path) -> None:
    write_sealed(tmp_path, [("run_started", STARTED, 0.0), ("generation", CLOSED, 1.0)])
    path = tmp_path / JOURNAL
    data = path.read_bytes()
    content = '{"kind": "paused", "value": ' + "[" * 100_000 + "]" * 100_000 + ', "seconds": 1'
    crc = zlib.crc32(content.encode(), int(data[-11:-3], 16))
    line = f'{content}, "crc32": "{crc:08x}"}}'.encode()
    path.write_bytes(data + line + b"\n")
    with pytest.raises(StoreError, match="line 3 is damaged"):
        read_history(tmp_path)
    path.write_bytes(data + line)
    assert len(read_history(tmp_path).generations) == 1, "torn, as it has no newline"


def test_seconds_beyond_all_numbers_are_no_seconds(tmp_path: Path) -> None:
    write_sealed(tmp_path, [("run_started", STARTED, 0.0), ("paused", {}, 10**400)])
    with pytest.raises(StoreError, match="a 'paused' record is not one that this version"):
        read_history(tmp_path)


@pytest.mark.parametrize("versions", [None, "1", {}])
def test_a_version_that_is_not_named_is_said_to_be_so(versions: Any, tmp_path: Path) -> None:
    started = {**STARTED, "versions": versions}
    write_sealed(tmp_path, [("run_started", started, 0.0), ("paused", {}, "long")])
    with pytest.raises(StoreError, match="which it does not name: Val"):
        read_history(tmp_path)


def write_sealed(directory: Path, records: Sequence[tuple[Any, Any, Any]]) -> None:
    """A journal of records that may be none of ours, each with its right checksum."""
    crc, data = 0, b""
    for kind, value, seconds in records:
        line, crc = store_module._seal(kind, value, seconds, crc)
        data += line
    (directory / JOURNAL).write_bytes(data)


@pytest.mark.parametrize("left", [b"", b"no line of a journal"])
def test_an_emptied_journal_is_not_taken_for_a_run_that_never_began(
    left: bytes, directory: Path
) -> None:
    (directory / "checkpoints").mkdir()
    (directory / JOURNAL).write_bytes(left)
    with pytest.raises(StoreError, match=r"if checkpoints or adapters lie beside it.*backup"):
        read_history(directory)


def test_the_start_of_a_run_is_read_without_the_rest(directory: Path) -> None:
    lines = (directory / JOURNAL).read_bytes().splitlines(keepends=True)
    (directory / JOURNAL).write_bytes(lines[0] + b"damaged\n" + lines[2])
    assert read_start(directory).config == Config()
    with pytest.raises(StoreError, match="line 2 is damaged"):
        read_history(directory)


@pytest.fixture
def file_limit() -> Iterator[None]:
    """Files of this process may not grow beyond 16 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 * 1024, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("file_limit")
def test_a_record_that_does_not_fit_on_the_disk_is_taken_back_whole(directory: Path) -> None:
    store = Store(directory)
    before = (directory / JOURNAL).read_bytes()
    with pytest.raises(StoreError, match="cannot be written: File too large"):
        store.append("results", [result("x" * 64)] * 90)
    assert (directory / JOURNAL).read_bytes() == before
    store.append("paused", {})  # a short one still fits
    store.close()
    assert names(directory) == ["a", "b", "c"]


def test_a_failed_sync_is_taken_back(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(directory)

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        with pytest.raises(StoreError, match="Input/output error"):
            store.append("results", [result("d")])
    store.append("results", [result("e")])
    store.close()
    assert names(directory) == ["a", "b", "c", "e"]


def test_nothing_is_recorded_after_closing(directory: Path) -> None:
    store = Store(directory)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.append("paused", {})


@pytest.mark.parametrize("loss", ["renamed", "removed", "replaced"])
def test_a_folder_that_is_no_longer_the_one_locked_stops_the_run(
    loss: str, directory: Path
) -> None:
    store = Store(directory)
    assert not store.warning
    elsewhere = directory.with_name("elsewhere")
    directory.rename(elsewhere)
    if loss == "removed":
        shutil.rmtree(elsewhere)
    other = Store(directory) if loss == "replaced" else None
    with pytest.raises(StoreError, match=r"moved, replaced or removed; .*coralx resume"):
        store.append("results", [result("d")])
    store.close()
    if loss != "removed":
        assert names(elsewhere) == ["a", "b", "c"]
    if other is not None:
        other.append("run_started", STARTED)
        other.close()


def test_the_name_of_a_new_journal_is_on_disk_before_anything_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    sync = os.fsync

    def note(file: int) -> None:
        synced.append(os.fstat(file).st_ino)
        sync(file)

    folder = tmp_path / "run"
    folder.mkdir()
    monkeypatch.setattr(os, "fsync", note)
    store = Store(folder)
    assert synced[-1] == folder.stat().st_ino
    store.append("run_started", STARTED)
    store.close()
    assert synced[-1] == (folder / JOURNAL).stat().st_ino


def test_a_journal_that_cannot_be_opened_leaves_no_lock(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).mkdir()
    with pytest.raises(StoreError, match="Is a directory"):
        Store(tmp_path)
    (tmp_path / JOURNAL).rmdir()
    Store(tmp_path).close()
    assert not (tmp_path / LOCK).exists()
