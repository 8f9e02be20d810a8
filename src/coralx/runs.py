"""A run directory from start to summary: what `coralx run` and `coralx resume` do."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from coralx.adapter_files import is_whole
from coralx.config import PREFIX_FOLDER, Config
from coralx.durable import write_whole
from coralx.errors import CheckpointError, ExtinctError, StoreError
from coralx.loop import run
from coralx.records import Progress, TrainingResult
from coralx.repair import Mender
from coralx.report import write_report
from coralx.reproduce import find_result
from coralx.retention import Retention, measure
from coralx.run_folder import SETTINGS, check_new, check_writable
from coralx.search.asktell import Search
from coralx.search.evolution import new_search
from coralx.store import History, Store, read_history
from coralx.summary import front_results, write_summary
from coralx.wording import scarce

if TYPE_CHECKING:
    from coralx.train.worker import Worker

PACKAGES = ("coralx", "torch", "transformers", "peft", "pymoo", "moocore", "numpy")


class Watcher:
    """Who is told how a run goes; the methods do nothing unless overridden."""

    def say(self, message: str) -> None:
        """A phase begins."""

    def show(self, message: str) -> None:
        """What is at work this moment; for views that move, as it may be told at every step."""

    def begin(self, evolution: Search) -> None:
        """Training begins; `evolution` can be looked at from then on."""

    def observe(self, progress: Progress) -> None:
        """A training step was taken."""


def start_run(config: Config, directory: Path, watcher: Watcher) -> History:
    """Evolve in a new run directory and write all that belongs in it.

    Raises:
        StoreError: the directory holds a run or files of names that a run writes, is in use or
            cannot be written.
        ConfigError, DataError, ModelError, ExecutorError: what the configuration says or names
            cannot be used; nothing is written.
        ExtinctError: no genome is left.
    """
    check_new(directory)
    check_writable(directory)
    new_search(config)  # a space that cannot fill the population is told before all else
    worker = _load_worker(config, directory, watcher)
    for text in scarce(worker.bench.splits.classes):
        watcher.say(f"warning: {text}")
    store = Store(directory)
    try:
        check_new(directory)  # another process may have begun one meanwhile
        settings = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        write_whole(directory / SETTINGS, settings)
        store.append("run_started", _facts(config, worker))
        return _continue(directory, store, worker, watcher)
    finally:
        store.close()


def resume_run(directory: Path, watcher: Watcher) -> History:
    """Go on where a stopped run was; what is journalled is not trained again. A finished run gets
    its outputs anew, and those of its adapters that are missing or damaged.

    Raises:
        StoreError: not a run directory, its journal is damaged, or another process is at work
            in it.
    """
    read_history(directory)  # before anything is written, as the lock is
    with contextlib.closing(_open(directory, watcher)) as store:
        history = read_history(directory)  # its last owner may have gone on meanwhile
        if history.finished:
            _complete(directory, history, watcher)
            return history
        worker = _load_worker(history.config, directory, watcher)
        _warn_of_change(history.facts, _machine_facts(worker), watcher)
        store.append("resumed", _machine_facts(worker))
        return _continue(directory, store, worker, watcher)


def _open(directory: Path, watcher: Watcher) -> Store:
    """The journal of a run, which is this process's until it is closed."""
    store = Store(directory)
    if store.warning:
        watcher.say(store.warning)
    return store


def export_genome(directory: Path, genome: str, target: Path, watcher: Watcher) -> TrainingResult:
    """Write a trained genome of a run as a PEFT adapter.

    A checkpoint that is damaged, or was removed to keep the disk bounded, is trained again, for
    which the run must not be in use.

    Raises:
        StoreError: the run has no such genome, it left no checkpoint, it was last scored without
            its pictures, or it must be trained again while another process is at work in the run.
    """
    from coralx.train.export import export_result, load_backbone

    history = read_history(directory)
    best = find_result(history, directory, genome)
    _check_scored_whole(history, best)
    config, images = history.config, bool(history.facts["images"])
    watcher.say(f"loading base model {config.base_model}")
    backbone = load_backbone(config)
    try:
        checkpoints = directory / "checkpoints"
        export_result(config, backbone, checkpoints, best, images, target)
    except CheckpointError:  # rows are needed only to train it again
        # For its lock alone: the journal says nothing of exports.
        with contextlib.closing(_open(directory, watcher)):
            _export_mended(directory, history, {target: best}, watcher)
    return best


def _check_scored_whole(history: History, result: TrainingResult) -> None:
    """Refuse a result whose threshold and scaling were fitted to the text of rows alone."""
    if any(job.id == result.job and job.text_only for job in history.jobs):
        raise StoreError(
            f"{result.genome.id} went no further than {result.stage}, where rows are scored by "
            "their text alone (hyperband.cross_modal_proxy), so no decision threshold for their "
            "pictures is measured; export a genome that reached a later stage"
        )


def _export_mended(
    directory: Path, history: History, adapters: Mapping[Path, TrainingResult], watcher: Watcher
) -> None:
    """Write results as adapters, training again what is missing or damaged of their checkpoints;
    the run must be locked. Of what was trained, a run keeps no more than it had, and its front."""
    checkpoints = directory / "checkpoints"
    kept = {name for name, _ in measure(checkpoints)}
    kept |= {result.checkpoint for result in _front(history) if result.checkpoint}
    try:
        worker = _load_worker(history.config, directory, watcher)
        mender = Mender(directory, worker, say=watcher.say, observe=watcher.observe)
        for target, result in adapters.items():
            mender.heal(lambda member=result, to=target: worker.export(member, to))  # type: ignore[misc]
    finally:
        Retention(checkpoints, 0).drop_orphans(kept)
        shutil.rmtree(directory / PREFIX_FOLDER, ignore_errors=True)


