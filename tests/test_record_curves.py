"""scripts/record_curves.py: stops anywhere, goes on, trains nothing twice, mixes nothing up."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import record_curves

from coralx.executors.replay_table import read_rows, read_table
from coralx.objectives import OBJECTIVES
from coralx.settings.sections import DEFAULT_STAGES

TASK = "harmful_request"


def start(monkeypatch: pytest.MonkeyPatch, table: Path, *more: str) -> Any:
    small = ["--tasks", TASK, "--pack-size", "1", "--max-rows", "40", "--table", str(table)]
    monkeypatch.setattr("sys.argv", ["record_curves.py", *small, *more])
    return record_curves.main()


def test_recording_that_was_stopped_goes_on_where_it_stopped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = tmp_path / "table.parquet"
    trained: list[str] = []
    real = record_curves.train_curves

    def stop_at_the_second(worker: Any, genomes: Sequence[Any]) -> Any:
        if trained:
            raise KeyboardInterrupt
        return note(worker, genomes)

    def note(worker: Any, genomes: Sequence[Any]) -> Any:
        trained.extend(genome.id for genome in genomes)
        return real(worker, genomes)

    with monkeypatch.context() as patch:
        patch.setattr(record_curves, "train_curves", stop_at_the_second)
        assert start(patch, table, "--genomes", "2") == 130
    assert len(read_rows(table)[1]) == 4
    with monkeypatch.context() as patch:
        patch.setattr(record_curves, "train_curves", note)
        assert start(patch, table, "--genomes", "2") == 0
    assert len(trained) == len(set(trained)) == 2
    facts, rows = read_rows(table)
    assert [row["genome"] for row in rows] == [name for name in trained for _ in range(4)]
    assert (facts.seed, facts.max_rows, facts.stages) == (0, 40, DEFAULT_STAGES)

    wanted = set(OBJECTIVES) - {"cross_modal_gain"}
    for curve in read_table(table, TASK).curves:
        assert [result.stage for result in curve] == [stage.name for stage in DEFAULT_STAGES]
        for result in curve:
            assert set(result.objectives) == wanted
            assert result.cost.steps > 0
            assert result.cost.train_seconds > 0

    before = table.read_bytes()
    assert start(monkeypatch, table, "--genomes", "2", "--seed", "1") == 2
    assert table.read_bytes() == before
