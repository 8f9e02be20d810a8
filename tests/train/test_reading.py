"""What the model gets of the rows: what is cut, what it does not know, what it was trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coralx.config import load_config
from coralx.train.backbone import Backbone
from coralx.train.prefix import EncodedRows
from coralx.train.reading import compare_reading
from coralx.train.rows import Rows
from coralx.train.workbench import Workbench


def _rows(texts: Sequence[str], images: Sequence[bytes | None] | None = None) -> Rows:
    labels = np.array([i % 2 for i in range(len(texts))], np.int8)
    return Rows(tuple(texts), labels, ("all",) * len(texts), tuple(images or [None] * len(texts)))


@pytest.mark.parametrize("pictured", [True, False])
def test_measured_rows_that_are_training_rows_to_the_model_are_counted(
    backbone: Backbone, pictured: bool
) -> None:
    """Cut at 8 tokens, 6 words are read; accents are not told apart, nor what is unknown. Rows
    with other pictures are others where pictures are looked at."""
    same = "one two three four five six"
    train = _rows([f"{same} seven", "caf\u00e9", "\U0001f52a", "shown"], [None, None, None, b"a"])
    parts = {
        "validation": _rows([f"{same} eight nine", "cafe", "\U0001f9e7\U0001f60a", "tea"]),
        "test": _rows(["one two", "shown", "shown"], [None, b"b", b"a"]),
    }
    one, *others = (EncodedRows(rows, backbone, None, 8) for rows in (train, *parts.values()))
    found = compare_reading(one, dict(zip(parts, others, strict=True)), pictured)
    assert found == {
        "rows": {"train": 4, "validation": 4, "test": 3},
        "cut": {"train": 1, "validation": 1, "test": 0},
        "unknown": {"train": 1, "validation": 1, "test": 0},
        "trained_on": {"validation": 3, "test": 1 if pictured else 2},
    }


def _write(path: Path, word: str, count: int) -> str:
    rows = [{"text": f"{word} no {i} " + "long " * (i % 5), "label": i % 2} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_workbench_says_how_its_rows_are_read(tmp_path: Path) -> None:
    counts = {"train": 12, "validation": 14, "test": 16}
    files = {name: _write(tmp_path / f"{name}.jsonl", name, n) for name, n in counts.items()}
    settings: dict[str, Any] = {
        "vision_tower": None,
        "data": {**files, "image_column": None, "max_tokens": 7},
        "training": {"device": "cpu", "threads": 1},
    }
    found = Workbench(load_config(settings), tmp_path / "checkpoints").reading()
    assert found["max_tokens"] == 7
    assert found["rows"] == counts
    assert found["trained_on"] == {"validation": 0, "test": 0}
    assert 0 < found["cut"]["test"] < 16
