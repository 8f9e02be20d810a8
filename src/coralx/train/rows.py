"""Rows of a user's file or of the data set in the package, checked one by one."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coralx.errors import DataError
from coralx.rows.file import read_columns
from coralx.rows.pictures import keep_small
from coralx.rows.values import (
    Faults,
    check_columns,
    check_text,
    check_whole,
    list_some,
    read_label,
    read_safe,
    short,
)
from coralx.settings.sections import DataSettings

SPLITS = ("train", "validation", "test", "clean_holdout")
# Limits that no data set for fine-tuning meets and a damaged or hostile file soon does.
MAX_TASK = 200
MAX_IMAGE_BYTES = 32 * 2**20


Key = tuple[str, bytes | None]  # of a row's text, folded, and picture


@dataclass(frozen=True)
class Rows:
    """n rows: `labels` (n,) are 1 for unsafe, 0 for safe; an image is bytes or None."""

    texts: tuple[str, ...]
    labels: NDArray[np.int8]
    tasks: tuple[str, ...]
    images: tuple[bytes | None, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Rows:
        return Rows(
            tuple(self.texts[i] for i in indices),
            self.labels[list(indices)],
            tuple(self.tasks[i] for i in indices),
            tuple(self.images[i] for i in indices),
        )

    def keys(self) -> list[Key]:
        """Of each row, what makes it the same row as another: text, but for case, Unicode form and
        white space, and picture."""
        return list(zip(map(fold, self.texts), self.images, strict=True))

    def fingerprint(self) -> str:
        """Equal for the same rows in the same order alone."""
        mark = hashlib.sha256()
        rows = zip(self.texts, self.labels.tolist(), self.tasks, self.images, strict=True)
        for text, label, task, image in rows:
            parts = text.encode(), task.encode(), image or b""
            # Lengths say where one part ends: "ab" and "c" are not "a" and "bc".
            mark.update(repr((label, image is None, *map(len, parts))).encode())
            for part in parts:
                mark.update(part)
        return mark.hexdigest()[:16]

    def strata(self) -> list[tuple[int, bool, str]]:
        """Of each row, what subsets and splits are balanced over: label, modality, task."""
        return [
            (int(label), image is not None, task)
            for label, image, task in zip(self.labels, self.images, self.tasks, strict=True)
        ]


def fold(text: str) -> str:
    """The text without what most tokenizers, and all readers, pass over: one that is trained on
    in capitals is known in small letters."""
    folded = text.casefold()
    if not text.isascii():
        # Casefolding undoes the form of a few letters.
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(folded.split())


@dataclass(frozen=True)
class CheckedFile:
    """The usable rows of a file with their numbers in it (the first is 1), the names of its
    columns, and of each row that is left out (`on_bad_rows: skip`) its number and what is wrong
    with it. `without_task` counts the usable rows that name none."""

    path: Path
    rows: Rows
    columns: tuple[str, ...]
    left_out: tuple[str, ...]
    numbers: tuple[int, ...]
    without_task: int


def join(parts: Sequence[Rows]) -> Rows:
    """All rows of the parts, in order."""
    return Rows(
        tuple(t for p in parts for t in p.texts),
        np.concatenate([p.labels for p in parts]),
        tuple(t for p in parts for t in p.tasks),
        tuple(i for p in parts for i in p.images),
    )


def read_rows(
    path: Path, settings: DataSettings, safe: bool = False, pictures: bool = True
) -> CheckedFile:
    """Read and check a JSONL, CSV or Parquet file.

    Args:
        safe: all rows are safe, so that no label column is needed; a row labelled unsafe is bad.
        pictures: False leaves them unopened: a mark stands for each.

    Raises:
        DataError: no such file, unknown kind, a missing column, no rows, or bad rows while
            `on_bad_rows` is refuse; bad rows are listed with their numbers (the first is 1).
    """
    outside = settings.allow_outside_images
    read = partial(read_image, allow_outside=outside) if pictures else _mark
    read = partial(read, folder=path.parent)
    needed = [settings.text_column] + ([] if safe else [settings.label_column])
    optional = (settings.task_column, settings.image_column)
    wanted = (settings.text_column, settings.label_column, *filter(None, optional))
    names, table = read_columns(path, dict.fromkeys(wanted))
    check_columns(path, names, needed)
    good, numbers, faults = [], [], Faults(path)
    without_task = 0
    for number, row in enumerate(table, start=1):
        if not safe:
            faults.see_label(row.get(settings.label_column))
        try:
            good.append(_check_row(row, settings, safe, read))
            numbers.append(number)
            without_task += _names_no_task(row.get(settings.task_column or ""))
        except DataError as error:
            faults.add(number, error)
    faults.check(settings.on_bad_rows)
    bad = faults.rows
    if not good:
        raise DataError(
            f"{path}: no usable rows; at least one is needed\n{list_some(bad)}".rstrip()
        )
    texts, labels, tasks, images = zip(*good, strict=True)
    rows = Rows(texts, np.array(labels, dtype=np.int8), tasks, images)
    return CheckedFile(path, rows, tuple(names), tuple(bad), tuple(numbers), without_task)


def _check_row(
    row: Mapping[str, Any],
    settings: DataSettings,
    safe: bool,
    read: Callable[[Any], bytes | None],
) -> tuple[str, int, str, bytes | None]:
    text = row[settings.text_column]
    check_text(text)
    label = (read_safe if safe else read_label)(row.get(settings.label_column))
    task = _read_task(row.get(settings.task_column or ""))
    return text, label, task, read(row.get(settings.image_column or ""))


def _read_task(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of numbers in which some are missing is read as floats
    task = "all" if _names_no_task(value) else str(value)
    if len(task) > MAX_TASK:
        raise DataError(
            f"task has {len(task):,} characters; name it in {MAX_TASK}, or name another column "
            "under data: task_column"
        )
    check_whole("task", task)
    return task


def _names_no_task(value: Any) -> bool:
    missing = value is None or value != value  # NaN, as pandas writes it
    return missing or (isinstance(value, str) and not value.strip())


def read_image(value: Any, folder: Path, allow_outside: bool = False) -> bytes | None:
    """Bytes as they are, or of a file inside the data file's folder; large pictures made smaller.

    Args:
        allow_outside: let paths, and links on the way, lead out of the folder.

    Raises:
        DataError: no path of a readable picture, or larger than MAX_IMAGE_BYTES.
    """
    found = _find_picture(value)
    if found is None:
        return None
    data = _read_picture(found, folder, allow_outside) if isinstance(found, str) else found
    if len(data) > MAX_IMAGE_BYTES:
        raise DataError(_too_large(f"of {len(data):,} bytes"))
    return keep_small(data)


def has_picture(value: Any) -> bool:
    """Whether a row's cell is of a picture, which may be one that cannot be read."""
    try:
        return _find_picture(value) is not None
    except DataError:
        return True


