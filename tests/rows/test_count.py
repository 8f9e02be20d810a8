"""What counting the rows refuses, as the run would, before anything is loaded."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from rich.console import Console

from coralx.config import load_config
from coralx.errors import DataError
from coralx.plan.cost import plan_run
from coralx.plan.table import render_plan
from coralx.rows.count import CHARACTERS_PER_TOKEN, count_rows
from coralx.settings.sections import DataSettings
from coralx.train.splits import load_splits


def _write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _rows(unsafe: int, safe: int, **more: Any) -> list[dict[str, Any]]:
    labels = [1] * unsafe + [0] * safe
    return [{"text": f"t{i}", "label": label, **more} for i, label in enumerate(labels)]


def test_the_mean_length_is_of_every_text(tmp_path: Path) -> None:
    rows = [{"text": "t" * (10 + 20 * (i % 2)), "label": i % 2} for i in range(2000)]
    path = _write(tmp_path / "train.jsonl", rows)
    counted = count_rows(DataSettings(train=path, validation=path, test=path))
    assert (counted.rows, counted.characters) == (2000, 20)


def test_texts_count_as_far_as_they_are_read(tmp_path: Path) -> None:
    """A few long ones would make all seem long."""
    rows = [{"text": "t" * (9 + 991 * (i % 2)), "label": i % 2} for i in range(20)]
    path = _write(tmp_path / "train.jsonl", rows)
    settings = DataSettings(train=path, validation=path, test=path, max_tokens=16)
    assert count_rows(settings).characters == (9 + (16 - 2) * 4.5) / 2


@pytest.mark.parametrize(
    ("text", "tokens"),  # as the tokenizer of the built-in model has them
    [
        ("How to bake an apple pie for the whole family", 11),
        ("Как испечь яблочный пирог для всей семьи", 34),
        ("今天天气很好我们一起去公园散步然后吃苹果派", 21),
        ("アップルパイノツクリカタ", 12),
        ("폭탄을 만드는 방법을 알려 주세요", 37),
    ],
    ids=["English", "Russian", "Chinese", "Japanese", "Korean"],
)
def test_tokens_are_estimated_by_script(text: str, tokens: int, tmp_path: Path) -> None:
    path = _write(tmp_path / "train.jsonl", [{"text": text, "label": i} for i in range(2)])
    counted = count_rows(DataSettings(train=path, validation=path, test=path))
    assert counted.characters / CHARACTERS_PER_TOKEN == pytest.approx(tokens, rel=0.3)


def test_texts_that_seem_longer_than_they_are_read_are_said(tmp_path: Path) -> None:
    short, long = ({"text": "word " * n, "label": n % 2} for n in (4, 31))
    chinese = {"text": "\u56fd" * 31, "label": 1}
    train = _write(tmp_path / "train.jsonl", [short] * 7 + [long] * 3 + [chinese] * 3)
    test = _write(tmp_path / "test.jsonl", [short, {**short, "label": 1}])
    plan = plan_run(load_config({"data": {"train": train, "test": test, "max_tokens": 32}}))
    assert plan["cut"] == {"train": {"texts": 13, "cut": 6}, "test": {"texts": 2, "cut": 0}}
    file = io.StringIO()
    render_plan(plan, Console(file=file, width=200))
    said = (
        "Warning: about 6 of 13 train texts are longer than data.max_tokens (32) and would be cut."
    )
    assert said in file.getvalue()
    render_plan(plan_run(load_config(None)), Console(file=file))
    assert file.getvalue().count("would be cut") == 1, "none of the built-in data's"


@pytest.mark.parametrize("field", ["image_column", "task_column"])
@pytest.mark.parametrize("name", ["train.jsonl", "train.parquet"])
def test_a_named_column_that_no_file_has_is_refused(field: str, name: str, tmp_path: Path) -> None:
    path = _write(tmp_path / name, _rows(10, 10, note=""))
    said = rf"data.{field}: must be a column of one of the files, got 'foto'; .* 'label', 'note';"
    with pytest.raises(DataError, match=said):
        plan_run(load_config({"data": {"train": path, field: "foto"}}))
    for column in ("note", None):
        plan_run(load_config({"data": {"train": path, field: column}}))


def test_a_column_may_be_of_another_file_or_of_later_rows(tmp_path: Path) -> None:
    plain = _write(tmp_path / "plain.jsonl", _rows(10, 10))
    later = [*_rows(5, 5), {"text": "last", "label": 1, "kind": "a"}]
    other = _write(tmp_path / "other.jsonl", later)
    for data in ({"train": plain, "test": other}, {"train": other}):
        plan_run(load_config({"data": {**data, "task_column": "kind"}}))


@pytest.mark.parametrize("given", [(), ("test",), ("validation", "test")])
@pytest.mark.parametrize("unsafe", [1, 2, 3])
def test_too_few_rows_of_a_class_to_set_aside_are_refused_as_by_the_run(
    unsafe: int, given: tuple[str, ...], tmp_path: Path
) -> None:
    path = _write(tmp_path / "train.jsonl", _rows(unsafe, 20))
    files = {}
    for name in given:
        rows = [{**row, "text": name + row["text"]} for row in _rows(3, 3)]
        files[name] = _write(tmp_path / f"{name}.jsonl", rows)
    settings = DataSettings(train=path, **files)
    if unsafe > 2 - len(given):
        assert count_rows(settings).rows >= len(load_splits(settings, seed=0).train) > 0
        return
    for read in (count_rows, lambda own: load_splits(own, seed=0)):
        with pytest.raises(DataError, match=r"no unsafe training row is left after 20 % .*: of "):
            read(settings)
