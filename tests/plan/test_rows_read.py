"""A plan reads the rows as the run does and refuses what it would, before anything is loaded."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image
from rich.console import Console

from coralx.config import load_config
from coralx.errors import ConfigError, DataError, ModelError
from coralx.plan.cost import plan_run
from coralx.plan.table import render_plan
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


def test_texts_that_seem_longer_than_they_are_read_are_said(tmp_path: Path) -> None:
    short, long = ("word " * n for n in (4, 31))
    texts = [*[short] * 8, *[long] * 3, *["\u56fd" * 31] * 3]
    rows = [{"text": f"{text} {i}", "label": i % 2} for i, text in enumerate(texts)]
    other = [{"text": f"other {i}", "label": i % 2} for i in range(4)]
    names = ("train", "validation", "test")
    files = {
        name: _write(tmp_path / f"{name}.jsonl", own)
        for name, own in zip(names, (rows, other[:2], other[2:]), strict=True)
    }
    plan = plan_run(load_config({"data": {**files, "max_tokens": 32}}))
    none = {"texts": 2, "cut": 0}
    assert plan["cut"] == {"train": {"texts": 14, "cut": 6}, "validation": none, "test": none}
    file = io.StringIO()
    render_plan(plan, Console(file=file, width=200))
    said = (
        "Warning: about 6 of 14 train texts are longer than data.max_tokens (32) and would be cut."
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
    later = [{**row, "text": row["text"] + " more"} for row in _rows(5, 5)]
    later.append({"text": "last", "label": 1, "kind": "a"})
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
        assert _count(settings) == len(load_splits(settings, seed=0).train) > 0
        return
    for read in (_count, lambda own: load_splits(own, seed=0)):
        with pytest.raises(DataError, match=r"no unsafe training row is left after 20 % .*: of "):
            read(settings)


def _count(settings: DataSettings) -> int:
    return int(plan_run(load_config({"data": settings.model_dump()}))["rows"])


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("most", [None, 31])
def test_counts_are_those_of_the_run(kind: str, most: int | None, tmp_path: Path) -> None:
    """Copies go together, each stratum of task and picture rounds up, and bad rows are left out."""
    pictures = []
    for name in ("a.png", "b.png"):
        Image.effect_noise((8, 8), 90).save(tmp_path / name)
        pictures.append(name)
    bad = {"text": "", "label": 1, "task": "a", "image": None}
    rows = [
        {
            "text": f"t{i // 3 if i % 2 else i}",
            "label": i % 2,
            "task": "abc"[i % 3 % (1 + i % 2)],
            "image": [None, *pictures][i % 7 % 3],
        }
        for i in range(97)
    ]
    path = _write(tmp_path / f"train.{kind}", [*rows, bad])
    settings = DataSettings(train=path, on_bad_rows="skip", max_rows=most)
    found, opened = (load_splits(settings, seed=3, pictures=looked) for looked in (False, True))
    for name in ("train", "validation", "test"):
        one, other = getattr(found, name), getattr(opened, name)
        assert (one.texts, one.tasks) == (other.texts, other.tasks)
    assert found.picture_classes == opened.picture_classes
    assert all(found.picture_classes["validation"].values())
    plan = plan_run(load_config({"data": settings.model_dump(), "evolution": {"seed": 3}}))
    assert plan["rows"] == len(opened.train) < 97 - 20


def test_rows_that_are_in_two_splits_are_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "train.jsonl", _rows(10, 10))
    with pytest.raises(DataError, match=r"20 row\(s\) are in two splits"):
        plan_run(load_config({"data": {"train": path, "test": path}}))


def test_pictures_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    """One prompt for all pictures, and a folder of its own for each split."""
    rows = [{"text": "safe?", "label": i % 2, "image": f"{i}.png"} for i in range(4)]
    files = {}
    for place, split in enumerate(("train", "validation", "test")):
        (tmp_path / split).mkdir()
        for i in range(4):
            Image.new("RGB", (4, 4), (place, i, 0)).save(tmp_path / split / f"{i}.png")
        files[split] = _write(tmp_path / split / "rows.jsonl", rows)
    settings = DataSettings(**files)
    for looked in (False, True):
        splits = load_splits(settings, seed=0, pictures=looked)
        assert [len(splits.train), len(splits.validation), len(splits.test)] == [4, 4, 4]


def test_pictures_of_long_paths_or_large_bytes_are_told_apart(tmp_path: Path) -> None:
    """Else rows of one text and other pictures were copies, and refused in two files."""
    long = "x" * 300
    for name, kind in (("jsonl", str), ("parquet", str.encode)):
        files = {}
        for split in ("train", "test"):
            rows = [{**row, "image": kind(long + split)} for row in _rows(10, 10)]
            files[split] = _write(tmp_path / f"{split}.{name}", rows)
        assert plan_run(load_config({"data": files}))["rows"] == 16


def test_pictures_without_a_tower_are_refused(tmp_path: Path) -> None:
    rows = [{**row, "image": "a.png"} for row in _rows(10, 10)]
    path = _write(tmp_path / "train.jsonl", rows)
    with pytest.raises(ModelError, match="images but vision_tower is null; name a tower"):
        plan_run(load_config({"data": {"train": path}, "vision_tower": None}))
    config = {"data": {"train": path, "image_column": None}, "vision_tower": None}
    assert plan_run(load_config(config))["rows"] == 12


def test_what_only_pictures_measure_needs_some_of_both_classes(tmp_path: Path) -> None:
    """Among the validation rows, as the run asks."""
    rows = [{**row, "image": "a.png"} for row in _rows(10, 10)]
    plain = [{**row, "text": "other " + row["text"]} for row in _rows(3, 3)]
    train = _write(tmp_path / "train.jsonl", rows)
    for shown, told in ((0, True), (3, True), (6, False)):
        own = [{**row, "image": "b.png"} for row in plain[:shown]] + plain[shown:]
        data = {"train": train, "validation": _write(tmp_path / "validation.jsonl", own)}
        assert bool(plan_run(load_config({"data": data}))["unmeasured"]) == told
        alone = load_config({"data": data, "objectives": ["cross_modal_gain"]})
        if told:
            with pytest.raises(ConfigError, match="one at least must be measurable"):
                plan_run(alone)
        else:
            plan_run(alone)


def _show(plan: dict[str, Any]) -> str:
    file = io.StringIO()
    render_plan(plan, Console(file=file, width=300))
    return file.getvalue()


def test_warnings_of_the_rows_are_those_of_the_run(tmp_path: Path) -> None:
    rows = [{**row, "task": f"k\x1b{i % 3}"} for i, row in enumerate(_rows(20, 20))]
    rows += [{"text": "both", "label": label, "task": "b"} for label in (0, 1)]
    rows += [{"text": "", "label": 1, "task": "b"}, {"text": "alone", "label": 0}]
    files = {"train": _write(tmp_path / "train.jsonl", rows)}
    for name in ("validation", "test"):
        own = [{**row, "text": name + row["text"], "task": "b"} for row in _rows(12, 40)]
        files[name] = _write(tmp_path / f"{name}.jsonl", [*own, {**own[0], "text": name}])
    config = load_config({"data": {**files, "on_bad_rows": "skip"}})
    plan, told = plan_run(config), list[str]()
    load_splits(config.data, 0, told.append)
    start, warnings = len(told), plan["warnings"]
    assert [f"warning: {text}" for text in warnings[:start]] == told
    assert "1 of 44 rows left out" in warnings[0]
    assert "1 text with both labels in 2 rows" in warnings[1]
    assert "1 of 43 rows have no task" in warnings[2]
    assert [text.split(" unsafe")[0] for text in warnings[start:]] == [
        "validation has 13",
        "test has 13",
    ]
    shown = _show({**plan, "warnings": [*warnings, "a task named \x1b[2J"]}).splitlines()
    assert shown[0].startswith("8 genomes a generation")
    assert shown[1:5] == [f"Warning: {text}" for text in warnings[:4]]
    assert shown[len(warnings) + 1 :][:2] == ["Warning: a task named \ufffd[2J", ""]
    assert plan_run(config, 100)["warnings"] == warnings


def test_stages_that_choose_by_few_rows_are_warned_of(tmp_path: Path) -> None:
    path = _write(tmp_path / "train.jsonl", _rows(300, 300))
    warnings = plan_run(load_config({"data": {"train": path}}))["warnings"]
    assert len(warnings) == 1
    assert "for S1_shakeout" in warnings[0]
    assert "to choose by" in warnings[0]


def test_no_warning_is_of_what_was_not_looked_at(tmp_path: Path) -> None:
    rows = [{**row, "image": "a.png" if i % 40 == 0 else None} for i, row in
            enumerate(_rows(900, 900))]  # fmt: skip
    path = _write(tmp_path / "train.jsonl", rows)
    assert plan_run(load_config({"data": {"train": path, "max_tokens": 4}}))["warnings"] == []
    assert plan_run(load_config(None))["warnings"] == []
    missing = load_config({"data": {"train": tmp_path / "no.jsonl"}})
    (told,) = plan_run(missing, 100)["warnings"]
    assert told.endswith("no.jsonl: no such file")


def test_texts_are_measured_by_the_vocabulary_of_the_base(tmp_path: Path) -> None:
    rows = [{**row, "text": "이메일을 " * 20 + row["text"]} for row in _rows(20, 20)]
    data = {"train": _write(tmp_path / "train.jsonl", rows), "max_tokens": 120}
    cut = {}
    for vocabulary in (30_522, 250_002):
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
        settings = {"model_type": "xlm-roberta", "vocab_size": vocabulary, **sizes}
        base = tmp_path / f"{vocabulary}"
        base.mkdir()
        (base / "config.json").write_text(json.dumps(settings))
        space = {"r": {"kind": "choice", "values": list(range(1, 9))}}
        found = plan_run(load_config({"base_model": str(base), "data": data, "space": space}))
        cut[vocabulary] = found["cut"]["train"]["cut"]
    assert cut == {30_522: found["rows"], 250_002: 0}
