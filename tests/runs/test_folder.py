"""Where a new run may begin: never over files of the user's own, but over one that never began."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import yaml

from coralx.config import Config, load_config
from coralx.errors import StoreError
from coralx.lock import LOCK, RunLock
from coralx.runs.folder import SETTINGS, WRITTEN, changed_settings, check_new, check_writable
from coralx.runs.running import start_run
from coralx.runs.watcher import Watcher
from coralx.store import JOURNAL, Store, read_start


def test_an_absent_an_empty_and_a_folder_of_other_files_may_hold_a_run(tmp_path: Path) -> None:
    check_new(tmp_path / "absent")
    check_new(tmp_path)
    (tmp_path / "rows.jsonl").write_text("{}", encoding="utf-8")
    check_new(tmp_path)


@pytest.mark.parametrize("name", WRITTEN)
def test_nothing_of_the_users_is_overwritten_or_removed(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(StoreError, match=rf"overwrites nothing.*holds {name} already.*another"):
        start_run(load_config(None), tmp_path, Watcher())
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("left", ["", '{"kind": "run_sta', '{"kind": "run_started", "value": {'])
def test_a_run_killed_before_its_first_record_can_be_started_again(
    left: str, tmp_path: Path
) -> None:
    for name, text in ((JOURNAL, left), ("config.yaml", "seed: 0"), (LOCK, "{}")):
        (tmp_path / name).write_text(text, encoding="utf-8")
    check_new(tmp_path)
    (tmp_path / "checkpoints").mkdir()  # no run has those before its first record
    with pytest.raises(StoreError, match=r"holds checkpoints, config\.yaml, journal\.jsonl, lock"):
        check_new(tmp_path)


@pytest.mark.parametrize("at", ["ftruncate", "pwrite", "open"])
def test_a_start_killed_between_lock_and_journal_can_be_given_again(
    at: str, tmp_path: Path
) -> None:
    """`open`: that of the journal, as the lock is named by then."""
    child = os.fork()
    if child == 0:

        def die(*_: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        lock = RunLock(tmp_path) if at == "open" else None
        setattr(os, at, die)
        Store(tmp_path) if lock is None else os.open(tmp_path / JOURNAL, os.O_CREAT)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
    check_new(tmp_path)
    Store(tmp_path).close()
    check_new(tmp_path)


def test_a_run_that_has_begun_is_to_be_resumed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append("run_started", {"config": Config().model_dump(mode="json")})
    store.close()
    with pytest.raises(StoreError, match=f"coralx resume {tmp_path}"):
        check_new(tmp_path)


def test_whether_a_folder_can_be_written_is_told_first_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_writable(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    with pytest.raises(StoreError, match="Not a directory; move away what is in its place"):
        check_writable(tmp_path / "file" / "run")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    monkeypatch.setattr("coralx.runs.opening.load_worker", None)  # nothing is loaded before
    with pytest.raises(StoreError, match=r"cannot be written: Permission denied; .*another --out"):
        start_run(load_config(None), tmp_path / "run", Watcher())


def test_a_run_of_genes_that_no_new_run_may_have_stays_readable(tmp_path: Path) -> None:
    genes = {"lr": {"kind": "choice", "values": [0.1, 0.2]}}
    config = load_config({"space": genes}, recorded=True)
    (tmp_path / SETTINGS).write_text(yaml.safe_dump(config.model_dump(mode="json")))
    assert changed_settings(tmp_path, config) == []
    store = Store(tmp_path)
    store.append("run_started", {"config": config.model_dump(mode="json")})
    store.close()
    assert read_start(tmp_path).config == config


@pytest.mark.parametrize("target", ["nowhere", "link"])
def test_a_link_to_no_folder_is_refused_before_anything_is_loaded(
    target: str, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(StoreError, match=f"^{link}: is a link to nothing; make .*another --out"):
        check_writable(link)


def test_a_name_that_is_too_long_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 100)
    check_new(directory)
    with pytest.raises(StoreError, match=r"cannot be written: File name too long; .*another --out"):
        check_writable(directory)


def test_a_path_that_is_no_utf8_is_refused_before_training(tmp_path: Path) -> None:
    """It can be written, and safetensors reads nothing from it."""
    directory = tmp_path / os.fsdecode(b"new\xff") / "run"
    with pytest.raises(
        StoreError, match=r"new\\udcff/run: the path of a run must be UTF-8; rename"
    ):
        start_run(load_config(None), directory, Watcher())
    assert not list(tmp_path.iterdir())


def test_settings_edited_after_the_start_are_named(tmp_path: Path) -> None:
    config = load_config({"data": {"train": str(tmp_path / "rows.jsonl")}})
    assert changed_settings(tmp_path, config) == []
    written = config.model_dump(mode="json")

    def write() -> None:
        (tmp_path / SETTINGS).write_text(yaml.safe_dump(written), encoding="utf-8")

    write()
    assert changed_settings(tmp_path, config) == []
    written["training"]["batch_size"] += 1
    written["space"]["r"]["values"].append(32)
    del written["space"]["dropout"]
    write()
    assert changed_settings(tmp_path, config) == [
        "space.r.values",
        "space.dropout",
        "training.batch_size",
    ]
    written["training"]["batch_size"] = 0
    write()
    (problem,) = changed_settings(tmp_path, config)
    assert problem.startswith("training.batch_size: must be")
