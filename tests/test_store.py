"""The journal: what was appended is read back; torn and damaged lines are told apart."""

from pathlib import Path

import pytest

from coralx.config import Config
from coralx.errors import StoreError
from coralx.records import Genome, LoRAConfig, TrainingResult
from coralx.store import JOURNAL, Store, read_history

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


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    store = Store(tmp_path / "run")
    store.append("run_started", STARTED)
    store.append("result", result("a"))
    store.append("result", result("b"))
    store.close()
    return tmp_path / "run"


def test_what_was_appended_is_read_back(directory: Path) -> None:
    history = read_history(directory)
    assert [r.genome.id for r in history.results] == ["a", "b"]
    assert history.config == Config()
    assert not history.finished


def test_a_torn_last_line_is_left_out_and_overwritten(directory: Path) -> None:
    with (directory / JOURNAL).open("ab") as file:
        file.write(b'{"kind": "result", "val')
    assert len(read_history(directory).results) == 2
    store = Store(directory)
    store.append("run_finished", {"seconds": 2.5})
    store.close()
    history = read_history(directory)
    assert (len(history.results), history.finished, history.seconds) == (2, True, 2.5)


def test_a_damaged_middle_line_is_named_by_number(directory: Path) -> None:
    lines = (directory / JOURNAL).read_bytes().split(b"\n")
    lines[1] = lines[1][:20]
    (directory / JOURNAL).write_bytes(b"\n".join(lines))
    with pytest.raises(StoreError, match="line 2 is damaged"):
        read_history(directory)


def test_seconds_of_all_sittings_add_up(directory: Path) -> None:
    store = Store(directory)
    store.append("paused", {"seconds": 3.0})
    store.append("run_finished", {"seconds": 4.0})
    store.close()
    assert read_history(directory).seconds == 7.0


def test_a_folder_without_journal_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a run directory"):
        read_history(tmp_path)


def test_a_journal_must_begin_with_the_start(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.append("result", result("a"))
    store.close()
    with pytest.raises(StoreError, match="line 1"):
        read_history(tmp_path)


def test_a_file_in_the_way_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(StoreError, match="cannot be written"):
        Store(tmp_path / "run")
