"""How cost grows with population, rows and text length; everything measured, nothing extrapolated.

    python benchmarks/scaling.py            # about two minutes on 2 idle cores
    python benchmarks/scaling.py --quick    # under a minute; printed, not recorded

- population 4 to 256: search and journal per generation (made-up results, as in overhead.py), and
  a real generation of one stage of four steps on 32 rows;
- rows 500 to 50,000 (built-in rows over and over, each made distinct by a number): seconds to
  encode them and to compute their frozen prefix, and milliseconds of a packed step;
- text length 16 to 256 tokens (built-in texts strung together): the same.

"slope" is b of the least-squares fit cost = a x size^b: 0 for what does not grow, 1 for what grows
in proportion. Writes results/scaling.json and .md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from overhead import measure_search
from packed_step import Cell, make_members, time_steps
from results import describe_machine, slope, spread, table, write_results

from coralx.config import load_config
from coralx.executors.local import LocalExecutor
from coralx.loop import run
from coralx.search.evolution import new_search
from coralx.store import History, NoStore
from coralx.train.data import batches
from coralx.train.prefix import EncodedRows
from coralx.train.rows import Rows
from coralx.train.workbench import Workbench
from coralx.train.worker import Worker

Costs = dict[str, float]


@dataclass(frozen=True)
class Sizes:
    """What is measured, and how often."""

    populations: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256)
    rows: tuple[int, ...] = (500, 1_500, 5_000, 15_000, 50_000)
    tokens: tuple[int, ...] = (16, 32, 64, 128, 256)
    repeats: int = 3


QUICK = Sizes(populations=(4, 8, 16), rows=(500, 1_000), tokens=(16, 32, 64), repeats=2)
ROW_TOKENS = 32  # longest text in that sweep
LENGTH_ROWS = 64  # rows in the sweep over text length
PACK = {"rows": Cell("rows", 2, 8, layers=5), "length": Cell("length", 4, 8, layers=2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing recorded")
    arguments = parser.parse_args()
    sizes = QUICK if arguments.quick else Sizes()
    warnings.filterwarnings("ignore", message="grad and param do not obey")  # as in Worker
    sweeps = [sweep("population", sizes.populations, sizes.repeats, measure_population)]
    with tempfile.TemporaryDirectory() as folder:
        bench = load_bench(Path(folder))
        plain = bench.splits.train

        def measure_rows(count: int) -> Costs:
            return measure_encoded(bench, repeat_rows(plain, count), ROW_TOKENS, PACK["rows"])

        def measure_length(tokens: int) -> Costs:
            rows = string_together(bench, plain.take(range(LENGTH_ROWS)), tokens)
            return measure_encoded(bench, rows, tokens, PACK["length"])

        sweeps.append(sweep("rows", sizes.rows, sizes.repeats, measure_rows))
        sweeps.append(sweep("length", sizes.tokens, sizes.repeats, measure_length))
    write(sweeps, keep=not arguments.quick)


def sweep(
    name: str, sizes: Sequence[int], repeats: int, measure: Callable[[int], Costs]
) -> dict[str, Any]:
    """Costs at every size, repeats running through all sizes in turn, with their slopes."""
    found: dict[int, list[Costs]] = {size: [] for size in sizes}
    for repeat in range(repeats):
        for size in sizes:
            found[size].append(measure(size))
            print(f"{name} {size:,}, repeat {repeat + 1}/{repeats} done", flush=True)
    costs = {
        size: {what: spread([one[what] for one in each]) for what in each[0]}
        for size, each in found.items()
    }
    first = costs[sizes[0]]
    return {
        "name": name,
        "costs": costs,
        "slopes": {
            what: slope(sizes, [costs[size][what]["median"] for size in sizes]) for what in first
        },
    }


def measure_population(population: int) -> Costs:
    search = measure_search(population, 1, generations=1)
    return {
        "search_seconds": search["ms_per_genome"]["all"]["median"] * population / 1e3,
        "training_seconds": time_generation(population),
    }


def time_generation(population: int) -> float:
    """Seconds of a real generation: four steps and one evaluation for each genome."""
    stage = {"name": "only", "epoch_budget": 1, "data_percentage": 100, "survival_rate": 1}
    config = load_config(
        {
            "vision_tower": None,
            "data": {"image_column": None, "max_rows": 32},
            "space": {
                "layers": {"kind": "choice", "values": [1]},
                "learning_rate": {"kind": "float", "low": 1e-4, "high": 1e-3, "log": True},
            },
            "evolution": {"population": population, "generations": 1},
            "training": {"attack_rows": 0, "patience": None},
            "hyperband": {"training_stages": [stage]},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(config, Path(folder))
        search = new_search(config, shape=worker.bench.shape)
        began = time.perf_counter()
        run(search, LocalExecutor(worker), NoStore(), History(config, {}))
        return time.perf_counter() - began


def load_bench(folder: Path) -> Workbench:
    """The default base model, and built-in rows as text."""
    settings = {"vision_tower": None, "data": {"image_column": None, "max_rows": 500}}
    return Workbench(load_config(settings), folder, print)


def measure_encoded(bench: Workbench, rows: Rows, tokens: int, cell: Cell) -> Costs:
    """Encode rows, compute the prefix that the cell's genomes enter on, and train some steps."""
    members = make_members(bench, cell)
    entry = members[0].weights.entry
    began = time.perf_counter()
    encoded = EncodedRows(rows, bench.backbone, None, tokens, depths=(entry,))
    ready = time.perf_counter()
    encoded.prepare(entry)
    done = time.perf_counter()
    everyone = np.arange(len(rows), dtype=np.int64)
    dealt = batches(everyone, encoded.lengths, cell.rows, 1 + cell.steps, [bench.seed, 0])
    bench.rows = encoded
    bench.labels = torch.tensor(rows.labels, device=bench.device).float()
    timing = time_steps(bench, members, dealt)
    return {
        "encode_seconds": ready - began,
        "prefix_seconds": done - ready,
        "step_ms": 1e3 * timing.seconds / cell.steps,
    }


