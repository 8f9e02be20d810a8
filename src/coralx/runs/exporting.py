"""Adapters out of a run: of a genome that is asked for, and what a finished run lacks."""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Mapping
from pathlib import Path

from coralx.config import PREFIX_FOLDER
from coralx.errors import CheckpointError
from coralx.records import TrainingResult
from coralx.runs import opening
from coralx.runs.facts import warn_of_other_bits
from coralx.runs.folder import CHECKPOINTS
from coralx.runs.repair import Mender
from coralx.runs.retention import drop_orphans, measure
from coralx.runs.watcher import Watcher
from coralx.store import History, read_history
from coralx.summary import current_front


def export_genome(
    directory: Path,
    genome: str,
    target: Path,
    watcher: Watcher,
    trust_remote_code: bool = False,
) -> TrainingResult:
    """Write a trained genome of a run as a PEFT adapter.

    A checkpoint that is damaged, or was removed to keep the disk bounded, is trained again, for
    which the run must not be in use.

    Args:
        genome: its id, or how that begins.
        trust_remote_code: run code that lies in the base model's folder, should it need any; what
            the run was allowed to do does not count.

    Raises:
        StoreError: the run has no such genome or several, it left no checkpoint, it was last scored
            without its pictures, or it must be trained again while another process is at work in
            the run.
    """
    history = read_history(directory)
    best = opening.find_result(history, directory, genome)
    opening.set_trust(history, trust_remote_code, watcher.say)
    if left := export_whole(directory, history, {target: best}, watcher):
        # For its lock alone: the journal says nothing of exports.
        with contextlib.closing(opening.open_journal(directory, watcher.say)):
            export_mended(directory, history, left, watcher)
    return best


def export_whole(
    directory: Path, history: History, adapters: Mapping[Path, TrainingResult], watcher: Watcher
) -> dict[Path, TrainingResult]:
    """Write results as adapters without reading rows, which only training needs. Gives those that
    are left: their checkpoints are missing or damaged."""
    from coralx.train.export import export_result, load_backbone

    config, images = history.config, bool(history.facts["images"])
    opening.say_trust(config, watcher.say)
    watcher.say(f"loading base model {config.base_model}")
    backbone, left = load_backbone(config), {}
    for target, result in adapters.items():
        try:
            export_result(config, backbone, directory / CHECKPOINTS, result, images, target)
        except CheckpointError:
            left[target] = result
    return left


def export_mended(
    directory: Path, history: History, adapters: Mapping[Path, TrainingResult], watcher: Watcher
) -> None:
    """Write results as adapters, training again what is missing or damaged of their checkpoints;
    the run must be locked. Of what was trained, a run keeps no more than it had, and its front."""
    checkpoints = directory / CHECKPOINTS
    kept = {name for name, _ in measure(checkpoints)}
    kept |= {result.checkpoint for result in current_front(history) if result.checkpoint}
    try:
        worker = opening.load_worker(history.config, directory, watcher.say)
        warn_of_other_bits(history, worker, watcher.say)
        mender = Mender(directory, worker, say=watcher.say, observe=watcher.observe)
        for target, result in adapters.items():
            mender.heal(functools.partial(worker.export, result, target))
    finally:
        drop_orphans(checkpoints, kept)
        shutil.rmtree(directory / PREFIX_FOLDER, ignore_errors=True)
