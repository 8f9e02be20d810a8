"""What a run's journal says of where and on what it computes, and of changes between sittings."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from coralx.cautions import cautions
from coralx.config import Config
from coralx.errors import DataError
from coralx.store import History

if TYPE_CHECKING:
    from coralx.train.splits import Splits
    from coralx.train.worker import Worker

# The splits that weights depend on: on validation rows P1 is looked at along the way.
TRAINED_BY = ("train", "validation")
PACKAGES = ("coralx", "torch", "transformers", "peft", "pymoo", "moocore", "numpy")


def run_facts(config: Config, worker: Worker) -> dict[str, Any]:
    """What the journal's first record says of a run."""
    bench = worker.bench
    return {
        "config": config.model_dump(mode="json"),
        "seed": config.evolution.seed,
        "steps_per_epoch": bench.steps_per_epoch,
        **row_facts(bench.splits),
        "stage_classes": bench.stage_classes,
        "picture_classes": bench.splits.picture_classes if bench.has_images else {},
        "reading": bench.reading(),
        "images": bench.has_images,
        **machine_facts(worker),
    }


def row_facts(splits: Splits) -> dict[str, Any]:
    """How many rows there are of each split and kind, and the marks that they are known by."""
    return {
        "rows": {
            "train": len(splits.train),
            "validation": len(splits.validation),
            "test": len(splits.test),
            "clean_holdout": len(splits.clean_validation) + len(splits.clean_test),
        },
        "classes": splits.classes,
        "missing_classes": splits.missing_classes,
        "task_classes": splits.task_classes,
        "left_out": dict(splits.left_out),
        "fingerprints": splits.fingerprints,
        "tasks": sorted(set(splits.train.tasks)),
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


def warn_of_rows(facts: dict[str, Any], config: Config, say: Callable[[str], None]) -> None:
    """What the rows are too few for, and what the model does not read of them."""
    for text in cautions(facts, config.objectives, config.base_model):
        say(f"warning: {text}")


def warn_of_change(before: dict[str, Any], now: dict[str, Any], say: Callable[[str], None]) -> None:
    """A run goes on anywhere, but only where it began does it end with the same bits."""
    if changed := _find_changes(before, now):
        say(
            "warning: results from here on may differ in their last bits from those of a run that "
            f"was never stopped, because of {'; '.join(changed)}"
        )


def warn_of_other_bits(history: History, worker: Worker, say: Callable[[str], None]) -> None:
    """Why what is trained again may not come to the same: each sitting may have trained a part of
    the lineage."""
    sittings, now = (history.facts, *history.resumed), machine_facts(worker)
    changed = dict.fromkeys(change for then in sittings for change in _find_changes(then, now))
    marks = worker.bench.splits.fingerprints
    known = [pair for then in sittings for pair in then.get("fingerprints", {}).items()]
    others = {name for name, mark in known if marks.get(name) != mark}
    changed |= dict.fromkeys(f"other {name} rows" for name in TRAINED_BY if name in others)
    if changed:
        say(f"warning: the bits may not be the same, because of {'; '.join(changed)}")


def check_rows(history: History, now: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Pass if validation, test and clean rows are those that the run began with; other training
    rows are only warned of. Where a run recorded no fingerprints, numbers of rows are compared.

    Args:
        now: as `row_facts`.

    Raises:
        DataError: validation, test or clean rows are others.
    """
    sittings = (history.facts, *history.resumed)
    marked = next((facts for facts in sittings if "fingerprints" in facts), history.facts)
    what = "fingerprints" if "fingerprints" in marked else "rows"
    other = [name for name, known in marked.get(what, {}).items() if now[what].get(name) != known]
    if measured := [name for name in other if name != "train"]:
        data = history.config.data
        own = {f"clean_{part}": data.clean_holdout for part in ("validation", "test", "holdout")}
        own |= {"validation": data.validation, "test": data.test}
        source = data.train or "the built-in data set"
        files = dict.fromkeys(str(own[name] or source) for name in measured)
        raise DataError(
            f"{', '.join(files)}: a run is measured on the rows that it began with, and these are "
            f"others now: {', '.join(measured)} (a share set aside from a file that was edited "
            "holds rows that were trained on). Restore the files as they were, go on with the "
            "version of CoralX that the run began with, or begin a new run"
        )
    if other:
        say(
            "warning: the training rows are not those that this run began with: results from here "
            "on are of other rows"
        )
    elif what == "rows":
        say(
            "warning: this run began before rows had fingerprints: as many are there as then, but "
            "whether they are the same is not known"
        )


def _find_changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What the last bits depend on and is another now than where a run began."""
    return [
        f"{name}: {old} then, {now[part].get(name)} now"
        for part in ("versions", "numerics")
        for name, old in before.get(part, {}).items()
        if now[part].get(name) != old
    ]
