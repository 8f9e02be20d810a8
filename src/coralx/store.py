"""The journal of a run: append-only JSON lines, one record per fact; state is its replay.

A line is `{"kind": ..., "value": ..., "seconds": ..., "crc32": ...}`: `seconds` since the first
record of the sitting (a `run` or `resume` that appended), `crc32` over all lines up to there, so
that a line that is missing, doubled or moved shows as well as one that is changed.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, FiniteFloat

from coralx.config import Config, load_config
from coralx.durable import make_folder, sync_folder
from coralx.errors import ConfigError, StoreError, remedy
from coralx.interrupts import unbroken
from coralx.lock import RunLock
from coralx.records import (
    Generation,
    Job,
    Record,
    Repair,
    TestResult,
    TrainingResult,
    jsonable,
)

JOURNAL = "journal.jsonl"
SEAL = ', "crc32": "'  # what stands between a line's content and its checksum

Value = Record | Mapping[str, Any] | Sequence[Record]
Counts = dict[str, int]
ByClass = dict[str, Counts]  # unsafe and safe rows


class _Reading(BaseModel, strict=True):
    max_tokens: int
    rows: Counts
    cut: Counts
    unknown: Counts
    trained_on: Counts


class _Facts(BaseModel, strict=True):
    """The kinds of what a sitting says of itself (see `coralx.runs.facts`), where its version says
    it. Only checked: what is kept is as it was written."""

    seed: int = 0
    steps_per_epoch: FiniteFloat = 0
    rows: Counts = {}
    classes: ByClass = {}
    missing_classes: dict[str, dict[str, list[str]]] = {}
    task_classes: dict[str, ByClass] = {}
    left_out: Counts = {}
    fingerprints: dict[str, str] = {}
    tasks: list[str] = []
    stage_classes: ByClass = {}
    picture_classes: ByClass = {}
    reading: _Reading | None = None
    images: bool = False
    versions: dict[str, str] = {}
    machine: str = ""
    numerics: dict[str, Any] = {}
    started: str = ""


@dataclass
class History:
    """What a journal says, in its order. `facts` are those of the start of the run, `resumed` those
    of the rows and of where each later sitting computes: see `coralx.runs.facts`. `order` has jobs
    and results among each other, as they were given and told.

    `seconds` counts every sitting up to its last record; a killed one is known no further.
    """

    config: Config
    facts: dict[str, Any]
    jobs: list[Job] = field(default_factory=list)
    results: list[TrainingResult] = field(default_factory=list)
    order: list[Job | TrainingResult] = field(default_factory=list)
    generations: list[Generation] = field(default_factory=list)
    tests: list[TestResult] = field(default_factory=list)
    repairs: list[Repair] = field(default_factory=list)
    resumed: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    finished: bool = False


class Store:
    """A run directory's journal, open for appending by this process alone.

    Each record is on disk before `append` ends, or not in the journal at all. `warning` says what
    had to be done to the end of the journal when it was opened; it is empty where all was well.

    Raises:
        StoreError: the directory cannot be written, or another process writes it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._path = directory / JOURNAL
        self._began: float | None = None
        self.warning = ""
        try:
            make_folder(directory)
            self._lock = RunLock(directory)
        except OSError as error:
            raise StoreError(_unopenable(directory, error)) from None
        try:
            self._crc = self._mend_end()
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            sync_folder(directory)
        except OSError as error:
            self._lock.release()
            raise StoreError(_unopenable(directory, error)) from None

    def append(self, kind: str, value: Value) -> None:
        """Write one fact and force it to disk.

        Raises:
            StoreError: it could not be written, or the directory is no longer the one that was
                locked; the journal is as it was before.
        """
        with unbroken():
            if self._file < 0:
                raise StoreError(f"{self._path}: closed, so nothing more can be recorded")
            if not self._lock.holds:
                raise StoreError(_moved(self.directory))
            before = os.fstat(self._file).st_size
            line, crc = _seal(kind, _plain(value), self._seconds(), self._crc)
            try:
                _write(self._file, line)
                os.fsync(self._file)
            except BaseException as error:
                self._take_back(before)
                if isinstance(error, OSError):
                    raise StoreError(_unwritable(self._path, error)) from None
                raise
            self._crc = crc

    def close(self) -> None:
        """Let go of the directory; a second time does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._lock.release()

    def _seconds(self) -> float:
        now = time.monotonic()
        if self._began is None:
            self._began = now
        return round(now - self._began, 3)

    def _take_back(self, size: int) -> None:
        """Half a line with another after it would be a damaged journal."""
        try:
            os.ftruncate(self._file, size)
        except OSError:  # then the half line stays last: whoever opens the journal next drops it
            os.close(self._file)
            self._file = -1

    def _mend_end(self) -> int:
        """A crash can leave half a line at the end; appending after it would spoil both. Gives
        the checksum of the last whole line, from which the next one's goes on."""
        if not self._path.exists():
            return 0
        data = self._path.read_bytes()
        lines, torn = _split(data)
        whole = sum(len(line) + 1 for line in lines)
        if data[-1:] not in (b"", b"\n"):
            with self._path.open("r+b") as file:
                file.truncate(whole)
                if lines:
                    file.seek(whole - 1)
                    file.write(b"\n")
                file.flush()
                os.fsync(file.fileno())
            self.warning = _describe_end(self._path, torn)
        return _crc_of(lines[-1]) if lines else 0


