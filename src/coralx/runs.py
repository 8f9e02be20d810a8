"""A run directory from start to summary: what `coralx run` and `coralx resume` do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from coralx.config import Config
from coralx.errors import StoreError
from coralx.loop import run
from coralx.records import Progress, TrainingResult
from coralx.report import write_report
from coralx.search.evolution import Evolution
from coralx.store import JOURNAL, History, Store, read_history
from coralx.summary import write_summary

if TYPE_CHECKING:
    from coralx.train.worker import Worker

PACKAGES = ("coralx", "torch", "transformers", "peft", "pymoo", "moocore", "numpy")


@dataclass
class Watcher:
    """Who is told how a run goes; the methods do nothing unless overridden."""

    def say(self, message: str) -> None:
        """A phase begins."""

    def begin(self, evolution: Evolution) -> None:
        """Training begins; `evolution` can be looked at from then on."""

    def observe(self, progress: Progress) -> None:
        """A training step was taken."""


def start_run(config: Config, directory: Path, watcher: Watcher) -> History:
    """Evolve in a new run directory and write all that belongs in it.

    Raises:
        StoreError: the directory holds a run already or cannot be written.
        DataError, ModelError: what the configuration names cannot be used; nothing is written.
        ExtinctError: no genome is left.
    """
    if (directory / JOURNAL).exists():
        raise StoreError(
            f"{directory}: holds a run already; `coralx resume {directory}` goes on with it, or "
            "choose another --out"
        )
    worker = _load_worker(config, directory, watcher)
    store = Store(directory)
    settings = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    (directory / "config.yaml").write_text(settings, encoding="utf-8")
    store.append("run_started", _facts(config, worker))
    return _continue(directory, store, worker, watcher)


def resume_run(directory: Path, watcher: Watcher) -> History:
    """Go on where a stopped run was; what is journalled is not trained again.

    Raises:
        StoreError: not a run directory, or its journal is damaged.
    """
    history = read_history(directory)
    if history.finished:
        _write_outputs(directory, history)
        return history
    worker = _load_worker(history.config, directory, watcher)
    return _continue(directory, Store(directory), worker, watcher)


def export_genome(directory: Path, genome: str, target: Path, watcher: Watcher) -> TrainingResult:
    """Write a trained genome of a run as a PEFT adapter.

    Raises:
        StoreError: the run has no such genome, or it left no checkpoint.
    """
    history = read_history(directory)
    found = [r for r in history.results if r.genome.id == genome and r.checkpoint]
    if not found:
        known = ", ".join(dict.fromkeys(r.genome.id for r in history.results if r.checkpoint))
        raise StoreError(
            f"{directory}: no trained genome {genome!r}; there are {known or 'none yet'}"
        )
    best = max(found, key=lambda result: result.stage_index)
    _load_worker(history.config, directory, watcher).export(best, target)
    return best


def _continue(directory: Path, store: Store, worker: Worker, watcher: Watcher) -> History:
    """Replay, evolve, take the final figures, write the outputs."""
    from coralx.executors.local import LocalExecutor

    began = time.monotonic()
    history = read_history(directory)
    bench = worker.bench
    evolution = Evolution(history.config, image_task=bench.has_images, shape=bench.shape)
    watcher.begin(evolution)
    ending = "paused"
    try:
        front = run(evolution, LocalExecutor(worker, watcher.observe), store, history)
        watcher.say(f"measuring the front of {len(front)} on the test rows")
        known = {test.genome for test in history.tests}
        for result in front:
            if result.genome.id not in known:
                store.append("test", worker.test(result))
            worker.export(result, directory / "adapters" / result.genome.id)
        ending = "run_finished"
    finally:
        store.append(ending, {"seconds": time.monotonic() - began})
        store.close()
    history = read_history(directory)
    _write_outputs(directory, history)
    return history


def _write_outputs(directory: Path, history: History) -> None:
    write_summary(history, directory / "summary.json")
    write_report(history, directory / "report.html")


def _load_worker(config: Config, directory: Path, watcher: Watcher) -> Worker:
    from coralx.train.worker import Worker

    return Worker(config, directory / "checkpoints", watcher.say)


def _facts(config: Config, worker: Worker) -> dict[str, Any]:
    """What the journal's first record says of a run."""
    splits = worker.bench.splits
    rows = {
        "train": len(splits.train),
        "validation": len(splits.validation),
        "test": len(splits.test),
        "clean_holdout": len(splits.clean_validation) + len(splits.clean_test),
    }
    return {
        "config": config.model_dump(mode="json"),
        "seed": config.evolution.seed,
        "steps_per_epoch": worker.bench.steps_per_epoch,
        "rows": rows,
        "tasks": sorted(set(splits.train.tasks)),
        "images": worker.bench.has_images,
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES}
        | {"python": platform.python_version()},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {worker.bench.device.type}",
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
