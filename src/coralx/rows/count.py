"""How many rows a run trains on and how long their texts are, found without torch; on the way the
rows are checked, pictures and tasks aside."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from coralx.errors import DataError
from coralx.rows.file import builtin_file, iterate_rows, name_columns
from coralx.rows.values import (
    Faults,
    check_columns,
    check_optional,
    check_text,
    read_label,
    read_safe,
)
from coralx.settings.sections import DataSettings

SET_ASIDE = 20  # per cent of the training rows for a split without a file
CHARACTERS_PER_TOKEN = 4.5  # of English in word pieces
# A vocabulary of English words has other letters alone or in pairs, a token for each sign of
# Chinese and Japanese and one for each letter of a Korean syllable; one of many languages needs
# fewer.
OTHERS_PER_TOKEN = 1.5
TOKENS_PER_SIGN = {
    re.compile(r"[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"): 1.0,
    re.compile(r"[\uac00-\ud7a3]+"): 2.5,
}
SPECIAL_TOKENS = 2


@dataclass(frozen=True)
class RowCount:
    """The training rows of a run and the mean characters of their texts, as far as these are read;
    one of another script counts as those of English that make as many tokens.

    `texts` are those of the file, and `cut` says how many of them are, by that, not read whole.
    `exact` is False where shares are set aside, of which strata and copies decide the size, or
    where bad rows are left out; `pictured` says whether any row names a picture, of a Parquet file
    whether it has a column of them. `columns` are the file's.
    """

    rows: int
    characters: float
    exact: bool = True
    pictured: bool = False
    columns: tuple[str, ...] = ()
    texts: int = 0
    cut: int = 0


def count_rows(settings: DataSettings) -> RowCount:
    """The rows that training gets: of the file, less the shares set aside, at most `max_rows`.

    Raises:
        DataError: no such file, unknown kind, a missing column, one class alone or too few rows of
            one for shares to be set aside, or bad rows while `on_bad_rows` is refuse.
    """
    counted = _read("train", settings.train or builtin_file("train"), settings)
    rows, exact = counted.rows, True
    if settings.train is not None:
        exact = bool(settings.test and settings.validation) and settings.on_bad_rows == "refuse"
        for split in (settings.test, settings.validation):
            rows -= 0 if split else math.ceil(rows * SET_ASIDE / 100)
    most = min(rows, settings.max_rows or rows)
    return replace(counted, rows=most, exact=exact)


def count_measured(settings: DataSettings, columns: Iterable[str]) -> dict[str, RowCount]:
    """The rows of the files of rows that are measured, those that are given; the optional columns
    must be in one of them or among `columns`, those of the training rows.

    Raises:
        DataError: as `count_rows`, or an optional column that is named is nowhere.
    """
    known, counted = dict.fromkeys(columns), {}
    for name in ("validation", "test", "clean_holdout"):
        path = getattr(settings, name)
        if path:
            counted[name] = _read(name, path, settings)
            known |= dict.fromkeys(counted[name].columns)
    check_optional(settings, known)
    return counted


def _read(name: str, path: Path, settings: DataSettings) -> RowCount:
    """The usable rows of the file of one split."""
    safe = name == "clean_holdout"
    columns = settings.text_column, settings.label_column
    faults, labels, characters, cut = Faults(path), Counter[int](), 0.0, 0
    most = (settings.max_tokens - SPECIAL_TOKENS) * CHARACTERS_PER_TOKEN  # the rest is cut
    found = dict.fromkeys(name_columns(path) if path.suffix.lower() == ".parquet" else ())
    pictured = settings.image_column in found
    for number, row in enumerate(iterate_rows(path, columns), start=1):
        found |= dict.fromkeys(row)
        text, label = (row.get(column) for column in columns)
        pictured = pictured or bool(row.get(settings.image_column or ""))
        if not safe:
            faults.see_label(label)
        try:
            check_text(text)
            labels[(read_safe if safe else read_label)(label)] += 1
            size = _measure_text(str(text))
            characters += min(size, most)
            cut += size > most
        except DataError as error:
            faults.add(number, error)
    if not found:
        raise DataError(f"{path}: no rows; at least one is needed")
    check_columns(path, found, columns[:1] if safe else columns)
    faults.check(settings.on_bad_rows)
    if not safe and len(labels) < 2:
        raise DataError(
            f"{path}: {name} rows: both classes are needed, got {labels[1]} unsafe and {labels[0]} "
            f"safe of {labels.total()}; add rows of both"
        )
    if name == "train":
        _check_left(path, labels, settings)
    rows = labels.total()
    return RowCount(rows, characters / max(1, rows), True, pictured, tuple(found), rows, cut)


def _measure_text(text: str) -> float:
    """The characters of English that make about as many tokens."""
    if text.isascii():
        return len(text)
    ascii_ = len(text.encode("ascii", "ignore"))
    others, tokens = len(text) - ascii_, 0.0
    for script, each in TOKENS_PER_SIGN.items():
        signs = sum(map(len, script.findall(text)))
        others, tokens = others - signs, tokens + each * signs
    return ascii_ + CHARACTERS_PER_TOKEN * (tokens + others / OTHERS_PER_TOKEN)


def _check_left(path: Path, labels: Counter[int], settings: DataSettings) -> None:
    """Each share that is set aside takes a row of each class at least, and one must be left."""
    without = [
        name for name in ("validation", "test") if settings.train and not getattr(settings, name)
    ]
    for label, word in ((1, "unsafe"), (0, "safe")):
        if labels[label] <= len(without):
            shares, files = " and ".join(without), " and ".join(f"data.{name}" for name in without)
            raise DataError(
                f"{path}: no {word} training row is left after {SET_ASIDE:g} % were set aside for "
                f"{shares}: of {labels[label]} {word} rows each takes one at least; add rows, "
                f"or give files as {files}"
            )
