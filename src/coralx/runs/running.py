"""A run directory from start to summary: what `coralx run` and `coralx resume` do."""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from coralx.adapter_files import is_whole
from coralx.config import PREFIX_FOLDER, Config
from coralx.durable import write_whole
from coralx.errors import ExtinctError, StoreError
from coralx.loop import run
from coralx.models import check_layers
from coralx.records import TrainingResult, jsonable
from coralx.report.page import write_report
from coralx.runs import opening
from coralx.runs.exporting import export_mended, export_whole
from coralx.runs.facts import (
    check_rows,
    machine_facts,
    row_facts,
    run_facts,
    warn_of_change,
    warn_of_rows,
)
from coralx.runs.folder import REPORT, SETTINGS, SUMMARY, adapter_folder, check_new, check_writable
from coralx.runs.repair import Mender
from coralx.runs.retention import Retention, drop_orphans
from coralx.runs.watcher import Watcher
from coralx.search.evolution import new_search
from coralx.store import History, Store, read_history, read_start
from coralx.summary import current_front, scored_by_text, write_summary

if TYPE_CHECKING:
    from coralx.train.worker import Worker


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
    worker = opening.load_worker(config, directory, watcher.say)
    # A run that was begun before this was a rule goes on.
    check_layers(config.base_model, config.space, worker.bench.backbone.depth)
    worker.bench.check_objectives()
    facts = run_facts(config, worker)
    warn_of_rows(facts, config, watcher.say)
    store = Store(directory)
    try:
        check_new(directory)  # another process may have begun one meanwhile
        settings = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        write_whole(directory / SETTINGS, settings)
        store.append("run_started", facts)
        history = read_history(directory)
        return _Sitting(directory, history, store, worker, watcher).go_on()
    finally:
        store.close()


def resume_run(directory: Path, watcher: Watcher) -> History:
    """Go on where a stopped run was; what is journalled is not trained again. A finished run gets
    its outputs anew, and those of its adapters that are missing or damaged.

    Raises:
        StoreError: not a run directory, its journal is damaged, or another process is at work
            in it.
        DataError, ModelError: the run's data or base model is no longer there, or the rows that
            are measured are others than it began with; nothing is recorded.
        ConfigError: nothing is trained yet, and no objective can be measured.
    """
    read_start(directory)  # before anything is written, as the lock is
    with contextlib.closing(opening.open_journal(directory, watcher.say)) as store:
        history = read_history(directory)  # its last owner may have gone on meanwhile
        if history.finished:
            _complete(directory, history, watcher)
            return history
        worker = opening.load_worker(history.config, directory, watcher.say)
        now = machine_facts(worker)
        warn_of_change(history.facts, now, watcher.say)
        if not history.results:
            worker.bench.check_objectives()
        rows = row_facts(worker.bench.splits)
        check_rows(history, rows, watcher.say)
        store.append("resumed", now | {"fingerprints": rows["fingerprints"]})
        return _Sitting(directory, history, store, worker, watcher).go_on()


def _complete(directory: Path, history: History, watcher: Watcher) -> None:
    """What a finished run may lack: its last sitting was killed after the last record, or files
    were lost since, as where the journal alone was restored from a backup."""
    shutil.rmtree(directory / PREFIX_FOLDER, ignore_errors=True)
    members = {
        adapter_folder(directory, result.genome.id): result
        for result in current_front(history)
        if not scored_by_text(history, result)
    }
    lost = {
        folder: result
        for folder, result in members.items()
        if not is_whole(folder, {"genome": jsonable(result.genome), "stage": result.stage})
    }
    if lost:
        names = ", ".join(result.genome.id for result in lost.values())
        watcher.say(f"adapters of the front that are missing or damaged are written again: {names}")
        if left := export_whole(directory, history, lost, watcher):
            export_mended(directory, history, left, watcher)
    _write_outputs(directory, history)