def repeat_rows(rows: Rows, count: int) -> Rows:
    """`count` rows with different texts."""
    wanted = rows.take([i % len(rows) for i in range(count)])
    texts = tuple(f"{i} {text}" for i, text in enumerate(wanted.texts))
    return replace(wanted, texts=texts)


def string_together(bench: Workbench, rows: Rows, tokens: int) -> Rows:
    """The rows with texts of `tokens` tokens at least."""
    supply = " ".join(bench.splits.train.texts).split()
    texts = []
    for i in range(len(rows)):
        start = i * tokens % max(1, len(supply) - tokens)
        texts.append(" ".join(supply[start : start + tokens]))
    return replace(rows, texts=tuple(texts))


def write(sweeps: Sequence[dict[str, Any]], keep: bool) -> None:
    lines = ["Medians of repeats; slope: b of cost = a x size^b."]
    for found in sweeps:
        names = list(found["slopes"])
        rows = [
            (f"{size:,}", *(quantity(costs[name]) for name in names))
            for size, costs in found["costs"].items()
        ]
        slopes = ("slope", *(f"{found['slopes'][name]:.2f}" for name in names))
        headings = (found["name"], *(name.replace("_", " ") for name in names))
        lines += ["", f"## {found['name']}", "", *table(headings, [*rows, slopes])]
    document = {"machine": describe_machine(), "model": "all-minilm-l6-v2", "sweeps": list(sweeps)}
    write_results("scaling", document, lines, keep)


def quantity(cost: Mapping[str, float]) -> str:
    """Three digits, with the spread."""
    median, low, high = (f"{cost[name]:.3g}" for name in ("median", "low", "high"))
    return median if low == high else f"{median} ({low} to {high})"


if __name__ == "__main__":
    main()
