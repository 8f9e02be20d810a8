"""A file of rows looked at before a library is: what it is, how large, and where it is damaged;
and its rows as plain values, without torch.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from coralx.errors import DataError

READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
UNMATCHED_QUOTES = (
    ": a text in quotes is not closed, or goes on behind its closing quote; write a quote in it "
    'twice ("")'
)
# Limits that no data set for fine-tuning meets and a damaged or hostile file soon does.
MAX_ROWS = 10_000_000
SEPARATORS = {";": "';'", "\t": "tabs", "|": "'|'"}  # that other programs write in place of commas
MAX_UNPACKED = 16 * 2**30  # bytes of a Parquet file's columns before compression
PARQUET_ROWS = 256  # in memory at once; a row can hold a picture
# An archive would be read as damaged text.
ARCHIVES = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"\x04\x22\x4d\x18": "lz4",
    b"7z\xbc\xaf\x27\x1c": "7-zip",
    b"Rar!": "rar",
}


class JsonLine(dict[str, Any]):
    """The object of a line of a file, and the line's number: empty lines are no rows."""

    line: int


def builtin_file(split: str) -> Path:
    """Where a split of the data set in the package lies."""
    return Path(str(resources.files("coralx") / "assets" / f"{split}.parquet"))


def iterate_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows, one after another, as plain values; every cell of a CSV file is a text.

    Raises:
        DataError: no file of rows, or a row cannot be read; the message names its line.
    """
    yield from _ITERATORS[_check_file(path)](path)


def read_columns(path: Path, wanted: Collection[str]) -> tuple[list[str], Iterable[dict[str, Any]]]:
    """The names of all columns, and the rows with those that are wanted. Rows of a Parquet file are
    read as they are iterated over, and values that cannot be read are told then.

    Raises:
        DataError: as `iterate_rows`, or the file has no rows.
    """
    reader = _check_file(path)
    if reader == "parquet":
        import pyarrow.parquet

        names = list(pyarrow.parquet.read_schema(path).names)
        return names, _iterate_parquet(path, [name for name in wanted if name in names])
    seen: dict[str, None] = {}
    rows = []
    for row in _ITERATORS[reader](path):
        seen |= dict.fromkeys(row)
        rows.append({name: row.get(name) for name in wanted})
    if not rows:
        raise DataError(f"{path}: the file has no rows; at least one is needed")
    return list(seen), rows


def _iterate_json(path: Path) -> Iterator[dict[str, Any]]:
    """JSON lines, or the items of one array, each with the types that it is written with: Arrow's
    own reader takes texts for dates, and a file that begins with `null` crashes it (pyarrow 26).

    Raises:
        DataError: a line is no UTF-8 text or no JSON object, or names a key twice.
    """
    with path.open("rb") as file:
        begin = next((line.strip() for line in file if line.strip()), b"")
        if begin.removeprefix(b"\xef\xbb\xbf").startswith(b"["):
            _check_text(path)
            text = path.read_text(encoding="utf-8-sig")
            for number, value in enumerate(_parse(f"{path}", "the array", text), start=1):
                yield _check_object(f"{path}", f"row {number}", value)
            return
        file.seek(0)
        yield from parse_lines(file, f"{path}")


def _iterate_csv(path: Path) -> Iterator[dict[str, Any]]:
    """The rows; every cell is a text, an empty one too.

    What a spreadsheet leaves around its table is left out: columns without a name or a filled cell,
    and rows of commas alone at its end. One empty cell in "quotes" is a row of one column.

    Raises:
        DataError: two columns of one name, no UTF-8 text, or lines of different lengths.
    """
    left_out = _look_through(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        cells = (row for row in csv.reader(file, strict=True) if row)
        names = _without(next(cells, []), left_out)
        held: list[dict[str, Any]] = []  # empty rows, until a filled one follows
        for row in cells:
            held.append(dict(zip(names, _without(row, left_out), strict=True)))
            if len(row) == 1 or any(row):
                yield from held
                held.clear()


def _without(cells: list[str], places: Collection[int]) -> list[str]:
    return [cell for i, cell in enumerate(cells) if i not in places] if places else cells


def parse_lines(lines: Iterable[bytes], source: str) -> Iterator[dict[str, Any]]:
    """The objects of JSON lines, empty ones left out.

    Raises:
        DataError: a line is no UTF-8 text or no JSON object, or names a key twice.
    """
    for number, line in enumerate(lines, start=1):
        text = _decode(source, number, line)
        if text.strip():
            place = f"line {number}"
            row = JsonLine(_check_object(source, place, _parse(source, place, text)))
            row.line = number
            yield row


def _check_file(path: Path) -> str:
    """What must be known before a library is let at the file; gives json, csv or parquet.

    Raises:
        DataError: unknown kind, no such file, empty, an archive, or a Parquet file larger inside
            than outside or with two columns of one name.
    """
    reader = READERS.get(path.suffix.lower())
    try:
        if path.is_dir():
            raise DataError(f"{path}: is a folder; name the file in it")
        if reader is None:
            raise DataError(f"{path}: must be one of {', '.join(READERS)}, got {path.suffix!r}")
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty; at least one row is needed")
        _check_packing(path)
        if reader == "parquet":
            _check_parquet(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    return reader


def _check_packing(path: Path) -> None:
    with path.open("rb") as file:
        begin = file.read(512)
    kinds = [kind for sign, kind in ARCHIVES.items() if begin.startswith(sign)]
    if kinds or begin[257:262] == b"ustar":
        kind = kinds[0] if kinds else "tar"
        raise DataError(f"{path}: is a {kind} archive by its content; unpack it and name the rows")


def _check_parquet(path: Path) -> None:
    """A few bytes of Parquet can stand for gigabytes; its footer says how many."""
    import pyarrow as pa
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            facts, names = file.metadata, file.schema_arrow.names
            unpacked = sum(facts.row_group(i).total_byte_size for i in range(facts.num_row_groups))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _no_parquet(path, error) from None
    _check_names(path, names)
    if facts.num_rows == 0:
        raise DataError(f"{path}: the file has no rows; at least one is needed")
    if facts.num_rows > MAX_ROWS or unpacked > MAX_UNPACKED:
        raise DataError(
            f"{path}: holds {facts.num_rows:,} rows, {unpacked:,} bytes unpacked; at most "
            f"{MAX_ROWS:,} rows and {MAX_UNPACKED:,} bytes; split the file or sample it"
        )


def _check_names(path: Path, names: Sequence[str]) -> None:
    """Of two columns of one name, a row as a mapping would keep the last without a word."""
    for name, times in Counter(names).items():
        if times > 1:
            raise DataError(f"{path}: column {name!r} is there twice; rename one")


def _iterate_parquet(path: Path, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a file that `_check_file` has passed, with some of its columns or all.

    Raises:
        DataError: a value cannot be read, or they are more than the footer says: a text that many
            rows share may stand in the file once.
    """
    import pyarrow.parquet

    unpacked = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=columns):
                rows = batch.to_pylist()
                unpacked += sum(_size(row) for row in rows)
                if unpacked > MAX_UNPACKED:
                    raise DataError(
                        f"{path}: its texts and pictures take more than {MAX_UNPACKED:,} bytes "
                        "unpacked; split the file or sample it"
                    )
                yield from rows
    except DataError:
        raise
    except Exception as error:  # many kinds, such as OverflowError for a date that Python lacks
        raise _no_parquet(path, error) from None


