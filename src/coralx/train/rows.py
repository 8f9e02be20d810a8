"""Rows of a user's file or of the data set in the package, checked one by one."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coralx.config import DataSettings
from coralx.errors import DataError
from coralx.train.vision import decode_image

READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
SPLITS = ("train", "validation", "test", "clean_holdout")
SHOWN = 20  # bad rows listed before "and n more"


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

    def strata(self) -> list[tuple[int, bool, str]]:
        """Of each row, what subsets and splits are balanced over: label, modality, task."""
        return [
            (int(label), image is not None, task)
            for label, image, task in zip(self.labels, self.images, self.tasks, strict=True)
        ]


def join(parts: Sequence[Rows]) -> Rows:
    """All rows of the parts, in order."""
    return Rows(
        tuple(t for p in parts for t in p.texts),
        np.concatenate([p.labels for p in parts]),
        tuple(t for p in parts for t in p.tasks),
        tuple(i for p in parts for i in p.images),
    )


def builtin_file(split: str) -> Path:
    """Where a split of the data set in the package lies."""
    return Path(str(resources.files("coralx") / "assets" / f"{split}.parquet"))


def read_rows(path: Path, settings: DataSettings, need_labels: bool = True) -> Rows:
    """Read and check a JSONL, CSV or Parquet file through `datasets`.

    Args:
        need_labels: False for rows to predict; labels are then 0.

    Raises:
        DataError: no such file, unknown kind, a missing column, no rows, or bad rows while
            `on_bad_rows` is refuse; bad rows are listed with their numbers (the first is 1).
    """
    table = _keep_encoded(_load_table(path), settings.image_column)
    columns = set(table.column_names)
    needed = {settings.text_column} | ({settings.label_column} if need_labels else set())
    if missing := sorted(needed - columns):
        raise DataError(
            f"{path}: no column {', '.join(map(repr, missing))}; there are "
            f"{', '.join(map(repr, table.column_names))}; name yours under data: "
            "text_column, label_column"
        )
    good, bad = [], []
    for number, row in enumerate(table, start=1):
        try:
            good.append(_check_row(row, settings, path.parent, need_labels))
        except DataError as error:
            bad.append(f"row {number}: {error}")
    if bad and settings.on_bad_rows == "refuse":
        raise DataError(_list_bad(path, bad))
    if not good:
        raise DataError(f"{path}: no usable rows; at least one is needed")
    texts, labels, tasks, images = zip(*good, strict=True)
    return Rows(texts, np.array(labels, dtype=np.int8), tasks, images)


def _load_table(path: Path) -> Any:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: must be one of {', '.join(READERS)}, got {path.suffix!r}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; at least one row is needed")
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    # Only an empty cell is missing: "NA" and "null" are texts like any other.
    options = {"keep_default_na": False, "na_values": [""]} if reader == "csv" else {}
    try:
        with tempfile.TemporaryDirectory() as cache:
            return datasets.load_dataset(
                reader,
                data_files=glob.escape(str(path)),
                split="train",
                cache_dir=cache,
                keep_in_memory=True,
                **options,
            )
    except Exception as error:  # datasets raises many kinds; all mean: unreadable
        cause = (str(error.__cause__ or error).strip() or type(error).__name__).splitlines()[0]
        if "corresponds to no data" in cause:
            raise DataError(f"{path}: the file has no rows; at least one is needed") from None
        raise DataError(f"{path}: cannot be read as {reader}: {cause}") from None


def _keep_encoded(table: Any, column: str) -> Any:
    """The table with an image column of `datasets` as bytes or path, not as decoded pictures."""
    import datasets

    if isinstance(table.features.get(column), datasets.Image):
        return table.cast_column(column, datasets.Image(decode=False))
    return table


def _check_row(
    row: Mapping[str, Any], settings: DataSettings, folder: Path, need_labels: bool
) -> tuple[str, int, str, bytes | None]:
    text = row[settings.text_column]
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"text must be a non-empty string, got {text!r:.40}")
    label = _check_label(row[settings.label_column]) if need_labels else 0
    task = row.get(settings.task_column)
    image = read_image(row.get(settings.image_column), folder)
    return text, label, "all" if task is None else str(task), image


def _check_label(label: Any) -> int:
    if isinstance(label, int | float) and label in (0, 1):
        return int(label)
    raise DataError(f"label must be 0 or 1, got {label!r:.40}")


def read_image(value: Any, folder: Path) -> bytes | None:
    """Bytes as they are, or of a file inside the data file's folder."""
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if value is None or value == "" or value != value:  # CSV reads an empty cell as NaN
        return None
    if isinstance(value, str):
        try:
            place = (folder / value).resolve()
            found = place.is_file()
        except (OSError, ValueError):  # too long, or a NUL: no path at all
            raise DataError(f"image {value!r:.40} is not the path of a file") from None
        if not place.is_relative_to(folder.resolve()):
            raise DataError(f"image {value!r} lies outside the data file's folder")
        if not found:
            raise DataError(f"image {value!r}: no such file beside the data file")
        value = place.read_bytes()
    if not isinstance(value, bytes):
        raise DataError(f"image must be a path or bytes, got {type(value).__name__}")
    decode_image(value)
    return value


def _list_bad(path: Path, bad: Sequence[str]) -> str:
    shown = "\n".join(f"  {line}" for line in bad[:SHOWN])
    more = f"\n  and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    return f"{path}: {len(bad)} bad row(s); mend them or set data.on_bad_rows: skip\n{shown}{more}"
