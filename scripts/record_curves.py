"""Record real LoRA learning curves for replays.

    python scripts/record_curves.py

Draws genomes of the default space, the same for one seed, and trains each through all stages of
the default job on each task, in packs as a run does. Nobody is left behind: which gate a genome
would have broken is written down, and only one that broke down (a number that is not finite, no
memory) goes no further. Every objective is measured after every stage, without the cross-modal
proxy. Nothing is inherited: every curve begins with fresh weights.

Rows are added to one Parquet file (`coralx.executors.replay_table`) after every pack, so that the
command can be stopped at any time; given again it goes on. Genomes come in the order they are
drawn, each block on every task, so that what is recorded is at any time a fair draw and alike on
all tasks.
Seconds are this machine's, a pack's shared out evenly: record on an idle machine, and on one.

Data card of the table: rows are measurements of our own, made with the built-in data set, of which
they hold no text and no picture; tasks are `all` (the data set as it is), `harmful_request` (its
text rows alone) and `hazard_picture` (its rows with pictures alone), so the first is not
independent of the others. Licence: the project's own.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute
import pyarrow.parquet

from coralx.config import Config, load_config
from coralx.errors import CoralXError, DataError
from coralx.executors.replay_table import Row, TableFacts, as_row, read_rows, write_rows
from coralx.interrupts import stoppable, unbroken
from coralx.objectives import OBJECTIVES
from coralx.records import Genome, TrainingResult
from coralx.rows.file import builtin_file
from coralx.search.jobs import plan_jobs
from coralx.search.packing import pack
from coralx.search.space import sample_distinct
from coralx.train.rows import SPLITS
from coralx.train.worker import Worker

TABLE = Path(__file__).parent.parent / "src" / "coralx" / "assets" / "replay_table.parquet"
TASKS = ("all", "harmful_request", "hazard_picture")
PACKS_PER_BLOCK = 4  # genomes of a block are packed by depth and rank, as a generation's are
PACKAGES = ("coralx", "torch", "transformers", "peft", "numpy")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--genomes", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--pack-size", type=int, default=8)
    parser.add_argument("--max-rows", type=int, default=None, help="of each split, for a try")
    parser.add_argument("--table", type=Path, default=TABLE)
    arguments = parser.parse_args()
    try:
        with stoppable(), tempfile.TemporaryDirectory(prefix="coralx-") as folder:
            record(arguments, Path(folder))
    except CoralXError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on with {arguments.table}", file=sys.stderr)
        return 130
    return 0


def record(arguments: argparse.Namespace, folder: Path) -> None:
    """Train what the table lacks, pack by pack, and add it.

    Raises:
        DataError: the table was made with other settings.
    """
    base = load_config(None, {"data": {"max_rows": arguments.max_rows}})
    facts = TableFacts(
        space=base.space,
        stages=base.hyperband.training_stages,
        seed=arguments.seed,
        max_rows=arguments.max_rows,
        origin=describe_origin(),
    )
    facts, rows = open_table(arguments.table, facts)
    rng = np.random.default_rng(arguments.seed)
    genomes = sample_distinct(base.space, arguments.genomes, rng)
    size = arguments.pack_size
    workers: dict[str, Worker] = {}
    for first in range(0, len(genomes), PACKS_PER_BLOCK * size):
        block = genomes[first : first + PACKS_PER_BLOCK * size]
        for task in arguments.tasks:
            known = {row["genome"] for row in rows if row["task"] == task}
            for members in pack([g for g in block if g.id not in known], size):
                if task not in workers:
                    config = settings_of(task, base, folder)
                    workers[task] = Worker(config, folder / "checkpoints" / task, print)
                    warm_up(workers[task], members)
                curves = train_curves(workers[task], members)
                stages = {stage.name: stage for stage in facts.stages}
                rows += [as_row(task, r, facts.space, stages[r.stage]) for r in curves]
                with unbroken():
                    write_rows(arguments.table, facts, rows)
                print(describe(task, curves, rows))


def open_table(path: Path, facts: TableFacts) -> tuple[TableFacts, list[Row]]:
    """The table as it is, or an empty one that came about as `facts` says."""
    if not path.exists():
        return facts, []
    known, rows = read_rows(path)
    if known.model_copy(update={"origin": facts.origin}) != facts:
        raise DataError(
            f"{path}: was recorded with another space, other stages, seed or rows than those "
            "asked for, so its rows would not compare; give its own seed and --max-rows, or "
            "another --table"
        )
    return known, rows


def settings_of(task: str, base: Config, folder: Path) -> Config:
    """The default job on the rows of a task, every objective measured after every stage."""
    settings = base.model_dump()
    # A stage that lets everyone go on is measured by one objective alone; a share below 1 is all
    # that tells it from another, as nobody is left behind here.
    for stage in settings["hyperband"]["training_stages"]:
        stage["survival_rate"] = min(stage["survival_rate"], 0.5)
    settings["hyperband"]["cross_modal_proxy"] = False
    if task != "all":
        settings["data"] |= cut_rows(task, folder / task)
    if task == "harmful_request":
        settings["vision_tower"] = None
        settings["data"]["image_column"] = None
        settings["objectives"] = [name for name in OBJECTIVES if name != "cross_modal_gain"]
    return load_config(settings)


def cut_rows(task: str, folder: Path) -> dict[str, str]:
    """Files with the built-in rows of one task alone, by split."""
    folder.mkdir()
    files = {}
    for split in SPLITS:
        table = pyarrow.parquet.read_table(builtin_file(split))
        part = table.filter(pyarrow.compute.field("task") == task)
        if part.num_rows:
            files[split] = str(folder / f"{split}.parquet")
            pyarrow.parquet.write_table(part, files[split])
    return files


def train_curves(worker: Worker, genomes: Sequence[Genome]) -> list[TrainingResult]:
    """The results of the genomes at every stage that they came to; their weights are dropped."""
    bench, config = worker.bench, worker.config
    past: Mapping[str, list[TrainingResult]] = {genome.id: [] for genome in genomes}
    going = list(genomes)
    for index in range(len(config.hyperband.training_stages)):
        for job in plan_jobs(config, 0, index, going, past, bench.has_images, bench.shape):
            for result in worker.train(job):
                past[result.genome.id].append(result)
        going = [genome for genome in going if past[genome.id][-1].stopped is None]
    shutil.rmtree(bench.checkpoints, ignore_errors=True)
    return [result for genome in genomes for result in past[genome.id]]


def warm_up(worker: Worker, genomes: Sequence[Genome]) -> None:
    """Train a step of each stage and measure it, so that the first pack that is recorded does not
    pay for what is computed once: validation rows, attacks, the frozen prefix."""
    stages = worker.config.hyperband.training_stages
    for job in plan_jobs(worker.config, 0, 0, genomes, {}, shape=worker.bench.shape):
        for stage in stages:
            short = stage.model_copy(update={"epoch_budget": 1e-6})
            worker.train(job.model_copy(update={"stage": short}))


def describe(task: str, curves: Sequence[TrainingResult], rows: Sequence[Row]) -> str:
    """A line on a pack that is done."""
    seconds = sum(r.cost.train_seconds + r.cost.eval_seconds for r in curves)
    skill = max(r.objectives.get("task_skill", 0.0) for r in curves)
    genomes = len({r.genome.id for r in curves})
    recorded = len({row["genome"] for row in rows if row["task"] == task})
    return (
        f"{task}: {genomes} genomes in {seconds:.0f} s, best AUROC {skill:.3f}; {recorded} in all"
    )


def describe_origin() -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "command": "python scripts/record_curves.py",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **versions,
    }


if __name__ == "__main__":
    sys.exit(main())