class NoStore:
    """A journal of which nothing is kept, for what is never resumed: a replay, or
    `HyperbandTrainer`."""

    def append(self, kind: str, value: Value) -> None:
        pass


def has_begun(directory: Path) -> bool:
    """Whether the directory holds a run: a journal with a first record."""
    try:
        return bool(_split((directory / JOURNAL).read_bytes())[0])
    except OSError:
        return False


def read_history(directory: Path) -> History:
    """Replay a run's journal.

    Raises:
        StoreError: there is no journal, its first record is not the start of a run, a line other
            than a torn last one is damaged, which the message names, or a record is not one that
            this version reads.
    """
    path = directory / JOURNAL
    records = _read_records(path)
    history = _begin(path, next(records, None))
    writer: Any = history.facts
    sitting = 0.0  # seconds of the one being read
    for kind, value, seconds in records:
        if kind == "resumed":
            history.seconds += sitting
            writer = value
        with _readable(path, kind, writer):
            sitting = float(seconds)
            _apply(history, kind, value)
    history.seconds += sitting
    return history


def read_start(directory: Path) -> History:
    """What a journal's first record says, and of the others nothing: a small part of the time.

    Raises:
        StoreError: there is no journal, or its first record is damaged, not the start of a run
            or not one that this version reads.
    """
    path = directory / JOURNAL
    return _begin(path, next(_read_records(path), None))


def _begin(path: Path, first: tuple[str, Any, float] | None) -> History:
    if first is None:
        raise StoreError(
            f"{path}: holds no whole record. A run that was stopped before its first record is "
            f"started again with `coralx run CONFIG --out {path.parent}`; if checkpoints or "
            "adapters lie beside it, the journal was emptied or written over: restore it from a "
            "backup"
        )
    kind, started, _ = first
    if kind != "run_started":
        raise StoreError(f"{path}: line 1 must be the start of a run, got {kind!r}")
    with _readable(path, kind, started):
        config = started["config"]
        if not isinstance(config, Mapping):  # it would be taken for the path of one
            raise TypeError(f"config must be a mapping, got {config!r}")
        _Facts.model_validate(started)
        history = History(config=load_config(config, recorded=True), facts=started)
    return history


def _apply(history: History, kind: str, value: Any) -> None:
    match kind:
        case "job":
            job = Job.model_validate(value)
            history.jobs.append(job)
            history.order.append(job)
        case "results":  # of one job: whole or absent, so that no finished stage is trained again
            results = [TrainingResult.model_validate(item) for item in value]
            history.results += results
            history.order += results
        case "generation":
            history.generations.append(Generation.model_validate(value))
        case "test":
            history.tests.append(TestResult.model_validate(value))
        case "repaired":
            history.repairs.append(Repair.model_validate(value))
        case "resumed":
            _Facts.model_validate(value)
            history.resumed.append(dict(value))
        case "paused":
            pass
        case "run_finished":
            history.finished = True
        case _:
            raise ValueError("its kind is unknown")