def _complete(directory: Path, history: History, watcher: Watcher) -> None:
    """What a finished run may lack: its last sitting was killed after the last record, or files
    were lost since, as where the journal alone was restored from a backup."""
    shutil.rmtree(directory / PREFIX_FOLDER, ignore_errors=True)
    members = {_adapter(directory, result): result for result in _front(history)}
    lost = {folder: result for folder, result in members.items() if not is_whole(folder)}
    if lost:
        names = ", ".join(result.genome.id for result in lost.values())
        watcher.say(f"adapters of the front that are missing or damaged are written again: {names}")
        _export_mended(directory, history, lost, watcher)
    _write_outputs(directory, history)


def _front(history: History) -> list[TrainingResult]:
    return front_results(history, history.generations[-1]) if history.generations else []


def _adapter(directory: Path, result: TrainingResult) -> Path:
    """Where the adapter of a front member lies."""
    return directory / "adapters" / result.genome.id


def _continue(directory: Path, store: Store, worker: Worker, watcher: Watcher) -> History:
    """Replay, evolve, take the final figures, write the outputs."""
    from coralx.executors import open_executor
    from coralx.train.prefix_store import drop_parts

    history = read_history(directory)
    bench = worker.bench
    drop_parts(directory / PREFIX_FOLDER)
    evolution = new_search(history.config, image_task=bench.has_images, shape=bench.shape)
    mender = Mender(directory, worker, store, watcher.say, watcher.observe)
    retention = Retention(bench.checkpoints, history.config.storage.checkpoints_gb, watcher.say)
    retention.drop_orphans(r.checkpoint for r in history.results if r.checkpoint)
    ending = "paused"
    try:
        with open_executor(worker, watcher.observe, mender.heal, watcher.say) as executor:
            front = run(evolution, executor, store, history, retention.tidy, watcher.begin)
        retention.tidy(evolution)  # a sitting that finds all trained has told nothing new
        closed, planned = len(evolution.closed), history.config.evolution.generations
        if closed < planned:
            watcher.say(
                f"the space holds no genome that was not trained: ended after generation {closed} "
                f"of {planned}; widen the space for more"
            )
        _measure_front(directory, front, history, store, worker, mender, watcher)
        ending = "run_finished"
    except ExtinctError:
        _write_outputs(directory, read_history(directory))
        watcher.say(
            f"what was tried, and why it was stopped: {directory / 'report.html'}; what passed an "
            "earlier stage can still be had by `coralx export`"
        )
        shutil.rmtree(directory / PREFIX_FOLDER, ignore_errors=True)
        raise
    finally:
        _record_ending(store, ending)
    shutil.rmtree(directory / PREFIX_FOLDER, ignore_errors=True)
    history = read_history(directory)
    _write_outputs(directory, history)
    return history


def _measure_front(
    directory: Path,
    front: list[TrainingResult],
    history: History,
    store: Store,
    worker: Worker,
    mender: Mender,
    watcher: Watcher,
) -> None:
    """Final figures on the test rows, once for each member, and its adapter."""
    watcher.say(f"measuring the front of {len(front)} on the test rows")
    known = {(test.genome, test.stage) for test in history.tests}
    for result in front:
        if (result.genome.id, result.stage) not in known:
            store.append("test", mender.heal(lambda member=result: worker.test(member)))  # type: ignore[misc]
        folder = _adapter(directory, result)
        mender.heal(lambda member=result, to=folder: worker.export(member, to))  # type: ignore[misc]


def _record_ending(store: Store, ending: str) -> None:
    """A run that cannot even record that it stops is resumed all the same: say nothing of it
    over the error that stopped it."""
    try:
        store.append(ending, {})
    except StoreError:
        if ending == "run_finished":
            raise


def _write_outputs(directory: Path, history: History) -> None:
    """All that they are drawn from is in the journal, so a full disk costs nothing but them."""
    try:
        write_summary(history, directory / "summary.json")
        write_report(history, directory / "report.html")
    except StoreError as error:
        raise StoreError(
            f"{error}; then `coralx resume {directory}`, which trains nothing again"
        ) from None


def _load_worker(config: Config, directory: Path, watcher: Watcher) -> Worker:
    from coralx.executors import check_executor
    from coralx.train.worker import Worker

    check_executor(config.training.workers)
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
        "classes": splits.classes,
        "left_out": dict(splits.left_out),
        "tasks": sorted(set(splits.train.tasks)),
        "images": worker.bench.has_images,
        **_machine_facts(worker),
    }


def _machine_facts(worker: Worker) -> dict[str, Any]:
    """Where a sitting computes; `numerics` is what the last bits of a result depend on."""
    device = worker.bench.device.type
    return {
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES}
        | {"python": platform.python_version()},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {device}",
        "numerics": worker.numerics(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _warn_of_change(before: dict[str, Any], now: dict[str, Any], watcher: Watcher) -> None:
    """A run goes on anywhere, but only where it began does it end with the same bits."""
    changed = [
        f"{name}: {old} then, {now[part].get(name)} now"
        for part in ("versions", "numerics")
        for name, old in before.get(part, {}).items()
        if now[part].get(name) != old
    ]
    if changed:
        watcher.say(
            "warning: results from here on may differ in their last bits from those of a run that "
            f"was never stopped, because of {'; '.join(changed)}"
        )
