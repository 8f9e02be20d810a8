"""The packed training step: its throughput and share of the machine's matrix peak.

    python benchmarks/packed_step.py                  # about two minutes on 2 idle cores
    python benchmarks/packed_step.py --device cuda    # as much on a GPU
    python benchmarks/packed_step.py --quick          # some seconds; printed, not recorded

Against pack size and batch size, mixes of ranks, and adapted depth; on the CPU always, on CUDA
where there is one, in steps that are recorded as CUDA graphs (what recording takes is left out).
`mixed` is float32 with the frozen layers' products in bfloat16 (`training.frozen_products`), its
peak that of bfloat16. Steps are those of `coralx.train.trainer`,
optimiser and dropout included, on rows of the built-in data with their prefix cached; FLOPs are the
trainer's own count, of what is computed in linear layers and adapters (`coralx.flops`): attention's
products are left out. The peak is measured beside every repeat. "x sequential" is the time of the
pack's genomes one after another, each alone with the same trainer on the same batches (each kind of
adapter is timed once and counted as often as it occurs), over the time of the pack; "time of one"
is the pack's time over that of a genome alone. Writes results/packed_step.json and .md, of a GPU
results/packed_step_cuda.json and .md; `--name` begins these names otherwise.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from matrix_peak import measure_matrix_peak, synchronise
from numpy.typing import NDArray
from results import between, describe_machine, spread, table, write_results

from coralx.config import load_config
from coralx.records import Genome, LoRAConfig, Start
from coralx.train.data import batches
from coralx.train.member import Member, StageWork
from coralx.train.trainer import StageTrainer
from coralx.train.workbench import Workbench

ROWS_IN_A_SEGMENT = 128  # rows x genomes that a timing covers at least
LEAST_STEPS, MOST_STEPS = 3, 24  # timed, after a first one that pays for laying out the pack
DROPOUT = 0.05  # as most genomes of the default job have

# Of the frozen base, and of its products.
KINDS = {
    "float32": ("float32", "float32"),
    "mixed": ("float32", "bfloat16"),
    "bfloat16": ("bfloat16", "bfloat16"),
}

PACKS = (1, 2, 4, 8, 16, 32)
SIZES = (1, 2, 4, 8, 16)
MIXES = ((2,), (8,), (16,), (64,), (2, 4, 8, 16), (2, 2, 2, 2, 2, 2, 2, 64))
DEPTHS: tuple[int | Literal["all"], ...] = (1, 2, 3, "all")

HEADINGS = (
    "K",
    "B",
    "ranks",
    "last layers",
    "tokens",
    "genome-steps/s",
    "tokens/s",
    "GFLOP/s",
    "share of peak",
    "x sequential",
    "time of one",
)


@dataclass(frozen=True)
class Cell:
    """One setting: K genomes whose ranks run through `ranks`, B rows, the last `layers` blocks."""

    sweep: str
    genomes: int
    rows: int
    ranks: tuple[int, ...] = (8,)
    layers: int | Literal["all"] = 2

    @property
    def steps(self) -> int:
        wanted = ROWS_IN_A_SEGMENT // (self.genomes * self.rows)
        return min(max(wanted, LEAST_STEPS), MOST_STEPS)


@dataclass(frozen=True)
class Timing:
    """Of some steps together: seconds, tokens computed and FLOPs of all genomes."""

    seconds: float
    tokens: float
    flops: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few cells, nothing recorded")
    parser.add_argument("--repeats", type=int, default=None, help="3; 2 with --quick")
    parser.add_argument("--device", choices=("all", "cpu", "cuda"), default="all")
    parser.add_argument("--kinds", choices=tuple(KINDS), nargs="+", default=tuple(KINDS))
    parser.add_argument("--name", default="packed_step", help="of the results' files")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="grad and param do not obey")  # as in Worker
    cells, repeats = (quick_cells(), 2) if arguments.quick else (all_cells(), 3)
    for device, wanted in kinds(arguments.device, arguments.kinds).items():
        lines = [
            line
            for kind in wanted
            for line in measure(device, kind, cells, arguments.repeats or repeats)
        ]
        write(result_name(arguments.name, device), lines, keep=not arguments.quick)


def all_cells() -> list[Cell]:
    return [
        *(Cell("pack and batch", k, b) for b in SIZES for k in PACKS),
        *(Cell("ranks", 8, 8, ranks) for ranks in MIXES),
        *(Cell("depth", k, 8, layers=depth) for depth in DEPTHS for k in (1, 8)),
    ]


def quick_cells() -> list[Cell]:
    return [
        *(Cell("pack and batch", k, b) for b in (1, 8) for k in (1, 8)),
        Cell("ranks", 8, 1, (2, 4, 8, 16)),
        Cell("depth", 8, 1, layers=1),
    ]


def kinds(device: str, wanted: Sequence[str]) -> dict[str, list[str]]:
    """Number formats to measure, by device: a base in bfloat16 is for GPUs."""
    found = {"cpu": [kind for kind in wanted if kind != "bfloat16"], "cuda": list(wanted)}
    there = {"cpu": device != "cuda", "cuda": device != "cpu" and torch.cuda.is_available()}
    if device == "cuda" and not there["cuda"]:
        raise SystemExit("--device cuda: torch sees no CUDA device; use cpu or all")
    return {name: own for name, own in found.items() if there[name]}


def measure(device: str, kind: str, cells: Sequence[Cell], repeats: int) -> list[dict[str, Any]]:
    """A line for each cell. Repeats run through all cells in turn, so that a busy moment of the
    machine does not fall on one cell alone."""
    with tempfile.TemporaryDirectory() as folder:
        bench = load_bench(device, kind, Path(folder))
        peaks: list[float] = []
        found: dict[Cell, list[tuple[Timing, float]]] = {cell: [] for cell in cells}
        for repeat in range(repeats):
            peaks.append(measure_matrix_peak(bench.device, bench.backbone.products.dtype))
            for cell in cells:
                found[cell].append(measure_cell(bench, cell))
            print(f"{device} {kind}: repeat {repeat + 1}/{repeats} done", flush=True)
    return [describe(cell, device, kind, found[cell], peaks) for cell in cells]


def load_bench(device: str, kind: str, folder: Path) -> Workbench:
    """The default base model and 512 built-in rows as text, with prefixes for every depth."""
    dtype, products = KINDS[kind]
    settings = {
        "vision_tower": None,
        "data": {"image_column": None, "max_rows": 512},
        "space": {"layers": {"kind": "choice", "values": list(DEPTHS)}},
        "training": {"device": device, "dtype": dtype, "frozen_products": products},
    }
    return Workbench(load_config(settings), folder / "checkpoints", print)


def measure_cell(bench: Workbench, cell: Cell) -> tuple[Timing, float]:
    """The pack's timing, and the seconds of its genomes one after another."""
    everyone = np.arange(len(bench.rows), dtype=np.int64)
    dealt = batches(everyone, bench.rows.lengths, cell.rows, 1 + cell.steps, [bench.seed, 0])
    members = make_members(bench, cell)
    pack = time_steps(bench, members, dealt)
    if cell.genomes == 1:
        return pack, pack.seconds
    sequential = 0.0
    for rank, times in Counter(member.lora_cfg.r for member in members).items():
        one = next(m for m in make_members(bench, cell) if m.lora_cfg.r == rank)
        sequential += times * time_steps(bench, [one], dealt).seconds
    return pack, sequential


