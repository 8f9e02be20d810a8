"""Rows that cannot be trained on: each is refused with file, row, rule, value and fix."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image
from typer.testing import CliRunner

from coralx.cli import app
from coralx.errors import StoreError
from coralx.rows import file as rows_file
from coralx.runs import running
from coralx.settings.sections import DataSettings
from coralx.train import rows as rows_module
from coralx.train.splits import load_splits

GOOD = b'{"text": "bake a cake", "label": 0}\n{"text": "break in", "label": 1}\n'


def _png(size: tuple[int, int] = (4, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "PNG")
    return buffer.getvalue()


def _bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that says it is as large as this."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    written = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def _text_bomb() -> bytes:
    """A PNG with a comment that is unpacked to 100 MB."""
    data = b"c\0\0" + zlib.compress(b"x" * 100_000_000)
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data
    chunk += struct.pack(">I", zlib.crc32(b"zTXt" + data))
    png = _png()
    return png[:33] + chunk + png[33:]


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("rows.jsonl", GOOD)
    return buffer.getvalue()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("../rows.jsonl")
        entry.size = len(GOOD)
        archive.addfile(entry, io.BytesIO(GOOD))
    return buffer.getvalue()


def _parquet(columns: dict[str, Any] | pa.Table, metadata: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    table = table.replace_schema_metadata(metadata)
    pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue()


def _not_utf8() -> bytes:
    """A string column that holds bytes which are no UTF-8."""
    wrong = pa.array([b"caf\xe9", b"ok"], pa.binary()).view(pa.string())
    return _parquet({"text": wrong, "label": [0, 1]})


def _twice() -> bytes:
    """Two columns of one name, of which a row could show one alone."""
    columns = [pa.array(["a", "b"]), pa.array(["c", "d"]), pa.array([0, 1])]
    return _parquet(pa.Table.from_arrays(columns, ["text", "text", "label"]))


def _late() -> bytes:
    """A label that is a date far beyond the last that Python has."""
    return _parquet({"text": ["a", "b"], "label": pa.array([0, 2**30], pa.date32())})


PICTURES = {
    "fine.png": _png(),
    "torn.png": _png()[:40],
    "no_picture.png": b"hello, I am no picture",
    "empty.png": b"",
    "bomb.png": _bomb(60_000, 60_000),
    "wide.png": _bomb(10_000_000, 5),
    "text_bomb.png": _text_bomb(),
    "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n",
    "vector.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
}

# What row 3 of the training file gets, and what the message must say word for word.
VALUES: dict[str, tuple[dict[str, Any], str]] = {
    "label two": ({"label": 2}, "label must be 0 or 1, got 2; write 1 for unsafe, 0 for safe"),
    "label between": ({"label": 0.5}, "label must be 0 or 1, got 0.5"),
    "label NaN": ({"label": float("nan")}, "label must be 0 or 1, got nan"),
    "label missing": ({"label": None}, "label must be 0 or 1, got None"),
    "label in words": ({"label": "unsafe"}, "label must be 0 or 1, got 'unsafe'"),
    "label list": ({"label": [1]}, "label must be 0 or 1, got [1]"),
    "label huge": ({"label": 10**30}, "label must be 0 or 1, got 1000000000"),
    "text empty": ({"text": ""}, "text must be a non-empty string, got ''"),
    "text blank": ({"text": " \n\t"}, "text must be a non-empty string, got ' \\n\\t'"),
    "text missing": ({"text": None}, "text must be a non-empty string, got None"),
    "text number": ({"text": 5}, "text must be a non-empty string, got 5"),
    "text list": ({"text": ["a"]}, "text must be a non-empty string, got ['a']"),
    "text endless": (
        {"text": "a " * 500_001},
        "text has 1,000,002 characters; cut it to 1,000,000",
    ),
    "task half a character": ({"task": "a\ud800"}, "task holds '\\ud800', half of a UTF-16 pair"),
    "task a whole text": ({"task": "a " * 200}, "task has 400 characters; name it in 200, or"),
    "image missing": ({"image": "none.png"}, "image 'none.png': no such file beside the data"),
    "image folder": ({"image": "."}, "image '.': no such file"),
    "image number": ({"image": 7}, "image"),
    "image by link in a mapping": (
        {"image": {"url": "https://x.org/a.png"}},
        "image must hold `path` or `bytes`, got {'url': 'https://x.org/a.png'}",
    ),
    "image an empty mapping": ({"image": {}}, "image must hold `path` or `bytes`, got {}"),
    "image above": (
        {"image": "../x.png"},
        "lies outside the data file's folder; move it there, or",
    ),
    "image absolute": ({"image": "/etc/passwd"}, "'/etc/passwd' lies outside the data file's fol"),
    "image by link": ({"image": "link.png"}, "image 'link.png' lies outside the data file's"),
    "image by address": ({"image": "http://x.org/a.png"}, "no such file beside the data file"),
    "image no path": ({"image": "x" * 5000}, "is not the path of a file"),
    "image torn": ({"image": "torn.png"}, "unreadable image: "),
    "image of text": ({"image": "no_picture.png"}, "unreadable image: no picture of PNG, JPEG"),
    "image empty": ({"image": "empty.png"}, "unreadable image: no picture of PNG"),
    "image bomb": ({"image": "bomb.png"}, "image of more than 40,000,000 pixels; scale it down"),
    "image wide": ({"image": "wide.png"}, "image of 10000000 x 5 pixels; at most 40,000,000"),
    "image comment": ({"image": "text_bomb.png"}, "unreadable image: "),
    "image program": ({"image": "script.eps"}, "unreadable image: no picture of PNG, JPEG"),
    "image vector": ({"image": "vector.svg"}, "unreadable image: no picture of PNG, JPEG"),
    "image too large": ({"image": "large.png"}, "too large; a picture file has at most 33,554,432"),
}

# Whole training files, by name.
FILES: dict[str, tuple[str, bytes, str]] = {
    "empty": ("rows.jsonl", b"", "the file is empty; at least one row is needed"),
    "blank lines": ("rows.jsonl", b"\n\n", "no rows"),
    "header alone": ("rows.csv", b"text,label\n", "no rows"),
    "empty array": ("rows.json", b"[]", "no rows"),
    "no rows in parquet": ("rows.parquet", _parquet({"text": [], "label": []}), "no rows"),
    "unknown kind": ("rows.txt", GOOD, "must be one of .jsonl, .json, .csv, .parquet, got '.txt'"),
    "no ending": ("rows", GOOD, "must be one of .jsonl, .json, .csv, .parquet, got ''"),
    "no text column": ("rows.jsonl", b'{"body": "a", "label": 1}\n', "no column 'text'; there are"),
    "no label column": ("rows.jsonl", b'{"text": "a"}\n', "no column 'label'; there are 'text'"),
    "no columns known": ("rows.csv", b"a,b\n1,2\n", "no column 'text'"),
    "column twice": ("rows.csv", b"text,text,label\na,b,1\n", "column 'text' is there twice; ren"),
    "column twice in parquet": ("rows.parquet", _twice(), "column 'text' is there twice; ren"),
    "semicolons": (
        "rows.csv",
        b'text;label\n"bake, then eat";0\n',
        "columns are separated by ';'; CoralX reads commas",
    ),
    "tabs": (
        "rows.csv",
        b"text\tlabel\nbake, then eat\t0\n",
        "columns are separated by tabs; CoralX reads commas",
    ),
    "too many cells": ("rows.csv", b"text,label\nbake, then eat,0\n", "line 2 has 3 cells, the"),
    "too few cells": ("rows.csv", b"text,label\nbake\n", "line 2 has 1 cells, the header has 2"),
    "quote not closed": ("rows.csv", b'text,label\n"a,1\nb,0\n', 'write a quote in it twice (""'),
    "quote not closed in the last column": (
        "rows.csv",
        b'label,text\n1,a\n0,"open\n1,b\n0,c\n',
        "unexpected end of data: a text in quotes is not closed",
    ),
    "text behind its quotes": ("rows.csv", b'label,text\n1,"a" b\n', "line 2: ',' expected after"),
    "line is no JSON": ("rows.jsonl", GOOD + b"{oops\n", "line 3: Expecting property name"),
    "line is a number": ("rows.jsonl", b"1\n2\n", "line 1 must be an object such as {"),
    "line is null": ("rows.jsonl", b"null\n", "line 1 must be an object such as {"),
    "item is a text": ("rows.json", b'[{"text": "a", "label": 1}, "b"]', "row 2 must be an object"),
    "line is a list": ("rows.jsonl", b"[1]\n[2]\n", "cannot be read as json: the array: Extra"),
    "key twice": ("rows.jsonl", b'{"text": "a", "text": "b", "label": 1}\n', "key 'text' is there"),
    "half a character": ("rows.jsonl", b'{"text": "\\ud800", "label": 1}\n', "half of a UTF"),
    "nested too deep": (
        "rows.jsonl",
        b'{"text": "a", "label": 1, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
        "cannot be read as json: line 1: nested too deeply",
    ),
    "Latin-1": ("rows.csv", b"text,label\ncaf\xe9,1\n", "line 2 is not UTF-8 text (byte 0xe9)"),
    "Latin-1 in JSON": ("rows.jsonl", GOOD + b'{"text": "\xe9"}\n', "line 3 is not UTF-8 text"),
    "UTF-16": ("rows.jsonl", GOOD.decode().encode("utf-16"), "line 1 is not UTF-8 text (byte"),
    "no UTF-8 in parquet": ("rows.parquet", _not_utf8(), "utf-8"),
    "no date of Python": ("rows.parquet", _late(), "cannot be read as parquet: days=1073741824"),
    "no parquet": ("rows.parquet", b"hello", "cannot be read as parquet"),
    "torn parquet": ("rows.parquet", _parquet({"text": ["a"], "label": [1]})[:-20], "as parquet"),
    "bytes for text": (
        "rows.parquet",
        _parquet({"text": [b"a", b"b"], "label": [0, 1]}),
        "text must be a non-empty string, got b'a'",
    ),
    "pickle": ("rows.jsonl", b"\x80\x04\x95\x0b.", "line 1 is not UTF-8 text (byte 0x80)"),
    "gzip": ("rows.jsonl", gzip.compress(GOOD), "is a gzip archive by its content; unpack it"),
    "gzip bomb": ("rows.csv", gzip.compress(b"\0" * 10_000_000), "is a gzip archive"),
    "zip": ("rows.jsonl", _zip(), "is a zip archive by its content"),
    "tar": ("rows.csv", _tar(), "is a tar archive by its content"),
    "one class": ("rows.jsonl", b"".join(b'{"text": "t%d", "label": 1}\n' % i for i in range(9)),
                  "train rows: both classes are needed, got 9 unsafe and 0 safe of 9; add rows"),
    "one row": ("rows.jsonl", b'{"text": "a", "label": 1}\n', "both classes are needed, got 1 un"),
}  # fmt: skip


@pytest.fixture
def pictures(job: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name, data in PICTURES.items():
        (job.folder / name).write_bytes(data)
    with (job.folder / "large.png").open("wb") as file:
        file.truncate(33 * 2**20)
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "secret.png"
    elsewhere.write_bytes(_png())
    (job.folder / "link.png").symlink_to(elsewhere)


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("name", VALUES)
def test_a_bad_row_is_refused_by_number(job: Any, name: str) -> None:
    change, said = VALUES[name]
    job.spoil_row(**change)
    message = job.refuse(
        f"{job.folder / 'train.jsonl'}: 1 bad row(s); mend them or set data.on_bad_rows: skip",
        "  row 3: ",
        said,
    )
    assert len(message) < 500, "a long value is cut"


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("name", VALUES)
def test_bad_rows_can_be_skipped(job: Any, name: str) -> None:
    from coralx.settings.sections import DataSettings

    job.spoil_row(**VALUES[name][0])
    settings = DataSettings(on_bad_rows="skip")
    assert len(rows_module.read_rows(job.folder / "train.jsonl", settings).rows) == 15


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_holds_no_rows_to_train_on_is_refused(job: Any, name: str) -> None:
    file, data, said = FILES[name]
    (job.folder / file).write_bytes(data)
    job.use(train=file)
    job.refuse(str(job.folder / file), said)


def test_few_rows_of_a_class_are_said_to_be_few(job: Any) -> None:
    result = job.run()
    assert result.exit_code == 0
    assert "warning: validation has 4 unsafe and 4 safe rows; figures of" in result.output
    assert "chance, and below 10 probabilities are left uncalibrated; give it" in result.output
    assert "more (data.validation, data.max_rows)" in result.output
    summary = json.loads((job.out / "summary.json").read_text(encoding="utf-8"))
    assert summary["classes"]["test"] == {"unsafe": 4, "safe": 4}
    assert summary["front"][0]["details"]["logit_scale"] == 1


def test_a_task_of_few_rows_is_told_as_the_run_begins_and_kept(job: Any) -> None:
    """Pictures are counted only where they are read: here no training row has one, so that the
    tower is not loaded."""
    job.settings["vision_tower"] = "efficientnet-lite0"
    rows = [{"text": f"{i} bake a cake", "label": i % 2, "task": "many"} for i in range(8)]
    few = [{"text": f"{i} break into", "label": i % 2, "task": "few"} for i in range(2)]
    (job.folder / "a.png").write_bytes(_png())
    job.write_rows("validation.jsonl", [*rows, few[0], few[1] | {"image": "a.png"}])
    result = job.run()
    assert result.exit_code == 0
    assert (
        "warning: validation has 5 unsafe and 5 safe rows, 1 unsafe and 1 safe row of task 'few', "
        "4 unsafe and 4 safe rows of task 'many'; figures of"
    ) in result.output
    summary = json.loads((job.out / "summary.json").read_text(encoding="utf-8"))
    assert summary["task_classes"] == {
        "validation": {"few": {"unsafe": 1, "safe": 1}, "many": {"unsafe": 4, "safe": 4}},
        "test": {},
    }
    assert summary["picture_classes"] == {}


def test_a_text_with_both_labels_is_told_with_an_example(job: Any) -> None:
    rows = [{"text": f"t{i}", "label": i % 2} for i in range(20)]
    bad = {"text": "", "label": 1}
    again = [{"text": "t4", "label": 1}, {"text": "t4", "label": 0}, {"text": "t5", "label": 1}]
    path = job.write_rows("train.jsonl", [bad, *rows, *again])
    said: list[str] = []
    load_splits(DataSettings(train=path, on_bad_rows="skip"), 0, said.append)
    (warning,) = [text for text in said if "both labels" in text]
    assert warning.startswith(f"warning: {path}: 1 text with both labels in 3 rows")
    assert "as rows 6 and 22;" in warning


@pytest.mark.parametrize("mode", ["refuse", "skip"])
def test_two_words_as_labels_are_said_once(job: Any, mode: str) -> None:
    rows = [{"text": f"t{i}", "label": ("safe", "unsafe")[i % 2]} for i in range(30)]
    job.write_rows("train.jsonl", rows)
    job.use(on_bad_rows=mode)
    message = job.refuse("labels are 'safe', 'unsafe'; write 0 and 1 in their place, 1 for unsafe")
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("split", ["train", "validation", "test", "clean_holdout"])
def test_a_missing_file_is_refused_for_each_split(job: Any, split: str) -> None:
    job.use(**{split: "nowhere.csv"})
    job.refuse(f"{job.folder / 'nowhere.csv'}: no such file")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows", "."])
def test_a_folder_in_place_of_a_file_is_refused(job: Any, name: str) -> None:
    (job.folder / name).mkdir(exist_ok=True)
    job.use(train=name)
    job.refuse(f"{job.folder / name}: is a folder; name the file in it")


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_split_of_one_class_is_refused_by_name(job: Any, split: str) -> None:
    path = job.write_rows(f"{split}.jsonl", [{"text": f"t{i}", "label": 0} for i in range(8)])
    job.refuse(f"{path}: {split} rows: both classes are needed, got 0 unsafe and 8 safe of 8")


def test_a_task_column_that_tells_the_classes_apart_is_refused(job: Any) -> None:
    rows = [{"text": f"t{i}", "label": i % 2, "task": f"id {i}"} for i in range(8)]
    path = job.write_rows("validation.jsonl", rows)
    job.refuse(f"{path}: validation rows: P1 is a mean over tasks", "none of the 8 tasks has")


def test_too_few_rows_to_set_others_aside_are_refused(job: Any) -> None:
    path = job.write_rows("train.jsonl", [{"text": "a", "label": 0}, {"text": "b", "label": 1}])
    job.use(validation=None, test=None)
    job.refuse(
        f"{path}: no unsafe training row is left after 20 % were set aside for validation and test",
        "of 1 unsafe rows 1 are distinct (copies go together), in 1 strata of picture and task",
        "or give files as data.validation and data.test",
    )


def test_tasks_of_one_row_each_are_named_as_what_leaves_no_rows(job: Any) -> None:
    rows = [{"text": f"t{i}", "label": i % 2, "task": f"id {i}"} for i in range(40)]
    job.write_rows("train.jsonl", rows)
    job.use(test=None)
    job.refuse("set aside for test: of 20 unsafe rows 20", "in 20 strata", "data.task_column")


def test_skipping_every_row_is_refused_with_their_reasons(job: Any) -> None:
    path = job.write_rows("train.jsonl", [{"text": "a", "label": 5}] * 30)
    job.use(on_bad_rows="skip")
    job.refuse(f"{path}: no usable rows", "row 1: label must be 0 or 1, got 5", "and 10 more")


@pytest.mark.parametrize(("split", "place"), [("validation", 3), ("test", 5)])
def test_a_row_in_two_splits_is_refused_with_both_numbers(job: Any, split: str, place: int) -> None:
    lines = (job.folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    job.spoil_row(**json.loads(lines[place - 1]))
    job.refuse(
        "1 row(s) are in two splits (same text)",
        f"row 3 of {job.folder / 'train.jsonl'} is row {place} of {job.folder / split}.jsonl",
        "set data.on_bad_rows: skip",
    )


def test_skipping_keeps_a_row_of_two_splits_where_it_is_measured(job: Any) -> None:
    from coralx.settings.sections import DataSettings
    from coralx.train.splits import load_splits

    lines = (job.folder / "test.jsonl").read_text(encoding="utf-8").splitlines()
    job.spoil_row(**json.loads(lines[0]))
    files = {name: job.folder / f"{name}.jsonl" for name in ("train", "validation", "test")}
    splits = load_splits(DataSettings(**files, on_bad_rows="skip"), seed=0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (15, 8, 8)


@pytest.mark.parametrize("seed", range(5))
def test_copies_of_a_row_are_set_aside_together(job: Any, seed: int) -> None:
    from coralx.settings.sections import DataSettings
    from coralx.train.splits import load_splits

    rows = [{"text": f"t{i % 30}", "label": i % 30 % 2} for i in range(90)]
    path = job.write_rows("train.jsonl", rows)
    splits = load_splits(DataSettings(train=path), seed)
    parts = [set(part.keys()) for part in (splits.train, splits.validation, splits.test)]
    assert sum(map(len, parts)) == 30
    assert sum(map(len, (splits.train, splits.validation, splits.test))) == 90
    assert all(parts)


def test_outside_pictures_can_be_allowed(
    job: Any, pictures: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from coralx.settings.sections import DataSettings

    elsewhere = tmp_path_factory.mktemp("away") / "a.png"
    elsewhere.write_bytes(_png())
    job.spoil_row(image=str(elsewhere))
    settings = DataSettings(allow_outside_images=True)
    found = rows_module.read_rows(job.folder / "train.jsonl", settings)
    assert found.rows.images[2] == _png()


def test_parquet_that_unpacks_to_too_much_is_refused(
    job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job.folder / "rows.parquet").write_bytes(_parquet({"text": ["a", "b"], "label": [0, 1]}))
    job.use(train="rows.parquet")
    monkeypatch.setattr(rows_file, "MAX_ROWS", 1)
    job.refuse(f"{job.folder / 'rows.parquet'}: holds 2 rows, ", "at most 1 rows", "sample it")


def test_parquet_that_is_more_than_its_footer_says_is_refused(
    job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One text that many rows share stands in the file once."""
    count, length = 600, 1000
    shared = pa.array(["a" * length, "b" * length]).dictionary_encode()
    texts = shared.take(pa.array([i % 2 for i in range(count)]))
    table = pa.table({"text": texts, "label": [i % 2 for i in range(count)]})
    (job.folder / "rows.parquet").write_bytes(_parquet(table))
    job.use(train="rows.parquet")
    monkeypatch.setattr(rows_file, "MAX_UNPACKED", count * length - 1)
    job.refuse("rows.parquet: its texts and pictures take more than 599,999 bytes unpacked")
    monkeypatch.setattr(rows_file, "MAX_UNPACKED", count * length)
    assert len(list(rows_file.iterate_rows(job.folder / "rows.parquet"))) == count


