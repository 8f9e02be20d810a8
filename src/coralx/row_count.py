"""How many rows a run trains on and how long their texts are, found without torch.

`builtin_file` stands here as well as in `train.rows` because that module imports torch.
"""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from coralx.config import DataSettings
from coralx.errors import DataError

SET_ASIDE = 20  # per cent of the training rows for a split without a file, as in train.data
SAMPLE = 1000  # texts that the mean length is taken from, at most
KINDS = (".jsonl", ".json", ".csv", ".parquet")


@dataclass(frozen=True)
class RowCount:
    """The training rows of a run and the mean characters of their texts (from a sample)."""

    rows: int
    characters: float


def count_rows(settings: DataSettings) -> RowCount:
    """The rows that training gets: of the file, less the shares set aside, at most `max_rows`.

    Raises:
        DataError: no such file, unknown kind, a missing text column, or no rows.
    """
    path = settings.train or builtin_file("train")
    counted = _read_table(path, settings.text_column)
    if not counted.rows:
        raise DataError(f"{path}: no rows; at least one is needed")
    rows = counted.rows
    if settings.train is not None:
        for split in (settings.test, settings.validation):
            rows -= 0 if split else math.ceil(rows * SET_ASIDE / 100)
    return RowCount(min(rows, settings.max_rows or rows), counted.characters)


def builtin_file(split: str) -> Path:
    """Where a split of the data set in the package lies."""
    return Path(str(resources.files("coralx") / "assets" / f"{split}.parquet"))


@dataclass
class _TextSample:
    """Every n-th text seen, n doubling whenever the sample is full."""

    seen: int = 0
    lengths: list[int] = field(default_factory=list)
    _stride: int = 1

    def add(self, text: object) -> None:
        if self.seen % self._stride == 0:
            self.lengths.append(len(text) if isinstance(text, str) else 0)
            if len(self.lengths) >= SAMPLE:
                self.lengths = self.lengths[::2]
                self._stride *= 2
        self.seen += 1

    def summarize(self) -> RowCount:
        return RowCount(self.seen, sum(self.lengths) / max(1, len(self.lengths)))


def _read_table(path: Path, column: str) -> RowCount:
    if path.suffix not in KINDS:
        raise DataError(f"{path}: must be one of {', '.join(KINDS)}, got {path.suffix!r}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    reader = {".csv": _texts_of_csv, ".parquet": _texts_of_parquet}.get(path.suffix, _texts_of_json)
    sample = _TextSample()
    try:
        for text in reader(path, column):
            sample.add(text)
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as {path.suffix[1:]}: {error}") from None
    return sample.summarize()


def _texts_of_parquet(path: Path, column: str) -> Iterator[object]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        _check_column(path, column, file.schema_arrow.names)
        for batch in file.iter_batches(batch_size=4096, columns=[column]):
            yield from batch.column(0).to_pylist()


def _texts_of_csv(path: Path, column: str) -> Iterator[object]:
    csv.field_size_limit(sys.maxsize)  # a long text is no error
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        _check_column(path, column, reader.fieldnames or ())
        for row in reader:
            yield row[column]


def _texts_of_json(path: Path, column: str) -> Iterator[object]:
    """JSON lines, or one array of objects."""
    with path.open(encoding="utf-8-sig") as file:
        first = file.read(1)
        file.seek(0)
        rows: Iterable[Any] = json.load(file) if first == "[" else map(json.loads, _filled(file))
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, dict):
                raise ValueError(f"row {number} must be an object, got {type(row).__name__}")
            if number == 1:
                _check_column(path, column, row)
            yield row.get(column)


def _filled(lines: Iterable[str]) -> Iterator[str]:
    return (line for line in lines if line.strip())


def _check_column(path: Path, column: str, names: Iterable[str]) -> None:
    known = list(names)
    if column not in known:
        raise DataError(
            f"{path}: no column {column!r}; there are {', '.join(map(repr, known))}; name yours "
            "under data: text_column"
        )