def make_members(bench: Workbench, cell: Cell) -> list[Member]:
    """Fresh genomes, different by name alone where their ranks are equal."""
    return [
        bench.member(
            Genome(
                id=f"genome-{k}",
                learning_rate=1e-4,
                lora_cfg=LoRAConfig(
                    r=cell.ranks[k % len(cell.ranks)],
                    dropout=DROPOUT,
                    target_modules=("all-linear",),
                    layers=cell.layers,
                ),
            ),
            Start(),
        )
        for k in range(cell.genomes)
    ]


def time_steps(
    bench: Workbench, members: Sequence[Member], dealt: Sequence[NDArray[np.int64]]
) -> Timing:
    """All steps but the first, together; on CUDA once they are recorded, at the third time."""
    trainer = StageTrainer(bench.ground)
    timed = list(dealt[1:])
    before = list(dealt[:1]) if bench.device.type == "cpu" else timed * 2
    plan = StageWork(
        batches=before + timed, examine_at=(), index=0, warmup_epoch=1, last=False, patience=None
    )
    marks: list[Timing] = []

    def mark(step: int, _alive: int) -> None:
        if step in (len(before), len(plan.batches)):
            synchronise(bench.device)
            tokens = sum(member.computed_tokens for member in members)
            flops = sum(member.flops for member in members)
            marks.append(Timing(time.perf_counter(), tokens, flops))

    trainer.train(members, plan, lambda _pack: (), mark)
    first, last = marks
    return Timing(
        last.seconds - first.seconds, last.tokens - first.tokens, last.flops - first.flops
    )


