"""Rows of user files: what is read, and what is refused with its number and reason."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from coralx.errors import DataError
from coralx.rows.file import builtin_file, iterate_rows
from coralx.settings.sections import DataSettings
from coralx.train.rows import Rows, join, read_rows

PLAIN = [{"text": "bake bread", "label": 0}, {"text": "break in", "label": 1}]
Write = Callable[..., Path]


def _png(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def _write_jsonl(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _write_csv(path: Path, rows: list[Any]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(path: Path, rows: list[Any]) -> None:
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Rows into a file whose ending says how."""
    kinds = {".csv": _write_csv, ".parquet": _write_parquet}

    def to(rows: list[Any], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        kinds.get(path.suffix, _write_jsonl)(path, rows)
        return path

    return to


def _read(path: Path, safe: bool = False, **settings: Any) -> Rows:
    return read_rows(path, DataSettings(**settings), safe).rows


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet", "R.JSONL"])
def test_every_kind_of_file_gives_the_same_rows(name: str, write: Write) -> None:
    rows = _read(write(PLAIN, name))
    assert rows.texts == ("bake bread", "break in")
    assert rows.labels.tolist() == [0, 1]
    assert rows.labels.dtype == np.int8
    assert rows.tasks == ("all", "all")
    assert rows.images == (None, None)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_images_are_paths_beside_the_file(name: str, write: Write, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(_png())
    rows = [{**PLAIN[0], "image": "pictures/a.png"}, {**PLAIN[1], "image": None}]
    assert _read(write(rows, name)).images == (_png(), None)


def test_images_are_bytes_in_parquet(write: Write) -> None:
    rows = [{**PLAIN[0], "image": _png()}, {**PLAIN[1], "image": None}]
    assert _read(write(rows, "rows.parquet")).images == (_png(), None)


def test_images_as_hugging_face_keeps_them(tmp_path: Path, write: Write) -> None:
    rows = [{**PLAIN[0], "image": {"bytes": _png(), "path": None}}, {**PLAIN[1], "image": None}]
    features = {"info": {"features": {"image": {"_type": "Image"}}}}
    table = pa.Table.from_pylist(rows).replace_schema_metadata(
        {"huggingface": json.dumps(features)}
    )
    pq.write_table(table, tmp_path / "typed.parquet")
    assert _read(tmp_path / "typed.parquet").images == (_png(), None)
    assert _read(write(rows, "plain.parquet")).images == (_png(), None)


def test_columns_are_named_by_the_settings(write: Write, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_png())
    path = write([{"body": "bake", "bad": 1, "photo": "a.png", "kind": "food"}])
    names: dict[str, Any] = {"text_column": "body", "label_column": "bad", "image_column": "photo"}
    rows = _read(path, **names, task_column="kind")
    assert (rows.texts, rows.labels.tolist(), rows.images) == (("bake",), [1], (_png(),))
    assert rows.tasks == ("food",)


def test_tasks_become_strings_and_a_missing_one_is_all(write: Write) -> None:
    tasks = (3, None, " \t", 3.0)  # 3.0: of a column in which some are missing
    rows = [{**PLAIN[0], "task": task} for task in tasks]
    path = write(rows)
    assert _read(path).tasks == ("3", "all", "all", "3")
    assert read_rows(path, DataSettings()).without_task == 2


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_a_task_that_pandas_has_none_for_is_none(tmp_path: Path, name: str) -> None:
    rows = [{"text": f"{i}", "label": i, "task": task} for i, task in enumerate((math.nan, 2.5))]
    path = tmp_path / name
    if path.suffix == ".parquet":
        _write_parquet(path, rows)
    else:
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = read_rows(path, DataSettings())
    assert (found.rows.tasks, found.without_task) == (("all", "2.5"), 1)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.parquet"])
def test_texts_that_look_like_something_else_are_texts(name: str, write: Write) -> None:
    texts = ["2024-01-01", "2024-01-02 10:00:00", "2024-01-01T10:00:00Z"]
    rows = [{"text": text, "label": 1, "task": "007"} for text in texts]
    read = _read(write(rows, name))
    assert (read.texts, set(read.tasks)) == (tuple(texts), {"007"})


def test_texts_that_look_missing_are_texts(write: Write) -> None:
    rows = [{"text": text, "label": 1} for text in ("NA", "null", "nan", "hello")]
    assert _read(write(rows, "rows.csv")).texts == ("NA", "null", "nan", "hello")


def test_labels_may_be_written_as_numbers_or_truths(write: Write) -> None:
    rows = [{"text": "a", "label": True}, {"text": "b", "label": False}]
    assert _read(write(rows)).labels.tolist() == [1, 0]
    rows = [{"text": "a", "label": 1.0}, {"text": "b", "label": 0.0}]
    assert _read(write(rows)).labels.tolist() == [1, 0]


def test_labels_of_a_csv_file_may_be_written_each_in_its_way(write: Write) -> None:
    written = ["1", "0", "1.0", "0.0", "True", "FALSE", "true", " 1", "1e0"]
    rows = [{"text": "a", "label": word} for word in written]
    assert _read(write(rows, "rows.csv")).labels.tolist() == [1, 0, 1, 0, 1, 0, 1, 1, 1]


def test_a_csv_file_is_read_alike_however_long(write: Write) -> None:
    """Values far down that are unlike those above spoil no column."""
    rows = [{"text": f"t{i}", "label": i % 2, "id": i} for i in range(12_000)]
    rows[11_000]["id"] = "abc"
    assert len(_read(write(rows, "rows.csv"))) == 12_000
    rows[11_000]["label"] = "x"
    path = write(rows, "rows.csv")
    with pytest.raises(DataError, match=r"1 bad row.*\n  row 11001: label must be 0 or 1, got 'x'"):
        _read(path)
    assert len(_read(path, on_bad_rows="skip")) == 11_999


def test_one_word_among_labels_spoils_no_other(write: Write) -> None:
    rows = [{"text": "a", "label": "1.0"}, {"text": "b", "label": "oops"}] * 2
    path = write(rows, "rows.csv")
    assert len(_read(path, on_bad_rows="skip")) == 2


BAD_VALUES = [
    ({"label": 2}, "label must be 0 or 1, got 2"),
    ({"label": 0.5}, "label must be 0 or 1, got 0.5"),
    ({"label": None}, "label must be 0 or 1, got None"),
    ({"label": "0_1"}, "label must be 0 or 1, got '0_1'"),
    ({"label": "unsafe"}, "label must be 0 or 1, got 'unsafe'"),
    ({"text": ""}, "text must be a non-empty string, got ''"),
    ({"text": " \n"}, "text must be a non-empty string"),
    ({"text": None}, "text must be a non-empty string, got None"),
    ({"image": "none.png"}, "image 'none.png': no such file"),
    ({"image": "../secret.png"}, "image '../secret.png' lies outside the data file's folder"),
    ({"image": "/etc/passwd"}, "image '/etc/passwd' lies outside the data file's folder"),
    ({"image": "torn.png"}, "unreadable image"),
    ({"image": "."}, "image '.': no such file"),
    ({"image": "iVBORw0KGgo" * 500}, "is not the path of a file"),
    ({"image": "a\0b"}, "is not the path of a file"),
]


@pytest.mark.parametrize(("change", "reason"), BAD_VALUES)
def test_a_bad_row_is_refused_with_number_and_reason(
    change: dict[str, Any], reason: str, write: Write, tmp_path: Path
) -> None:
    (tmp_path / "secret.png").write_bytes(_png())
    rows = [{**row, "image": None} for row in PLAIN]
    path = write([*rows, {**rows[0], **change}, rows[1]], "folder/rows.jsonl")
    (path.parent / "torn.png").write_bytes(_png()[:40])
    with pytest.raises(DataError) as caught:
        _read(path)
    head, bad = str(caught.value).split("\n")
    assert head == f"{path}: 1 bad row(s); mend them or set data.on_bad_rows: skip"
    assert bad.startswith("  row 3: ")
    assert reason in bad


def test_a_missing_label_in_csv_is_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\nbake,0\nbreak,\n")
    with pytest.raises(DataError, match="row 2: label must be 0 or 1, got ''"):
        _read(tmp_path / "rows.csv")


SHEET = "text,,label,,\nbake,,0,,\n\nbreak,,1,,\n,,,,\n,,,,\n"


def test_what_a_spreadsheet_leaves_around_its_table_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(SHEET)
    found = read_rows(path, DataSettings())
    assert (found.rows.texts, found.columns) == (("bake", "break"), ("text", "label"))
    assert found.numbers == (1, 2), "a line without cells is no row"
    assert list(iterate_rows(path)) == [
        {"text": "bake", "label": "0"},
        {"text": "break", "label": "1"},
    ]
    path.write_text(SHEET.replace("1,,", "2,,"))
    with pytest.raises(DataError, match=r"1 bad row\(s\).*\n  row 2: label must be 0 or 1"):
        _read(path)
    path.write_text(SHEET.replace("\n\n", "\n,,,,\n"))
    with pytest.raises(DataError, match=r"1 bad row\(s\).*\n  row 2: text must be a non-empty"):
        _read(path)


def test_a_filled_column_without_a_name_is_kept_but_two_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(",text,label,\n0,bake,0,\n1,break,1,\n")  # as pandas writes it
    assert read_rows(path, DataSettings()).columns == ("", "text", "label")
    path.write_text(",text,label,\n0,bake,0,\n1,break,1,note\n")
    with pytest.raises(DataError, match="column '' is there twice; rename one"):
        _read(path)


def test_an_empty_cell_of_one_column_is_a_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text\nbake\n""\n\nbreak\n')
    assert [row["text"] for row in iterate_rows(path)] == ["bake", "", "break"]


def test_all_bad_rows_are_listed_up_to_twenty(write: Write) -> None:
    path = write([{"text": "a", "label": 7}] * 25)
    with pytest.raises(DataError) as caught:
        _read(path)
    message = str(caught.value)
    assert "25 bad row(s)" in message
    assert "row 20:" in message
    assert "row 21:" not in message
    assert message.endswith("and 5 more")


def test_skipping_leaves_bad_rows_out(write: Write) -> None:
    path = write([PLAIN[0], {"text": "x", "label": 5}, PLAIN[1]])
    found = read_rows(path, DataSettings(on_bad_rows="skip"))
    assert found.rows.texts == ("bake bread", "break in")
    assert found.columns == ("text", "label")
    assert [reason[:20] for reason in found.left_out] == ["row 2: label must be"]


def test_skipping_every_row_is_refused(write: Write) -> None:
    with pytest.raises(DataError, match="no usable rows"):
        _read(write([{"text": "x", "label": 5}]), on_bad_rows="skip")


def test_a_missing_column_is_named_with_those_there_are(write: Write) -> None:
    path = write([{"body": "a", "label": 1}])
    with pytest.raises(
        DataError, match=r"no column 'text'; there are 'body', 'label'.*text_column"
    ):
        _read(path)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet"])
def test_safe_rows_need_no_labels(name: str, write: Write) -> None:
    rows = _read(write([{"text": "a"}], name), safe=True)
    assert (rows.texts, rows.labels.tolist()) == (("a",), [0])
    some = write([{"text": "a", "label": None}, {"text": "b", "label": 0}], name)
    assert _read(some, safe=True).labels.tolist() == [0, 0]


def test_a_safe_row_that_is_labelled_unsafe_is_bad(write: Write) -> None:
    path = write([*PLAIN, {"text": "odd", "label": "bad"}])
    with pytest.raises(DataError) as caught:
        _read(path, safe=True)
    _, unsafe, wrong = str(caught.value).split("\n")
    rule = "label is 1 (unsafe), and a row of data.clean_holdout must be safe (0 or no label)"
    assert unsafe.startswith(f"  row 2: {rule}; take it out, or move it to")
    assert wrong.startswith("  row 3: label must be 0 or 1, got 'bad'")
    assert len(_read(path, safe=True, on_bad_rows="skip")) == 1


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("rows.jsonl", b"", "the file is empty"),
        ("rows.csv", b"text,label\n", "the file has no rows"),
        ("rows.jsonl", b"\n\n", "the file has no rows"),
        ("rows.jsonl", b'{"text": "a", "label": 1}\n{oops\n', "cannot be read as json"),
        ("rows.csv", b"text,label\nh\xe9,1\n", r"line 2 is not UTF-8 text \(byte 0xe9\)"),
        ("rows.parquet", b"hello", "cannot be read as parquet"),
        ("rows.txt", b"hello", r"must be one of \.jsonl, \.json, \.csv, \.parquet, got '\.txt'"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    name: str, content: bytes, reason: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=reason):
        _read(tmp_path / name)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        _read(tmp_path / "none.jsonl")


def test_names_of_files_are_no_patterns(write: Write) -> None:
    write([{"text": "other", "label": 1}], "rabbit.csv")
    for name in ("r*t.csv", "[a]/rows.csv", "zip::a.csv", "two\nlines.parquet", "%41 #?.parquet"):
        assert _read(write(PLAIN, name)).texts == ("bake bread", "break in")


def test_take_and_join_keep_columns_together() -> None:
    rows = Rows(("a", "b", "c"), np.array([0, 1, 0], np.int8), ("x", "y", "z"), (None, b"1", b"2"))
    taken = rows.take([2, 1])
    assert (taken.texts, taken.labels.tolist()) == (("c", "b"), [0, 1])
    assert (taken.tasks, taken.images) == (("z", "y"), (b"2", b"1"))
    both = join([taken, rows.take([]), rows.take([0])])
    assert (both.texts, both.labels.tolist()) == (("c", "b", "a"), [0, 1, 0])
    assert both.strata() == [(0, True, "z"), (1, True, "y"), (0, False, "x")]


@pytest.mark.parametrize("split", ["train", "validation", "test", "clean_holdout"])
def test_the_package_carries_its_splits(split: str) -> None:
    assert builtin_file(split).is_file()


def test_a_clean_row_of_parquet_whose_label_is_no_number_has_none(tmp_path: Path) -> None:
    """As pandas writes a missing one into a column of numbers."""
    path = tmp_path / "clean.parquet"
    _write_parquet(path, [{"text": "a", "label": 0.0}, {"text": "b", "label": math.nan}])
    assert read_rows(path, DataSettings(), safe=True).rows.labels.tolist() == [0, 0]
    with pytest.raises(DataError, match="row 2: label must be 0 or 1, got nan"):
        read_rows(path, DataSettings())


def test_a_fingerprint_is_of_every_part_of_every_row_in_order() -> None:
    def rows(*values: tuple[str, int, str, bytes | None]) -> Rows:
        texts, labels, tasks, images = zip(*values, strict=True)
        return Rows(texts, np.array(labels, dtype=np.int8), tasks, images)

    one, two = ("ab", 0, "c", None), ("d", 1, "c", b"x")
    known = rows(one, two).fingerprint()
    assert len(known) == 16
    assert known == rows(one, two).fingerprint()
    others = [
        rows(two, one),
        rows(one),
        rows(("a", 0, "bc", None), two),
        rows(("ab", 1, "c", None), two),
        rows(("ab", 0, "e", None), two),
        rows(("ab", 0, "c", b""), two),
        rows(one, ("d", 1, "c", b"y")),
    ]
    assert len({known, *(other.fingerprint() for other in others)}) == 1 + len(others)
