"""Score new rows with an exported adapter: text alone, or text and picture."""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from coralx.errors import DataError, ModelError
from coralx.records import LoRAConfig
from coralx.train.adapters import PackedAdapters
from coralx.train.backbone import Backbone
from coralx.train.checkpoint import import_adapter, read_sidecar
from coralx.train.network import score
from coralx.train.prefix import EncodedRows
from coralx.train.rows import Rows, check_text, read_image
from coralx.train.vision import VisionTower
from coralx.train.workbench import choose_device

CHUNK = 256  # rows held in memory at once
BATCH = 32

Row = Mapping[str, Any]


class Predictor:
    """One adapter on its base model.

    Args:
        folder: as `coralx export` wrote it.
        device: auto, cpu or cuda.

    Raises:
        ModelError: the folder, its base model or its vision tower cannot be used.
    """

    def __init__(self, folder: Path, device: str = "auto") -> None:
        facts = read_sidecar(folder)
        self._device = choose_device(device)
        try:
            self.threshold = float(facts["threshold"])  # type: ignore[arg-type]
            self._max_tokens = int(facts["max_tokens"])  # type: ignore[call-overload]
            lora = LoRAConfig.model_validate(facts["lora_cfg"])
            base, tower = str(facts["base_model"]), facts["vision_tower"]
            slots = int(facts["image_tokens"])  # type: ignore[call-overload]
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"{folder}: its coralx.json is incomplete ({type(error).__name__}: {error}); "
                "export the genome again"
            ) from None
        self._backbone = Backbone(base, self._device, torch.float32)
        self._tower = VisionTower(str(tower), slots, self._device) if tower else None
        weights = import_adapter(folder, self._backbone)
        self._pack = PackedAdapters([weights], [lora.scale], [0.0], [0], self._device)
        depth = self._backbone.depth
        self._entry = depth - min(depth, lora.layers) if isinstance(lora.layers, int) else 0

    @property
    def reads_pictures(self) -> bool:
        return self._tower is not None

    @torch.no_grad()
    def score(self, texts: Sequence[str], images: Sequence[bytes | None]) -> list[float]:
        """The probability of unsafe for each row, in their order."""
        none = np.zeros(len(texts), dtype=np.int8)
        rows = Rows(tuple(texts), none, ("all",) * len(texts), tuple(images))
        encoded = EncodedRows(rows, self._backbone, self._tower, self._max_tokens, keep=False)
        scores = np.empty(len(texts))
        for part in encoded.sorted_batches(BATCH):
            batch = encoded.batch(part)
            logits = score(self._backbone, self._pack, [self._entry], batch)[0]
            scores[part] = torch.sigmoid(logits.double()).cpu().numpy()
        return scores.tolist()

    def predict(
        self, rows: Iterable[Row], folder: Path, text_column: str, image_column: str
    ) -> Iterator[dict[str, Any]]:
        """Each row, without bytes, with its `score` and whether that makes it `unsafe`.

        Args:
            folder: that relative picture paths are taken from.

        Raises:
            DataError: a row without text or with an unreadable picture; it names the row.
        """
        numbered = enumerate(rows, start=1)
        while chunk := list(itertools.islice(numbered, CHUNK)):
            read = [_read_row(n, row, folder, text_column, image_column) for n, row in chunk]
            scores = self.score([text for text, _ in read], [image for _, image in read])
            for (_, row), value in zip(chunk, scores, strict=True):
                yield {**_echo(row), "score": value, "unsafe": value >= self.threshold}


def iterate_rows(path: Path) -> Iterator[Row]:
    """Rows of a JSONL, CSV or Parquet file, one after another.

    Raises:
        DataError: no such file, unknown kind, or it cannot be read.
    """
    readers = {".jsonl": _jsonl, ".json": _jsonl, ".csv": _csv, ".parquet": _parquet}
    if path.suffix not in readers:
        raise DataError(
            f"{path}: must be one of {', '.join(readers)}, got {path.suffix!r}; "
            "`-` reads JSON lines from standard input"
        )
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        yield from readers[path.suffix](path)
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as {path.suffix[1:]}: {error}") from None


def parse_lines(lines: Iterable[str]) -> Iterator[Row]:
    """JSON lines, empty ones left out.

    Raises:
        DataError: a line that holds no JSON object; it names the line.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"line {number}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise DataError(f"line {number}: must be an object, got {type(row).__name__}")
        yield row


def write_lines(rows: Iterable[Row], file: TextIO) -> int:
    """Write JSON lines; gives how many."""
    count = 0
    for row in rows:
        file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        count += 1
    return count


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        yield from parse_lines(file)


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file)


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=CHUNK):
            yield from batch.to_pylist()


def _read_row(
    number: int, row: Row, folder: Path, text_column: str, image_column: str
) -> tuple[str, bytes | None]:
    if text_column not in row:
        known = ", ".join(map(repr, row))
        raise DataError(
            f"row {number}: no column {text_column!r}; there are {known}; use --text-column"
        )
    text = row[text_column]
    try:
        check_text(text)
        return text, read_image(row.get(image_column), folder)
    except DataError as error:
        raise DataError(f"row {number}: {error}") from None


def _echo(row: Row) -> dict[str, Any]:
    """The row's fields without bytes, which JSON cannot hold, bare or in a mapping."""
    kept = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            value = {k: v for k, v in value.items() if not isinstance(v, bytes)}
        if not isinstance(value, bytes):
            kept[name] = value
    return kept