def _size(value: Any) -> int:
    """Of the texts and bytes in it."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 0


_ITERATORS = {"json": _iterate_json, "csv": _iterate_csv, "parquet": _iterate_parquet}


def _no_parquet(path: Path, error: Exception) -> DataError:
    cause = (str(error).strip() or type(error).__name__).splitlines()[0]
    return DataError(f"{path}: cannot be read as parquet: {cause}")


def _check_text(path: Path) -> None:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            _decode(f"{path}", number, line)


def _decode(source: str, number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{source}: line {number} is not UTF-8 text (byte 0x{line[error.start]:02x}); "
            "save it as UTF-8"
        ) from None


def _parse(source: str, place: str, text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        cause = "nested too deeply" if isinstance(error, RecursionError) else error
        raise DataError(f"{source}: cannot be read as json: {place}: {cause}") from None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a key that is there twice, JSON would keep the last without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} is there twice; keep one")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_without_repeats)  # one for all lines is faster


def _check_object(source: str, place: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        rule = 'must be an object such as {"text": "...", "label": 1}'
        raise DataError(f"{source}: cannot be read as json: {place} {rule}, got {value!r:.40}")
    return value


def _look_through(path: Path) -> set[int]:
    """Places of the columns without a name or a filled cell, of a file that is found in order:
    every line has a cell for every column, or nobody could say which is whose, and a header of one
    column that holds another separator is no header of this kind of file."""
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)  # a quote left open would take in all rows below
        try:
            names = next((row for row in reader if row), [])
            found = [sign for sign in SEPARATORS if len(names) == 1 and sign in names[0]]
            if found:
                raise DataError(
                    f"{path}: columns are separated by {SEPARATORS[found[0]]}; CoralX reads "
                    "commas: save it as comma-separated"
                )
            _check_names(path, [name for name in names if name])
            empty = {place for place, name in enumerate(names) if not name}
            for row in filter(None, reader):
                if len(row) != len(names):
                    raise DataError(
                        f"{path}: line {reader.line_num} has {len(row)} cells, the header has "
                        f'{len(names)}; put texts with commas or line breaks in "quotes"'
                    )
                empty -= {place for place in empty if row[place]}
        except csv.Error as error:
            quoted = any(told in str(error) for told in ("end of data", "expected after"))
            raise DataError(
                f"{path}: line {reader.line_num}: {error}{UNMATCHED_QUOTES if quoted else ''}"
            ) from None
        except UnicodeDecodeError:
            _check_text(path)  # says where
            raise
    _check_names(path, _without(names, empty))
    return empty
