"""`init` writes a job that loads and points at rows that are there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coralx.cli.starter import NEW_ROWS, SIZES, write_starter
from coralx.config import Config, load_config
from coralx.errors import StoreError
from coralx.plan.cost import plan_run
from coralx.train.rows import fold


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("starter") / "my job"
    write_starter(folder)
    return folder


def _rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_configuration_loads_and_names_files_beside_it(starter: Path) -> None:
    config = load_config(starter / "config.yaml")
    assert config.data.train == starter.absolute() / "train.jsonl"
    for path in (config.data.train, config.data.validation, config.data.test):
        assert path is not None
        assert path.is_file()


def test_what_the_configuration_spells_out_is_known(starter: Path) -> None:
    config = load_config(starter / "config.yaml")
    assert config.base_model == Config().base_model
    assert config.hyperband.full_epochs == 3.5
    assert [stage.name for stage in config.hyperband.stages] == ["short", "long"]


@pytest.mark.parametrize("split", SIZES)
def test_rows_are_balanced_and_their_pictures_are_there(starter: Path, split: str) -> None:
    rows = _rows(starter / f"{split}.jsonl")
    texts, pictured = SIZES[split]
    for label in (0, 1):
        own = [row for row in rows if row["label"] == label]
        with_picture = [row for row in own if "image" in row]
        assert (len(own) - len(with_picture), len(with_picture)) == (texts, pictured)
        for row in with_picture:
            assert (starter / str(row["image"])).read_bytes()[:4] == b"RIFF"


def test_counted_rows_are_those_written(starter: Path) -> None:
    config = load_config(starter / "config.yaml")
    assert plan_run(config)["rows"] == 2 * sum(SIZES["train"])


def test_rows_to_predict_are_new_to_the_job(starter: Path) -> None:
    rows = _rows(starter / NEW_ROWS)
    assert [sum(row["label"] == label for row in rows) for label in (0, 1)] == [10, 10]
    known = {fold(str(row["text"])) for split in SIZES for row in _rows(starter / f"{split}.jsonl")}
    assert known.isdisjoint(fold(str(row["text"])) for row in rows)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine", encoding="utf-8")
    with pytest.raises(StoreError, match=r"holds config\.yaml already"):
        write_starter(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    assert (tmp_path / "config.yaml").read_text(encoding="utf-8") == "mine"


def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(StoreError, match=r"cannot be written: .*; free space or allow writing"):
        write_starter(tmp_path / "file" / "job")
