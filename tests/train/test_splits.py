"""Rows read into splits: whole, apart, and told of where some are left out."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from coralx.cautions import scarce
from coralx.config import OBJECTIVES
from coralx.errors import DataError
from coralx.rows.file import builtin_file
from coralx.settings.sections import DataSettings
from coralx.train.rows import join, read_rows
from coralx.train.shares import halve, set_aside
from coralx.train.splits import SET_ASIDE, Splits, load_splits


def _write(path: Path, labels: Sequence[int]) -> Path:
    rows = [{"text": f"{path.stem} {i}", "label": label} for i, label in enumerate(labels)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_shipped_splits_are_whole_and_apart(splits: Splits) -> None:
    assert len(splits.train) > 2000
    assert len(splits.clean_validation) == len(splits.clean_test) == 150
    assert not splits.clean_validation.labels.any()
    assert not set(splits.clean_validation.texts) & set(splits.clean_test.texts)
    parts = (splits.train, splits.validation, splits.test)
    pairs = [set(zip(part.texts, part.images, strict=True)) for part in parts]
    assert not pairs[0] & pairs[1]
    assert not pairs[0] & pairs[2]
    assert not pairs[1] & pairs[2]
    every = join([*parts, splits.clean_validation, splits.clean_test])
    exact = set(zip(every.texts, every.images, strict=True))
    assert len(set(every.keys())) == len(exact), "no twins: each row is where it always was"


def test_missing_splits_are_set_aside_from_the_training_rows(tmp_path: Path) -> None:
    path = _write(tmp_path / "train.jsonl", [0, 1] * 50)
    found = load_splits(DataSettings(train=path), seed=0)
    parts = (found.train, found.validation, found.test)
    assert [len(part) for part in parts] == [64, 16, 20]  # a fifth, then a fifth of the rest
    assert len({text for part in parts for text in part.texts}) == 100
    assert [int(part.labels.sum()) for part in parts] == [32, 8, 10]
    assert len(found.clean_validation) == len(found.clean_test) == 0
    other = load_splits(DataSettings(train=path), seed=1)
    assert other.test.texts != found.test.texts


@pytest.mark.parametrize("seed", range(3))
def test_copies_enlarge_no_share_that_is_set_aside(seed: int, tmp_path: Path) -> None:
    """120 texts, five times each: a fifth of the texts, then a fifth of the other 96."""
    rows = [{"text": f"t{i % 120}", "label": i % 2} for i in range(600)]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_splits(DataSettings(train=path), seed)
    assert [len(part) for part in (found.train, found.validation, found.test)] == [380, 100, 120]


def test_each_share_is_drawn_from_a_stream_of_its_own(tmp_path: Path) -> None:
    path = _write(tmp_path / "train.jsonl", [0, 1] * 50)
    found = load_splits(DataSettings(train=path), seed=3)
    rest, test = set_aside(read_rows(path, DataSettings()).rows, SET_ASIDE, seed=4)
    _, validation = set_aside(rest, SET_ASIDE, seed=5)
    assert (found.test.texts, found.validation.texts) == (test.texts, validation.texts)


def _write_twins(text: str) -> list[str]:
    """The text in other case, Unicode form and white space."""
    wide = "".join(chr(ord(c) + 0xFEE0) if c.isascii() and c.isalpha() else c for c in text)
    apart = unicodedata.normalize("NFD", text)
    bold = text.replace("S", "\U0001d412")  # of mathematics, without a small letter
    return [text.upper(), f"{text.title()}\n", text.replace(" ", " \t\u3000"), wide, apart, bold]


@pytest.mark.parametrize("seed", range(3))
def test_texts_that_differ_in_case_form_or_spaces_alone_share_a_split(
    seed: int, tmp_path: Path
) -> None:
    """Or labels drawn at random are known by heart when they are measured."""
    plain = [f"caf\u00e9 Stra\u00dfe \u01f0 {i}" for i in range(60)]
    rows = [
        {"text": twin, "label": i % 2}
        for i, text in enumerate(plain)
        for twin in _write_twins(text)
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_splits(DataSettings(train=path), seed)
    parts = [
        {text.split()[-1] for text in part.texts}
        for part in (found.train, found.validation, found.test)
    ]
    assert [len(part) for part in parts] == [38, 10, 12]
    assert len(set.union(*parts)) == 60
    assert [len(part) for part in (found.train, found.validation, found.test)] == [228, 60, 72]


def test_rows_of_two_files_that_differ_in_case_or_spaces_alone_are_told(tmp_path: Path) -> None:
    train, test = _write(tmp_path / "train.jsonl", [0, 1] * 20), tmp_path / "test.jsonl"
    twins = [{"text": "TRAIN  4 ", "label": 0}, {"text": "train 5", "label": 1}]
    test.write_text("".join(json.dumps(row) + "\n" for row in twins))
    with pytest.raises(DataError) as caught:
        load_splits(DataSettings(train=train, test=test), seed=0)
    said = str(caught.value)
    assert said.startswith("2 row(s) are in two splits (same text but for case and spaces)")
    assert f"row 5 of {train} is row 1 of {test}, but for case and spaces\n" in said
    assert said.endswith(f"row 6 of {train} is row 2 of {test}")


def test_labels_that_clash_but_for_case_and_spaces_are_told(tmp_path: Path) -> None:
    path = _write(tmp_path / "train.jsonl", [0, 1] * 20)
    with path.open("a") as file:
        file.write('{"text": "Train\\n 3", "label": 0}\n')
    said: list[str] = []
    load_splits(DataSettings(train=path), 0, said.append)
    assert said == [
        f"warning: {path}: 1 text with both labels in 2 rows (same text but for case and spaces), "
        "as rows 4 and 41; keep the right ones"
    ]


def test_labels_that_clash_are_counted_by_text_and_row_and_pictures_left_out_named(
    tmp_path: Path,
) -> None:
    path = _write(tmp_path / "train.jsonl", [0, 1] * 20)
    twins = [{"text": text, "label": label} for text in "ab" for label in (0, 0, 1)]
    for row, colour in zip(twins, range(6), strict=True):
        Image.new("RGB", (8, 8), (40 * colour, 0, 0)).save(tmp_path / f"{colour}.png")
        row["image"] = f"{colour}.png"
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in twins)
    said: list[str] = []
    load_splits(DataSettings(train=path), 0, said.append)
    assert said == []
    load_splits(DataSettings(train=path, image_column=None), 0, said.append)
    assert said == [
        f"warning: {path}: 2 texts with both labels in 6 rows (same text), as rows 41 and 43; "
        "pictures (column 'image'), which are left out, may tell them apart"
    ]


def test_same_pictures_are_said_where_pictures_are_read(tmp_path: Path) -> None:
    path = _write(tmp_path / "train.jsonl", [0, 1] * 20)
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    with path.open("a") as file:
        for label in (0, 1):
            file.write(json.dumps({"text": "a", "label": label, "image": "one.png"}) + "\n")
    said: list[str] = []
    load_splits(DataSettings(train=path), 0, said.append)
    assert said == [
        f"warning: {path}: 1 text with both labels in 2 rows (same text and picture), as rows 41 "
        "and 42; keep the right ones",
        f"warning: {path}: 2 test rows with a picture, and no training row has one; the pictures "
        "are not looked at",
    ]


def test_the_built_in_rows_are_warned_of_in_one_line_without_their_pictures() -> None:
    said: list[str] = []
    load_splits(DataSettings(image_column=None), 0, said.append)
    (line,) = said
    assert line.startswith("warning: built-in data set: 158 texts with both labels in 1,206 rows")
    assert line.endswith("their pictures, which are left out, tell them apart")


@pytest.mark.parametrize("seed", range(3))
def test_copies_of_a_clean_row_are_for_one_use(seed: int, tmp_path: Path) -> None:
    """What chose among genomes says nothing in their final figures."""
    train = _write(tmp_path / "train.jsonl", [0, 1] * 20)
    clean = tmp_path / "clean.jsonl"
    clean.write_text("".join(json.dumps({"text": f"clean {i % 6}"}) + "\n" for i in range(30)))
    found = load_splits(DataSettings(train=train, clean_holdout=clean), seed)
    one, two = found.clean_validation, found.clean_test
    assert not set(one.keys()) & set(two.keys())
    assert len(one) == len(two) == 15


def test_clean_rows_of_a_task_each_are_halved(tmp_path: Path) -> None:
    """Were they balanced over tasks, each would round up, and none be left for choices."""
    train = _write(tmp_path / "train.jsonl", [0, 1] * 20)
    clean = tmp_path / "clean.jsonl"
    rows = [{"text": f"clean {i}", "task": f"source {i}"} for i in range(31)]
    clean.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said: list[str] = []
    found = load_splits(DataSettings(train=train, clean_holdout=clean), 0, said.append)
    assert (len(found.clean_validation), len(found.clean_test)) == (15, 16)
    assert set(found.clean_validation.tasks) < {row["task"] for row in rows}
    assert not said


def test_the_halves_of_the_shipped_clean_rows_are_what_they_were() -> None:
    rows = read_rows(builtin_file("clean_holdout"), DataSettings(), safe=True).rows
    for seed in range(3):
        before, now = set_aside(rows, 50, seed), halve(rows, seed)
        assert [part.fingerprint() for part in now] == [part.fingerprint() for part in before]


def test_every_split_has_a_fingerprint_of_its_own(splits: Splits) -> None:
    """The halves of the clean rows, too: they are measured."""
    names = {"train", "validation", "test", "clean_validation", "clean_test"}
    assert splits.fingerprints == {name: getattr(splits, name).fingerprint() for name in names}
    assert len(set(splits.fingerprints.values())) == len(names)


def test_clean_rows_that_are_all_for_final_figures_are_told(tmp_path: Path) -> None:
    train, clean = _write(tmp_path / "train.jsonl", [0, 1] * 20), tmp_path / "clean.jsonl"
    clean.write_text('{"text": "the only one"}\n' * 3)
    said: list[str] = []
    found = load_splits(DataSettings(train=train, clean_holdout=clean), 0, said.append)
    assert (len(found.clean_validation), len(found.clean_test)) == (0, 3)
    assert said == [
        f"warning: {clean}: of 3 clean rows (copies go together) none is left for choices, all are "
        "for final figures; give more"
    ]


def test_rows_left_out_are_told_and_counted(tmp_path: Path) -> None:
    """Bad ones, and those that another split has as well."""
    test = _write(tmp_path / "test.jsonl", [5, 1, 0])
    rows = test.read_text().splitlines(keepends=True)[1:]
    train = _write(tmp_path / "train.jsonl", [0, 1] * 10 + [5] * 4)
    with train.open("a") as file:
        file.writelines(rows)
    said: list[str] = []
    settings = DataSettings(train=train, test=test, on_bad_rows="skip")
    found = load_splits(settings, seed=0, say=said.append)
    _, bad, twice = sorted(said, key=lambda text: text.startswith(f"warning: {train}"))
    assert bad.startswith(f"warning: {train}: 4 of 26 rows left out: row 21: label must be 0 or 1")
    assert bad.endswith("; ...")
    row = f"row 25 of {train} is row 2 of {test}"
    assert twice.startswith(f"warning: {train}: 2 of 26 rows left out: {row}; row 26 of")
    assert found.left_out == {str(train): 6, str(test): 1}
    assert not load_splits(DataSettings(), seed=0, say=said.append).left_out
    assert len(said) == 3


@pytest.mark.parametrize("column", ["image_column", "task_column"])
def test_a_named_column_that_no_file_has_is_refused(column: str, tmp_path: Path) -> None:
    path = _write(tmp_path / "train.jsonl", [0, 1] * 20)
    said = rf"data.{column}: must be a column of one of the files, got 'foto'; there are 'text', 'l"
    with pytest.raises(DataError, match=said):
        load_splits(DataSettings(train=path, **{column: "foto"}), seed=0)
    load_splits(DataSettings(train=path, **{column: None}), seed=0)


def test_optional_columns_can_be_switched_off() -> None:
    settings = DataSettings(image_column=None, task_column=None, max_rows=200)
    train = load_splits(settings, seed=0).train
    assert set(train.tasks) == {"all"}
    assert not any(train.images)


def test_a_column_may_be_called_none() -> None:
    assert DataSettings(image_column="none").image_column == "none"


def test_pictures_that_are_only_measured_are_told(tmp_path: Path) -> None:
    train = _write(tmp_path / "train.jsonl", [0, 1] * 20)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    test = tmp_path / "test.jsonl"
    rows = [{"text": f"t{i}", "label": i, "image": "a.png"} for i in range(2)]
    test.write_text("".join(json.dumps(row) + "\n" for row in rows))
    clean = tmp_path / "clean.jsonl"
    clean.write_text('{"text": "a", "image": "a.png"}\n{"text": "b"}\n{"text": "c"}\n')
    said: list[str] = []
    files = DataSettings(train=train, test=test, clean_holdout=clean)
    load_splits(files, seed=0, say=said.append)
    assert said == [
        f"warning: {path}: {count} with a picture, and no training row has one; the pictures are "
        "not looked at"
        for path, count in ((test, "2 test rows"), (clean, "1 clean_holdout row"))
    ]
    said.clear()
    load_splits(DataSettings(train=train, test=test, image_column=None), seed=0, say=said.append)
    assert not said


def test_given_splits_are_taken_whole(tmp_path: Path) -> None:
    settings = DataSettings(
        train=_write(tmp_path / "train.jsonl", [0, 1] * 10),
        validation=_write(tmp_path / "validation.jsonl", [0, 1, 1]),
        test=_write(tmp_path / "test.jsonl", [1, 0]),
        clean_holdout=_write(tmp_path / "clean.jsonl", [0] * 5),
    )
    found = load_splits(settings, seed=0)
    assert len(found.train) == 20
    assert found.validation.labels.tolist() == [0, 1, 1]
    assert found.test.texts == ("test 0", "test 1")
    assert (len(found.clean_validation), len(found.clean_test)) == (2, 3)


def test_clean_rows_are_safe_ones_whether_labelled_or_not(tmp_path: Path) -> None:
    train = _write(tmp_path / "train.jsonl", [0, 1] * 20)
    clean = tmp_path / "clean.jsonl"
    clean.write_text('{"text": "a"}\n{"text": "b"}\n')
    found = load_splits(DataSettings(train=train, clean_holdout=clean), seed=0)
    assert len(found.clean_validation) == len(found.clean_test) == 1
    _write(clean, [0, 1])
    with pytest.raises(DataError, match=r"row 2: label is 1 \(unsafe\)"):
        load_splits(DataSettings(train=train, clean_holdout=clean), seed=0)


def test_max_rows_keeps_a_stratified_share(tmp_path: Path) -> None:
    names = ("train", "validation", "test")
    files = {name: _write(tmp_path / f"{name}.jsonl", [0, 0, 0, 1] * 50) for name in names}
    settings = DataSettings(**files, max_rows=40)
    one, other = (load_splits(settings, seed).train for seed in (0, 1))
    assert np.bincount(one.labels).tolist() == [30, 10]
    assert one.texts != other.texts, "the run's seed draws them"


def test_max_rows_holds_for_clean_rows_too(tmp_path: Path) -> None:
    train = _write(tmp_path / "train.jsonl", [0, 1] * 20)
    clean = _write(tmp_path / "clean.jsonl", [0] * 30)
    found = load_splits(DataSettings(train=train, clean_holdout=clean, max_rows=10), seed=0)
    assert len(found.clean_validation) == len(found.clean_test) == 5


@pytest.mark.parametrize("seed", range(8))
def test_max_rows_keeps_rare_strata(seed: int, tmp_path: Path) -> None:
    """Wherever the rare row stands, last but one as well, where spacing leaves one out."""
    labels = [0] * 900 + [1] + [0] * 20
    files = {name: tmp_path / f"{name}.jsonl" for name in ("train", "validation", "test")}
    settings = DataSettings(**{n: _write(p, labels) for n, p in files.items()}, max_rows=50)
    found = load_splits(settings, seed)
    for part in (found.train, found.validation, found.test):
        assert np.bincount(part.labels).tolist() == [49, 1]


def test_max_rows_below_the_number_of_strata_keeps_both_classes(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": int(i in (5, 45)), "task": f"id {i}"} for i in range(78)]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {name: _write(tmp_path / f"{name}.jsonl", [0, 1]) for name in ("validation", "test")}
    train = load_splits(DataSettings(train=path, **files, max_rows=8), seed=0).train
    assert len(train) == 8
    assert train.labels.any()
    assert not train.labels.all()


def _write_tasks(path: Path, rows: Sequence[tuple[int, str]]) -> Path:
    """Rows of a label and a task each."""
    lines = [
        json.dumps({"text": f"{path.stem} {i}", "label": label, "task": task})
        for i, (label, task) in enumerate(rows)
    ]
    path.write_text("\n".join(lines))
    return path


def test_tasks_without_both_classes_are_named_for_each_measured_split(tmp_path: Path) -> None:
    both = [(0, "a"), (1, "a")] * 4
    settings = DataSettings(
        train=_write_tasks(tmp_path / "train.jsonl", [*both, (1, "only trained on")]),
        validation=_write_tasks(tmp_path / "validation.jsonl", [*both, (1, "b"), (0, "c")]),
        test=_write_tasks(tmp_path / "test.jsonl", [*both, (0, "c"), (1, "c")]),
    )
    assert load_splits(settings, seed=0).missing_classes == {
        "validation": {"b": ["safe"], "c": ["unsafe"]},
        "test": {"b": ["unsafe", "safe"]},
    }


def test_rows_of_a_class_are_counted_for_each_task_where_there_are_some(tmp_path: Path) -> None:
    """And of rows with a picture, whether or not it is read."""
    both = [(0, "a"), (1, "a")] * 4
    settings = DataSettings(
        train=_write_tasks(tmp_path / "train.jsonl", [*both, (1, "only trained on")]),
        validation=_write_tasks(tmp_path / "validation.jsonl", [*both, (1, "b"), (1, "b")]),
        test=_write_tasks(tmp_path / "test.jsonl", both),
    )
    found = load_splits(settings, seed=0)
    assert found.task_classes == {
        "validation": {"a": {"unsafe": 4, "safe": 4}, "b": {"unsafe": 2, "safe": 0}},
        "test": {},
    }
    pictured = replace(found.validation, images=(None, b"", b"", b"", *[None] * 6))
    assert replace(found, validation=pictured).picture_classes == {
        "validation": {"unsafe": 2, "safe": 1},
        "test": {"unsafe": 0, "safe": 0},
    }


def test_pictures_are_measured_where_both_classes_have_some_and_they_are_read() -> None:
    found = load_splits(DataSettings(), seed=0)
    assert found.measures_pictures
    rows = found.validation
    pairs = zip(rows.labels, rows.images, strict=True)
    one = replace(rows, images=tuple(image if label else None for label, image in pairs))
    assert not replace(found, validation=one).measures_pictures
    plain = replace(found.train, images=(None,) * len(found.train))
    assert not replace(found, train=plain).measures_pictures


@pytest.mark.parametrize("most", [None, 200])
def test_the_built_in_rows_are_short_of_nothing(most: int | None) -> None:
    """Nor is the share of them that configs/quick.yaml takes."""
    found = load_splits(DataSettings(max_rows=most), seed=0)
    names = ("classes", "task_classes", "picture_classes")
    known = {name: getattr(found, name) for name in names} | {"stage_classes": {}}
    assert scarce(known, OBJECTIVES) == []
    assert found.picture_classes["validation"]["unsafe"] > 0


def test_rows_without_a_task_are_told_where_others_have_one(tmp_path: Path) -> None:
    said: list[str] = []
    none = [(0, ""), (1, "")] * 4
    some = [(0, "all"), (1, "all"), (0, "b"), (1, "b")]
    path, other = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    settings = DataSettings(train=_write_tasks(path, none), test=_write_tasks(other, none))
    load_splits(settings, 0, said.append)
    assert said == []
    settings = DataSettings(train=_write_tasks(path, none), test=_write_tasks(other, some))
    load_splits(settings, 0, said.append)
    assert said == [
        f"warning: {path}: 8 of 8 rows have no task, others have; without one they are measured as "
        "task 'all'"
    ]


@pytest.mark.parametrize("label", [0, 1])
def test_rows_of_one_class_are_refused(label: int, tmp_path: Path) -> None:
    path = _write(tmp_path / "train.jsonl", [label] * 10)
    pattern = f"rows: both classes are needed, got {label * 6} unsafe and {6 - label * 6} safe of 6"
    with pytest.raises(DataError, match=f"{pattern}; add rows of both$"):
        load_splits(DataSettings(train=path), seed=0)


def test_a_given_split_of_one_class_is_refused_by_name(tmp_path: Path) -> None:
    settings = DataSettings(
        train=_write(tmp_path / "train.jsonl", [0, 1] * 10),
        validation=_write(tmp_path / "validation.jsonl", [1, 1]),
    )
    said = "validation rows: both classes are needed, got 2 unsafe .*; add rows of both$"
    with pytest.raises(DataError, match=said):
        load_splits(settings, seed=0)