def test_columns_that_are_not_read_are_not_decoded(job: Any) -> None:
    """A file may declare any column to be a picture, which libraries would open."""
    features = {
        "text": {"dtype": "string", "_type": "Value"},
        "label": {"dtype": "int64", "_type": "Value"},
        "photo": {"_type": "Image"},
    }
    picture = [{"bytes": _bomb(60_000, 60_000), "path": None}] * 2
    columns = {"text": ["bake", "break in"], "label": [0, 1], "photo": picture}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    path = job.folder / "rows.parquet"
    path.write_bytes(_parquet(columns, metadata))
    from coralx.settings.sections import DataSettings

    assert len(rows_module.read_rows(path, DataSettings()).rows) == 2
    with pytest.raises(rows_module.DataError, match="more than 40,000,000 pixels"):
        rows_module.read_rows(path, DataSettings(image_column="photo"))


def test_no_more_tokens_than_the_model_has_places(job: Any) -> None:
    job.use(max_tokens=64)
    job.refuse("data.max_tokens: ", "has 32 positions, got 64; set 32 or fewer")


def test_pictures_without_a_tower_are_refused(job: Any) -> None:
    (job.folder / "a.png").write_bytes(_png())
    job.spoil_row(image="a.png")
    job.refuse("vision_tower: the training rows have images but vision_tower is null; name a tower")