def _mark(value: Any, folder: Path) -> bytes | None:
    """What stands for a picture that is not opened: a digest of its path or bytes.

    Raises:
        DataError: it has neither.
    """
    found = _find_picture(value)
    if found is None:
        return None
    if isinstance(found, str):
        found = os.path.abspath(folder / found).encode(errors="surrogatepass")
    return hashlib.sha256(found).digest()


def _find_picture(value: Any) -> str | bytes | None:
    """The path or the bytes of a row's picture, if it has one."""
    if isinstance(value, Mapping):
        if not value.keys() & {"bytes", "path"}:
            raise DataError(f"image must hold `path` or `bytes`, got {short(value)}")
        value = value.get("bytes") or value.get("path")
    if value is None or value == "" or value != value:  # NaN: a missing value of Parquet
        return None
    if not isinstance(value, str | bytes):
        raise DataError(f"image must be a path or bytes, got {short(value)}")
    return value


def _read_picture(value: str, folder: Path, allow_outside: bool) -> bytes:
    try:
        place = (folder / value).resolve()
        found = place.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL or a loop: no path at all
        raise DataError(f"image {short(value)} is not the path of a file") from None
    if not allow_outside and not place.is_relative_to(folder.resolve()):
        raise DataError(
            f"image {value!r} lies outside the data file's folder; move it there, or set "
            "data.allow_outside_images: true (for predict: --allow-outside-images)"
        )
    if not found:
        raise DataError(f"image {value!r}: no such file beside the data file")
    try:
        if place.stat().st_size > MAX_IMAGE_BYTES:
            raise DataError(_too_large(f"{value!r}"))
        return place.read_bytes()
    except OSError as error:
        raise DataError(f"image {value!r} cannot be read: {error.strerror}") from None


def _too_large(which: str) -> str:
    return f"image {which} is too large; a picture file has at most {MAX_IMAGE_BYTES:,} bytes"