def describe(
    cell: Cell,
    device: str,
    kind: str,
    found: Sequence[tuple[Timing, float]],
    peaks: Sequence[float],
) -> dict[str, Any]:
    done = cell.genomes * cell.steps
    packs = [pack for pack, _ in found]
    return {
        "device": device,
        "kind": kind,
        "sweep": cell.sweep,
        "pack": cell.genomes,
        "batch": cell.rows,
        "ranks": list(cell.ranks),
        "layers": cell.layers,
        "tokens_per_genome_step": packs[0].tokens / done,
        "step_ms": spread([1e3 * pack.seconds / cell.steps for pack in packs]),
        "genome_steps_per_second": spread([done / pack.seconds for pack in packs]),
        "tokens_per_second": spread([pack.tokens / pack.seconds for pack in packs]),
        "gflops": spread([pack.flops / pack.seconds / 1e9 for pack in packs]),
        "peak_gflops": spread([peak / 1e9 for peak in peaks]),
        "share_of_peak": spread(
            [pack.flops / pack.seconds / peak for pack, peak in zip(packs, peaks, strict=True)]
        ),
        "x_sequential": spread([alone / pack.seconds for pack, alone in found]),
        "times_one": spread([pack.seconds * cell.genomes / alone for pack, alone in found]),
    }


def result_name(name: str, device: str) -> str:
    return name if device == "cpu" else f"{name}_{device}"


def write(name: str, lines: Sequence[dict[str, Any]], keep: bool) -> None:
    document = {"machine": describe_machine(), "model": "all-minilm-l6-v2", "cells": list(lines)}
    text = ["Medians of repeats (lowest to highest); `tokens` are those of a genome's step."]
    for kind in dict.fromkeys(line["kind"] for line in lines):
        own = [line for line in lines if line["kind"] == kind]
        peak = own[0]["peak_gflops"]
        text += ["", f"## {own[0]['device']}, {kind}: matrix peak {between(peak, 0)} GFLOP/s"]
        for sweep in dict.fromkeys(line["sweep"] for line in own):
            rows = [row_of(line) for line in own if line["sweep"] == sweep]
            text += ["", f"### {sweep}", "", *table(HEADINGS, rows)]
    write_results(name, document, text, keep)


def row_of(line: dict[str, Any]) -> list[object]:
    return [
        line["pack"],
        line["batch"],
        " ".join(map(str, line["ranks"])),
        line["layers"],
        f"{line['tokens_per_genome_step']:.0f}",
        f"{line['genome_steps_per_second']['median']:.1f}",
        f"{line['tokens_per_second']['median']:,.0f}",
        f"{line['gflops']['median']:.1f}",
        between(line["share_of_peak"], 2),
        between(line["x_sequential"], 2),
        between(line["times_one"], 2),
    ]


if __name__ == "__main__":
    main()