@pytest.mark.parametrize(
    "name", ["empty", "header alone", "unknown kind", "no text column", "Latin-1", "gzip", "zip"]
)
def test_plan_refuses_files_as_well(job: Any, name: str) -> None:
    file, data, _ = FILES[name]
    (job.folder / file).write_bytes(data)
    (job.folder / "job.yaml").write_text(f"data: {{train: {file}}}", encoding="utf-8")
    result = CliRunner().invoke(app, ["plan", str(job.folder / "job.yaml")])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert str(job.folder / file) in result.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\ud800", "half of a UTF-16 pair"),
        ("a" * 1_000_001, "cut it to 1,000,000"),
        ("", "non-empty"),
    ],
    ids=["half a character", "endless", "empty"],
)
def test_texts_to_predict_are_checked_alike(text: str, said: str) -> None:
    from coralx.train.predict import Predictor

    predictor = Predictor.__new__(Predictor)  # no model is needed to refuse a text
    rows = predictor.predict([{"text": text}], Path(), "text", "image")
    with pytest.raises(rows_module.DataError, match=f"row 1: .*{said}"):
        next(rows)


def test_a_column_that_is_nowhere_is_no_row_to_skip() -> None:
    from coralx.train.predict import Predictor

    predictor = Predictor.__new__(Predictor)
    rows = predictor.predict([{"body": "a"}], Path(), "text", "image")
    with pytest.raises(rows_module.DataError, match=r"no column 'text'; .*; use --text-column$"):
        next(rows)


def test_blank_lines_are_counted_beside_the_rows() -> None:
    from coralx.train.predict import Predictor

    predictor = Predictor.__new__(Predictor)
    lines = rows_file.parse_lines([b"\n", b"\n", b'{"text": ""}\n'], "rows")
    with pytest.raises(rows_module.DataError, match=r"^row 1 \(line 3\): text must be"):
        next(predictor.predict(lines, Path(), "text", "image"))


def test_a_full_disk_at_the_end_names_what_goes_on(
    job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise StoreError("summary.json: cannot be written: No space left on device")

    monkeypatch.setattr(running, "write_summary", full)
    result = job.run()
    assert result.exit_code == 2
    assert f"No space left on device; then `coralx resume {job.out}`" in result.stderr
