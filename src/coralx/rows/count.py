"""How many rows a run trains on and how long their texts are, found without torch; on the way the
rows are checked, pictures and tasks aside."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from coralx.errors import DataError
from coralx.rows.file import builtin_file, iterate_rows, name_columns
from coralx.rows.values import Faults, check_columns, check_text, read_label, read_safe
from coralx.settings.sections import DataSettings

SET_ASIDE = 20  # per cent of the training rows for a split without a file
SAMPLE = 1000  # texts that the mean length is taken from, at most


@dataclass(frozen=True)
class RowCount:
    """The training rows of a run and the mean characters of their texts (from a sample).

    `exact` is False where shares are set aside, of which strata and copies decide the size, or
    where bad rows are left out; `pictured` says whether any row names a picture, of a Parquet file
    whether it has a column of them.
    """

    rows: int
    characters: float
    exact: bool = True
    pictured: bool = False


def count_rows(settings: DataSettings) -> RowCount:
    """The rows that training gets: of the file, less the shares set aside, at most `max_rows`.

    Raises:
        DataError: no such file, unknown kind, a missing column, one class alone, or bad rows while
            `on_bad_rows` is refuse.
    """
    counted = _read("train", settings.train or builtin_file("train"), settings)
    rows, exact = counted.rows, True
    if settings.train is not None:
        exact = bool(settings.test and settings.validation) and settings.on_bad_rows == "refuse"
        for split in (settings.test, settings.validation):
            rows -= 0 if split else math.ceil(rows * SET_ASIDE / 100)
    most = min(rows, settings.max_rows or rows)
    return RowCount(most, counted.characters, exact, counted.pictured)


def check_measured(settings: DataSettings) -> None:
    """Pass if the files of rows that are measured, those that are given, can be used.

    Raises:
        DataError: as `count_rows`.
    """
    for name in ("validation", "test", "clean_holdout"):
        path = getattr(settings, name)
        if path:
            _read(name, path, settings)


@dataclass
class _TextSample:
    """Every n-th text seen, n doubling whenever the sample is full."""

    seen: int = 0
    lengths: list[int] = field(default_factory=list)
    _stride: int = 1

    def add(self, text: str) -> None:
        if self.seen % self._stride == 0:
            self.lengths.append(len(text))
            if len(self.lengths) >= SAMPLE:
                self.lengths = self.lengths[::2]
                self._stride *= 2
        self.seen += 1

    def summarize(self) -> RowCount:
        return RowCount(self.seen, sum(self.lengths) / max(1, len(self.lengths)))


def _read(name: str, path: Path, settings: DataSettings) -> RowCount:
    """The usable rows of the file of one split."""
    safe = name == "clean_holdout"
    columns = settings.text_column, settings.label_column
    sample, faults, labels = _TextSample(), Faults(path), Counter[int]()
    found: dict[str, None] = {}
    pictured = path.suffix.lower() == ".parquet" and settings.image_column in name_columns(path)
    for number, row in enumerate(iterate_rows(path, columns), start=1):
        text, label = (row.get(column) for column in columns)
        pictured = pictured or bool(row.get(settings.image_column or ""))
        if not safe:
            faults.see_label(label)
        try:
            check_text(text)
            labels[(read_safe if safe else read_label)(label)] += 1
            sample.add(str(text))
        except DataError as error:
            found |= dict.fromkeys(row)
            faults.add(number, error)
        if number == 1:
            found |= dict.fromkeys(row)
    if not found:
        raise DataError(f"{path}: no rows; at least one is needed")
    check_columns(path, found, columns[:1] if safe else columns)
    faults.check(settings.on_bad_rows)
    if not safe and len(labels) < 2:
        raise DataError(
            f"{path}: {name} rows: both classes are needed, got {labels[1]} unsafe and {labels[0]} "
            f"safe of {labels.total()}; add rows of both"
        )
    return replace(sample.summarize(), pictured=pictured)
