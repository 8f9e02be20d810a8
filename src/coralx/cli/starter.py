"""`coralx init`: a commented configuration and sample rows to start one's own job from."""

from __future__ import annotations

import json
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any

from coralx.errors import StoreError
from coralx.rows.file import builtin_file, iterate_rows

# Rows of each class, per task: text alone, and text with a picture.
SIZES = {"train": (48, 24), "validation": (24, 12), "test": (24, 12)}
PICTURES = "pictures"
NEW_ROWS = "new_rows.jsonl"
NEW_OF_A_CLASS = 10


def write_starter(directory: Path) -> list[Path]:
    """Write config.yaml, rows of the data set in the package, and rows to predict.

    Raises:
        StoreError: one of the files exists already, or the folder cannot be written.
    """
    files = [directory / name for name in ("config.yaml", NEW_ROWS, PICTURES)]
    files += [directory / f"{split}.jsonl" for split in SIZES]
    if taken := [path.name for path in files if path.exists()]:
        raise StoreError(
            f"{directory}: holds {', '.join(sorted(taken))} already and nothing is overwritten; "
            "choose another folder"
        )
    try:
        (directory / PICTURES).mkdir(parents=True)
        for split, (texts, pictured) in SIZES.items():
            rows = _choose(split, texts, pictured)
            _write_rows(directory, split, rows)
        _write_rows(directory, NEW_ROWS.removesuffix(".jsonl"), _choose_new())
        template = resources.files("coralx") / "assets" / "starter.yaml"
        text = template.read_text(encoding="utf-8").replace("{folder}", str(directory))
        (directory / "config.yaml").write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(
            f"{directory}: cannot be written: {error.strerror or error}; free space or allow "
            "writing there, or name another folder"
        ) from None
    return sorted(files)


def _choose(split: str, texts: int, pictured: int) -> list[dict[str, Any]]:
    """The first rows of each class with and without a picture, in the order of the file."""
    wanted = {False: texts, True: pictured}
    seen: Counter[tuple[bool, int]] = Counter()
    chosen = []
    for row in iterate_rows(builtin_file(split)):
        kind = (row["image"] is not None, row["label"])
        seen[kind] += 1
        if seen[kind] <= wanted[kind[0]]:
            chosen.append(row)
    return chosen


def _choose_new() -> list[dict[str, Any]]:
    """Rows without pictures that stand in none of the job's files: those after its test rows."""
    texts, _ = SIZES["test"]
    known = _choose("test", texts, 0)
    return [row for row in _choose("test", texts + NEW_OF_A_CLASS, 0) if row not in known]


def _write_rows(directory: Path, split: str, rows: list[dict[str, Any]]) -> None:
    lines = []
    for number, row in enumerate(rows, start=1):
        line = {name: row[name] for name in ("text", "label", "task")}
        if row["image"] is not None:
            line["image"] = f"{PICTURES}/{split}-{number:03d}.webp"
            (directory / line["image"]).write_bytes(row["image"])
        lines.append(json.dumps(line, ensure_ascii=False))
    (directory / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
