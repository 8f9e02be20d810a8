"""The journal of a run: append-only JSON lines, one record per fact; state is its replay."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coralx.config import Config, load_config
from coralx.errors import StoreError
from coralx.records import (
    Generation,
    Job,
    Record,
    TestResult,
    TrainingResult,
    jsonable,
)

JOURNAL = "journal.jsonl"


@dataclass
class History:
    """What a journal says, in its order. `facts` are those of the start of the run:
    `steps_per_epoch`, `rows`, `versions`, `machine`."""

    config: Config
    facts: dict[str, Any]
    jobs: list[Job] = field(default_factory=list)
    results: list[TrainingResult] = field(default_factory=list)
    generations: list[Generation] = field(default_factory=list)
    tests: list[TestResult] = field(default_factory=list)
    seconds: float = 0.0
    finished: bool = False


class Store:
    """A run directory's journal, open for appending. Each record is on disk before `append` ends.

    Raises:
        StoreError: the directory cannot be written, or the journal is damaged.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._path = directory / JOURNAL
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._drop_torn_line()
            self._file = self._path.open("ab")
        except OSError as error:
            raise StoreError(f"{directory}: the run directory cannot be written: {error}") from None

    def append(self, kind: str, record: Record | Mapping[str, Any]) -> None:
        """Write one fact and force it to disk."""
        value = jsonable(record) if isinstance(record, Record) else dict(record)
        line = json.dumps({"kind": kind, "value": value}, allow_nan=True) + "\n"
        try:
            self._file.write(line.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StoreError(f"{self._path}: a record could not be written: {error}") from None

    def close(self) -> None:
        self._file.close()

    def _drop_torn_line(self) -> None:
        """A crash can leave half a line at the end; appending after it would spoil both."""
        if not self._path.exists():
            return
        data = self._path.read_bytes()
        if data and not data.endswith(b"\n"):
            with self._path.open("r+b") as file:
                file.truncate(data.rfind(b"\n") + 1)


def read_history(directory: Path) -> History:
    """Replay a run's journal.

    Raises:
        StoreError: there is no journal, its first record is not the start of a run, or a line
            other than a torn last one is damaged; the message names the line.
    """
    records = _read_records(directory / JOURNAL)
    kind, started = next(records, ("", {}))
    if kind != "run_started":
        raise StoreError(f"{directory / JOURNAL}: line 1 must be the start of a run, got {kind!r}")
    history = History(config=load_config(started["config"]), facts=started)
    for kind, value in records:
        _apply(history, kind, value)
    return history


def _apply(history: History, kind: str, value: dict[str, Any]) -> None:
    match kind:
        case "job":
            history.jobs.append(Job.model_validate(value))
        case "result":
            history.results.append(TrainingResult.model_validate(value))
        case "generation":
            history.generations.append(Generation.model_validate(value))
        case "test":
            history.tests.append(TestResult.model_validate(value))
        case "paused" | "run_finished":
            history.seconds += value["seconds"]
            history.finished = kind == "run_finished"
        case _:
            raise StoreError(f"journal: unknown record {kind!r}; written by a newer version?")


def _read_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise StoreError(f"{path.parent}: not a run directory, it has no {path.name}") from None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error}") from None
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is torn
        try:
            record = json.loads(line)
            yield record["kind"], record["value"]
        except (ValueError, KeyError, TypeError):
            raise StoreError(
                f"{path}: line {number} is damaged; restore the file from a backup, or keep the "
                f"{number - 1} lines before it and resume: what came after is trained again"
            ) from None
