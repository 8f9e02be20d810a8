"""How many rows a run trains on and how long their texts are, found without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from coralx.errors import DataError
from coralx.sections import DataSettings
from coralx.train.row_file import builtin_file, iterate_rows

SET_ASIDE = 20  # per cent of the training rows for a split without a file
SAMPLE = 1000  # texts that the mean length is taken from, at most


@dataclass(frozen=True)
class RowCount:
    """The training rows of a run and the mean characters of their texts (from a sample).

    `exact` is False where shares are set aside, of which strata and copies decide the size, or
    where bad rows are left out.
    """

    rows: int
    characters: float
    exact: bool = True


def count_rows(settings: DataSettings) -> RowCount:
    """The rows that training gets: of the file, less the shares set aside, at most `max_rows`.

    Raises:
        DataError: no such file, unknown kind, a missing text column, or no rows.
    """
    path = settings.train or builtin_file("train")
    counted = _read_texts(path, settings.text_column)
    if not counted.rows:
        raise DataError(f"{path}: no rows; at least one is needed")
    rows, exact = counted.rows, True
    if settings.train is not None:
        exact = bool(settings.test and settings.validation) and settings.on_bad_rows == "refuse"
        for split in (settings.test, settings.validation):
            rows -= 0 if split else math.ceil(rows * SET_ASIDE / 100)
    return RowCount(min(rows, settings.max_rows or rows), counted.characters, exact)


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


def _read_texts(path: Path, column: str) -> RowCount:
    sample = _TextSample()
    for row in iterate_rows(path, column):
        if column not in row and not sample.seen:
            raise DataError(
                f"{path}: no column {column!r}; there are {', '.join(map(repr, row))}; name yours "
                "under data: text_column"
            )
        sample.add(row.get(column))
    return sample.summarize()