@contextlib.contextmanager
def _readable(path: Path, kind: str, writer: Any) -> Iterator[None]:
    """A line may be whole and still say what this version does not know: a StoreError then.

    Args:
        writer: the value of the last record that names the version at work.
    """
    try:
        yield
    except (
        ConfigError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError
    ) as error:  # fmt: skip
        versions = writer.get("versions") if isinstance(writer, Mapping) else None
        version = versions.get("coralx") if isinstance(versions, Mapping) else None
        raise StoreError(
            f"{path}: a {kind!r} record is not one that this version of CoralX reads; go on with "
            f"the version that wrote it, {version or 'which it does not name'}: "
            f"{type(error).__name__}: {error}"
        ) from None


def _read_records(path: Path) -> Iterator[tuple[str, Any, float]]:
    try:
        lines, _ = _split(path.read_bytes())
    except FileNotFoundError:
        raise StoreError(f"{path.parent}: not a run directory, it has no {path.name}") from None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error}") from None
    crc = 0
    for number, line in enumerate(lines, start=1):
        try:
            kind, value, seconds, crc = _unseal(line, crc)
            yield kind, value, seconds
        except (ValueError, KeyError, TypeError):
            advice = "begin anew in another folder: the first line says what the run is"
            if kept := number - 1:
                advice = (
                    f"keep the {kept} lines before it (head -n {kept}) and resume: what came after "
                    "is trained again"
                )
            raise StoreError(
                f"{path}: line {number} is damaged or not the one that was here; restore the file "
                f"from a backup, or {advice}"
            ) from None


def _split(data: bytes) -> tuple[list[bytes], bytes]:
    """The lines of a journal, and what is torn: it follows the last newline.

    A last line of which nothing but the newline itself was changed is not torn: its record was on
    disk, and acted on.
    """
    *lines, torn = data.split(b"\n")
    if torn:
        try:
            _unseal(torn[:-1], _crc_of(lines[-1]) if lines else 0)
        except (ValueError, KeyError, TypeError):
            return lines, torn
        lines.append(torn[:-1])
    return lines, b""


def _seal(kind: str, value: Any, seconds: float, before: int) -> tuple[bytes, int]:
    """A line and its checksum; `before` is that of the line before it."""
    content = json.dumps({"kind": kind, "value": value, "seconds": seconds})[:-1]
    crc = zlib.crc32(content.encode(), before)
    return f'{content}{SEAL}{crc:08x}"}}\n'.encode(), crc


def _unseal(line: bytes, before: int) -> tuple[str, Any, float, int]:
    """Kind, value, seconds and checksum of a line.

    Raises:
        ValueError, KeyError, TypeError: it is not as it was written, or does not follow `before`.
    """
    content, _, seal = line.decode().rpartition(SEAL)
    crc = zlib.crc32(content.encode(), before)
    if seal != f'{crc:08x}"}}':
        raise ValueError("the checksum differs")
    try:
        record = json.loads(content + "}")
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return record["kind"], record["value"], record["seconds"], crc


def _crc_of(line: bytes) -> int:
    """The checksum that a line states; 0 where it states none, which reading it will tell."""
    try:
        return int(line[-10:-2], 16)
    except ValueError:
        return 0


def _plain(value: Value) -> Any:
    if isinstance(value, Record):
        return jsonable(value)
    return dict(value) if isinstance(value, Mapping) else [jsonable(item) for item in value]


def _write(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _describe_end(path: Path, torn: bytes) -> str:
    if not torn:
        return f"warning: {path}: the newline of its last line was damaged, and is one again"
    return (
        f"warning: {path}: it ended in half a record ({len(torn)} bytes), as a process leaves it "
        "that is killed while it writes; that was dropped, and what it was about is done again"
    )


def _moved(directory: Path) -> str:
    return (
        f"{directory}: a run writes where it began, and this folder, or the lock in it, was moved, "
        "replaced or removed; nothing more is recorded. `coralx resume` goes on with the folder "
        "where it is now"
    )


def _unwritable(path: Path, error: OSError) -> str:
    return (
        f"{path}: cannot be written: {error.strerror or error}. What was recorded before is kept; "
        f"{remedy(error)}, and resume"
    )


def _unopenable(directory: Path, error: OSError) -> str:
    return (
        f"{error.filename or directory}: cannot be written: {error.strerror or error}; "
        f"{remedy(error)}, then give the same command again"
    )