class _Sitting:
    """A run from where its journal ends: this process trains, measures and records."""

    def __init__(
        self, directory: Path, history: History, store: Store, worker: Worker, watcher: Watcher
    ) -> None:
        self._directory, self._history, self._store = directory, history, store
        self._worker, self._watcher = worker, watcher
        self._mender = Mender(directory, worker, store, watcher.say, watcher.observe)

    def go_on(self) -> History:
        """Replay, evolve, take the final figures, write the outputs."""
        try:
            self._evolve()
        except ExtinctError:
            self._close()
            self._watcher.say(
                f"what was tried, and why it was stopped: {self._directory / REPORT}; what "
                "passed an earlier stage can still be had by `coralx export`"
            )
            raise
        return self._close()

    def _close(self) -> History:
        """What a run leaves once nothing more is trained."""
        shutil.rmtree(self._directory / PREFIX_FOLDER, ignore_errors=True)
        history = read_history(self._directory)
        _write_outputs(self._directory, history)
        return history

    def _evolve(self) -> None:
        """All of a run that its journal tells, and how the sitting ended."""
        from coralx.executors import open_executor
        from coralx.train.prefix_store import drop_parts

        config, bench, watcher = self._history.config, self._worker.bench, self._watcher
        drop_parts(self._directory / PREFIX_FOLDER)
        evolution = new_search(config, image_task=bench.has_images, shape=bench.shape)
        retention = Retention(bench.checkpoints, config.storage.checkpoints_gb, watcher.say)
        _drop_unrecorded(bench.checkpoints, self._history.results)
        ending = "paused"
        try:
            heal = self._mender.heal
            with open_executor(self._worker, watcher.observe, heal, watcher.say) as executor:
                front = run(
                    evolution, executor, self._store, self._history, retention.tidy, watcher.begin
                )
            retention.tidy(evolution)  # a sitting that finds all trained has told nothing new
            closed, planned = len(evolution.closed), config.evolution.generations
            if closed < planned:
                watcher.say(
                    "the space holds no genome that was not trained: ended after generation "
                    f"{closed} of {planned}; widen the space for more"
                )
            self._measure_front(front)
            # A repair brings back what was removed, and may leave other bits beside it.
            _drop_unrecorded(bench.checkpoints, evolution.results)
            retention.tidy(evolution)
            ending = "run_finished"
        except ExtinctError:
            retention.tidy(evolution)
            raise
        finally:
            _record_ending(self._store, ending)

    def _measure_front(self, front: list[TrainingResult]) -> None:
        """Final figures on the test rows, once for each member, and its adapter. A front that went
        no further than the cross-modal proxy has neither."""
        say, heal, worker = self._watcher.say, self._mender.heal, self._worker
        if any(scored_by_text(self._history, result) for result in front):
            say(
                f"the front went no further than {front[0].stage}, scored by text alone "
                "(hyperband.cross_modal_proxy): no adapters are written"
            )
            return
        say(f"measuring the front of {len(front)} on the test rows")
        known = {(test.genome, test.stage) for test in self._history.tests}
        for place, result in enumerate(front, start=1):
            if (result.genome.id, result.stage) not in known:
                say(f"measuring member {place} of {len(front)}: genome {result.genome.id}")
                self._store.append("test", heal(functools.partial(worker.test, result)))
            folder = adapter_folder(self._directory, result.genome.id)
            heal(functools.partial(worker.export, result, folder))


def _record_ending(store: Store, ending: str) -> None:
    """A run that cannot even record that it stops is resumed all the same: say nothing of it
    over the error that stopped it."""
    try:
        store.append(ending, {})
    except StoreError:
        if ending == "run_finished":
            raise


def _drop_unrecorded(folder: Path, results: Iterable[TrainingResult]) -> None:
    drop_orphans(folder, {result.checkpoint for result in results if result.checkpoint})


def _write_outputs(directory: Path, history: History) -> None:
    """All that they are drawn from is in the journal, so a full disk costs nothing but them."""
    try:
        write_summary(history, directory / SUMMARY)
        write_report(history, directory / REPORT)
    except StoreError as error:
        raise StoreError(
            f"{error}; then `coralx resume {directory}`, which trains nothing again"
        ) from None
