"""A file of rows looked at before a library is: what it is, how large, and where it is damaged."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

from coralx.errors import DataError

# Limits that no data set for fine-tuning meets and a damaged or hostile file soon does.
MAX_ROWS = 10_000_000
MAX_UNPACKED = 16 * 2**30  # bytes of a Parquet file's columns before compression
# `datasets` unpacks an archive whatever its name says, without a limit.
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


def check_file(path: Path, reader: str) -> None:
    """What must be known before a library is let at the file.

    Raises:
        DataError: no such file, empty, an archive, larger inside than outside, or no UTF-8 text.
    """
    try:
        if path.is_dir():
            raise DataError(f"{path}: is a folder; name the file in it")
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        if path.stat().st_size == 0:
            raise DataError(f"{path}: the file is empty; at least one row is needed")
        _check_packing(path)
        if reader == "parquet":
            _check_parquet(path)
        else:
            _check_text(path)
        if reader == "json":
            _check_objects(path)
        if reader == "csv":
            _check_cells(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


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
            facts = file.metadata
            unpacked = sum(facts.row_group(i).total_byte_size for i in range(facts.num_row_groups))
    except (OSError, ValueError, pa.ArrowException) as error:
        cause = str(error).strip().splitlines()[0]
        raise DataError(f"{path}: cannot be read as parquet: {cause}") from None
    if facts.num_rows == 0:
        raise DataError(f"{path}: the file has no rows; at least one is needed")
    if facts.num_rows > MAX_ROWS or unpacked > MAX_UNPACKED:
        raise DataError(
            f"{path}: holds {facts.num_rows:,} rows, {unpacked:,} bytes unpacked; at most "
            f"{MAX_ROWS:,} rows and {MAX_UNPACKED:,} bytes; split the file or sample it"
        )


def _check_text(path: Path) -> None:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}: line {number} is not UTF-8 text (byte "
                    f"0x{line[error.start]:02x}); save the file as UTF-8"
                ) from None


def _check_objects(path: Path) -> None:
    """Each line, or item of one array, is an object. Arrow's own reader does not always say so: a
    file that begins with `null` crashes the process (pyarrow 26)."""
    with path.open(encoding="utf-8-sig") as file:
        begin = next((line.lstrip()[0] for line in file if line.strip()), "")
        file.seek(0)
        if begin == "[":
            for number, value in enumerate(_parse(path, "the array", file.read()), start=1):
                _check_object(path, f"row {number}", value)
            return
        for number, line in enumerate(file, start=1):
            if line.strip():
                _check_object(path, f"line {number}", _parse(path, f"line {number}", line))


def _parse(path: Path, place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        cause = "nested too deeply" if isinstance(error, RecursionError) else error
        raise DataError(f"{path}: cannot be read as json: {place}: {cause}") from None


def _check_object(path: Path, place: str, value: Any) -> None:
    if not isinstance(value, dict):
        rule = 'must be an object such as {"text": "...", "label": 1}'
        raise DataError(f"{path}: cannot be read as json: {place} {rule}, got {value!r:.40}")


def _check_cells(path: Path) -> None:
    """Every line has a cell for every column: pandas shifts or drops what is too much."""
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        try:
            names = next((row for row in reader if row), [])
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise DataError(f"{path}: column {twice[0]!r} is there twice; rename one")
            for row in reader:
                if row and len(row) != len(names):
                    raise DataError(
                        f"{path}: line {reader.line_num} has {len(row)} cells, the header has "
                        f'{len(names)}; put texts with commas or line breaks in "quotes"'
                    )
        except csv.Error as error:
            raise DataError(f"{path}: line {reader.line_num}: {error}") from None
