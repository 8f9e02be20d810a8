"""What a run's journal says of where and on what it computes, and of changes between sittings."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from coralx import __version__
from coralx.cautions import cautions
from coralx.config import Config
from coralx.errors import DataError
from coralx.runs.watcher import Watcher
from coralx.store import History

if TYPE_CHECKING:
    from coralx.train.worker import Worker

PACKAGES = ("coralx", "torch", "transformers", "peft", "pymoo", "moocore", "numpy")


def run_facts(config: Config, worker: Worker) -> dict[str, Any]:
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
        "missing_classes": splits.missing_classes,
        "stage_classes": worker.bench.stage_classes,
        "task_classes": splits.task_classes,
        "picture_classes": splits.picture_classes if worker.bench.has_images else {},
        "left_out": dict(splits.left_out),
        "reading": worker.bench.reading(),
        "fingerprints": splits.fingerprints,
        "tasks": sorted(set(splits.train.tasks)),
        "images": worker.bench.has_images,
        **machine_facts(worker),
    }


def machine_facts(worker: Worker) -> dict[str, Any]:
    """Where a sitting computes; `numerics` is what the last bits of a result depend on."""
    device = worker.bench.device.type
    return {
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES}
        | {"python": platform.python_version()},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {device}",
        "numerics": worker.numerics(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def warn_of_rows(facts: dict[str, Any], config: Config, watcher: Watcher) -> None:
    """What the rows are too few for, and what the model does not read of them."""
    for text in cautions(facts, config.objectives, config.base_model):
        watcher.say(f"warning: {text}")


def warn_of_change(before: dict[str, Any], now: dict[str, Any], watcher: Watcher) -> None:
    """A run goes on anywhere, but only where it began does it end with the same bits."""
    if changed := find_changes(before, now):
        watcher.say(
            "warning: results from here on may differ in their last bits from those of a run that "
            f"was never stopped, because of {'; '.join(changed)}"
        )


def check_rows(history: History, now: Mapping[str, str], watcher: Watcher) -> None:
    """Pass if what is measured from here on are the rows that were measured before. Other training
    rows alone are told.

    Raises:
        DataError: validation, test or clean rows are others.
    """
    other = find_other_rows(history.facts, now)
    if measured := [name for name in other if name != "train"]:
        data = history.config.data
        own = {f"clean_{half}": data.clean_holdout for half in ("validation", "test")}
        own |= {"validation": data.validation, "test": data.test}
        files = dict.fromkeys(
            own[name] or data.train or "the built-in data set" for name in measured
        )
        version = history.facts.get("versions", {}).get("coralx", __version__)
        other_rules = f"go on with coralx {version}, " if version != __version__ else ""
        raise DataError(
            f"{', '.join(map(str, files))}: a run is measured on the rows that it began with, and "
            f"these are others now: {', '.join(measured)} (a share set aside from a file that was "
            "edited holds rows that were trained on). Restore the files as they were, "
            f"{other_rules}or begin a new run"
        )
    if other:
        watcher.say(
            "warning: the training rows are not those that this run began with: results from here "
            "on are of other rows"
        )


def find_other_rows(before: Mapping[str, Any], now: Mapping[str, str]) -> list[str]:
    """The splits whose rows are not those of a sitting; none where it did not record them."""
    return [name for name, mark in before.get("fingerprints", {}).items() if now.get(name) != mark]


def find_changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What the last bits depend on and is another now than where a run began."""
    return [
        f"{name}: {old} then, {now[part].get(name)} now"
        for part in ("versions", "numerics")
        for name, old in before.get(part, {}).items()
        if now[part].get(name) != old
    ]
