"""CoralX against other search tools: the same space, rows, objectives, seeds and machine.

    python benchmarks/peers.py --seeds 0 1 2 --cap 3
    python benchmarks/peers.py --only ray_asha      # this one again, the others as they are
    python benchmarks/peers.py --quick              # to see it work; its figures mean nothing

Needs the extra [bench]. Every tool runs the trial function that a user would write with PEFT
(`coralx.train.naive`), one trial after another on all cores; what each does is printed under the
table. Only validation rows are looked at: what a tool could hand over at any moment is every
adapter it has measured up to then, and of those the dominated hypervolume and the best AUROC are
followed over time. CoralX counts only the front it really hands over. Time to quality is the time
until a tool has the hypervolume of CoralX's final front (and, apart, its best AUROC less 0.005),
over the time of the whole CoralX run, and over the time until CoralX had it itself; a tool is
stopped at `--cap` times the whole run.

The clock leaves out, for everyone, loading of model and rows and encoding of pictures and of
validation rows. CoralX pays for all that its run does besides, prefix and evaluations included; a
tool pays for training and for the measures that its method asks for, not for those that only the
curves need.

Results are written after each tool's run, to results/peers.json, .md and .svg, and a later call
runs what is missing there; with other settings it starts anew.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from figures import draw_curves
from results import FOLDER, describe_machine, spread, table, write_results

from coralx.compare.ways import as_result
from coralx.config import Config, load_config
from coralx.executors.local import LocalExecutor
from coralx.loop import run
from coralx.objectives import OBJECTIVES
from coralx.records import Genome, TrainingResult
from coralx.search import selection
from coralx.search.asktell import Search
from coralx.search.evolution import new_search
from coralx.store import History, Store
from coralx.train.worker import Worker

PEERS = {
    "optuna_hyperband": ("peer_tools.with_optuna", "hyperband"),
    "optuna_nsga2": ("peer_tools.with_optuna", "nsga2"),
    "ray_asha": ("peer_tools.with_ray", "asha"),
    "syne_tune_moasha": ("peer_tools.with_syne_tune", "moasha"),
}
PACKAGES = ("optuna", "ray", "syne-tune")
CORALX = "coralx"
AUROC_SLACK = 0.005
RATIOS = {
    "ratio_hypervolume": "to its hypervolume, over its run",
    "ratio_hypervolume_own": "over its time to it",
    "ratio_auroc": "to its best AUROC - 0.005, over its run",
    "ratio_auroc_own": "over its time to it",
}
MARKS = (0.25, 0.5, 1.0, 2.0)  # times CoralX's run: where the table reads the curves
QUICK = {
    "data": {"max_rows": 120},
    "training": {"attack_rows": 4},
    "evolution": {"population": 4, "generations": 2},
}
QUICK_CAP = 1.0

Run = dict[str, Any]
Objectives = Mapping[str, float]
Curve = Sequence[tuple[float, float, float]]  # seconds, hypervolume, best AUROC


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default=None, help="YAML; the default job without it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--generations", type=int, default=None)
    parser.add_argument("--cap", type=float, default=None, help="times CoralX's run; 4 unless set")
    parser.add_argument("--only", nargs="+", choices=PEERS, help="run these, done or not")
    parser.add_argument("--quick", action="store_true", help="few rows, two generations")
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    if arguments.quick:
        config = load_config(config, QUICK)
    if arguments.generations:
        config = load_config(config, {"evolution": {"generations": arguments.generations}})
    cap = arguments.cap or (QUICK_CAP if arguments.quick else 4.0)
    benchmark = Benchmark(config, cap, keep=not arguments.quick)
    for seed in arguments.seeds:
        benchmark.measure(seed, arguments.only)


class Benchmark:
    """All runs so far, kept in results/peers.json unless it is a quick try."""

    def __init__(self, config: Config, cap: float, keep: bool) -> None:
        self._config, self._cap, self._kept = config, cap, keep
        settings = config.model_dump(mode="json")
        settings["evolution"].pop("seed")
        machine = describe_machine()
        machine["versions"] |= {n: importlib.metadata.version(n) for n in PACKAGES}
        self._head = {"config": settings, "machine": machine}
        self._runs: list[Run] = self._read()

    def measure(self, seed: int, only: Sequence[str] | None) -> None:
        """Run what is missing of one seed, and the peers of `only` in any case."""
        done = {r["peer"]: r["seconds"] for r in self._runs if r["seed"] == seed}
        least = self._cap * done.get(CORALX, 0.0)  # a run under a smaller cap is not enough
        wanted = list(only or [p for p in PEERS if p not in done or done[p] < least])
        if CORALX in done and not wanted:
            return
        config = load_config(self._config, {"evolution": {"seed": seed}})
        with tempfile.TemporaryDirectory() as folder:
            worker = Worker(config, Path(folder) / "checkpoints", say)
            if CORALX not in done:
                self._keep(run_coralx(config, worker, Path(folder)))
            base = self._find(seed, CORALX)
            for peer in wanted:
                self._keep(run_peer(peer, config, worker, base, self._cap))

    def _find(self, seed: int, peer: str) -> Run:
        return next(r for r in self._runs if (r["seed"], r["peer"]) == (seed, peer))

    def _read(self) -> list[Run]:
        path = FOLDER / "peers.json"
        if not self._kept or not path.exists():
            return []
        document = json.loads(path.read_text(encoding="utf-8"))
        if any(document[key] != value for key, value in self._head.items()):
            say(f"{path.name} was measured with other settings, versions or machine: starting anew")
            return []
        return list(document["runs"])

    def _keep(self, found: Run) -> None:
        place = (found["seed"], found["peer"])
        others = [r for r in self._runs if (r["seed"], r["peer"]) != place]
        self._runs = [*others, found]
        rows = [row for seed in seeds(self._runs) for row in judge(self._runs, seed, self._cap)]
        document = {
            "seeds": seeds(self._runs),
            "generations": self._config.evolution.generations,
            "population": self._config.evolution.population,
            "model": self._config.base_model,
            "cap": self._cap,
            "peers": summarise(rows),
            "rows": rows,
            **self._head,
            "runs": self._runs,
        }
        write_results("peers", document, describe(document), self._kept)
        if self._kept:
            draw_curves(rows, FOLDER / "peers.svg")


def say(message: str) -> None:
    print(message, flush=True)


def run_coralx(config: Config, worker: Worker, folder: Path) -> Run:
    """The search itself. Before the first genome has finished the last stage's share of the rows
    it has nothing to hand over that was measured on all validation rows."""
    bench = worker.bench
    bench.validation(100)
    evolution = new_search(config, image_task=bench.has_images, shape=bench.shape)
    share = config.hyperband.stages[-1].data_percentage
    fronts: list[dict[str, Any]] = []

    def note(now: Search) -> None:
        front = now.front()
        if front and config.hyperband.stages[front[0].stage_index].data_percentage == share:
            seconds = time.perf_counter() - began
            fronts.append({"seconds": seconds, "front": [r.objectives for r in front]})

    store = Store(folder / "journal")
    began = time.perf_counter()
    run(evolution, LocalExecutor(worker), store, History(config, {}), note)
    note(evolution)
    store.close()
    final = fronts[-1]["front"]
    names = [n for n in config.objectives if n in OBJECTIVES and all(n in o for o in final)]
    say(f"coralx: {fronts[-1]['seconds']:.0f} s, {len(final)} on the front")
    return {
        "seed": config.evolution.seed,
        "peer": CORALX,
        "seconds": fronts[-1]["seconds"],
        "trials": len({r.genome.id for r in evolution.results}),
        "full": sum(r.stage_index + 1 == len(config.hyperband.stages) for r in evolution.results),
        "names": names,
        "fronts": fronts,
    }


def run_peer(peer: str, config: Config, worker: Worker, base: Run, cap: float) -> Run:
    """One tool's search, for `cap` times the seconds of CoralX's run."""
    from peer_tools.trial import Book, Task

    module, function = PEERS[peer]
    search = getattr(importlib.import_module(module), function)
    worker.bench.validation(100)
    say(f"{peer}: {cap * base['seconds']:.0f} s from now on, less what the clock leaves out")
    book = Book(cap * base["seconds"])
    search(Task(config, worker.bench, tuple(base["names"]), book))
    say(f"{peer}: {len(book.points)} measurements")
    points = [point for point in book.points if point["seconds"] <= book.limit]
    return {
        "seed": config.evolution.seed,
        "peer": peer,
        "seconds": book.limit,
        "points": points,
    }


def seeds(runs: Sequence[Run]) -> list[int]:
    return sorted({r["seed"] for r in runs})


def handed_over(found: Run) -> list[tuple[float, list[Objectives]]]:
    """(seconds, objectives of everything that could be handed over from then on)."""
    if "fronts" in found:
        return [(entry["seconds"], entry["front"]) for entry in found["fronts"]]
    points = found["points"]
    return [
        (point["seconds"], [p["objectives"] for p in points[: place + 1]])
        for place, point in enumerate(points)
    ]


def judge(runs: Sequence[Run], seed: int, cap: float) -> list[dict[str, Any]]:
    """One row for each run of the seed, hypervolumes under common bounds, CoralX's first.

    `ratio_*` is the time to CoralX's final quality over the time of its run and, `_own`, over the
    time until it had that itself; None if not reached within the cap, which is `most` of it.
    """
    mine = sorted((r for r in runs if r["seed"] == seed), key=lambda r: r["peer"] != CORALX)
    base = mine[0]
    names = base["names"]
    given = {r["peer"]: handed_over(r) for r in mine}
    every = [o for entries in given.values() for _, front in entries for o in front]
    bounds = selection.observed_bounds(as_results(every), names)
    rows: list[dict[str, Any]] = []
    for found in mine:
        end = found["seconds"] if found is base else cap * base["seconds"]
        curve = [
            (
                seconds,
                selection.hypervolume(as_results(front), names, bounds),
                max(o["task_skill"] for o in front),
            )
            for seconds, front in given[found["peer"]]
            if seconds <= end
        ]
        if not rows:
            goals = {"hypervolume": (1, curve[-1][1]), "auroc": (2, curve[-1][2] - AUROC_SLACK)}
            units = find_units(curve, goals)
        times = {name: reached(curve, *goals[name.split("_")[1]]) for name in RATIOS}
        rows.append(
            {
                "seed": seed,
                "peer": found["peer"],
                "seconds": min(found["seconds"], end),
                **count_trials(found),
                "hypervolume": curve[-1][1] if curve else 0.0,
                "auroc": curve[-1][2] if curve else 0.0,
                **{name: at if at is None else at / units[name] for name, at in times.items()},
                "most": {name: end / units[name] for name in RATIOS},
                "at": [
                    {"times": t, "hypervolume": v, "auroc": a}
                    for t in (*(mark for mark in MARKS if mark < cap), cap)
                    for v, a in [read(curve, t * base["seconds"])]
                ],
                "curve": curve,
            }
        )
    return rows


def find_units(curve: Curve, goals: Mapping[str, tuple[int, float]]) -> dict[str, float]:
    """What each ratio is a multiple of: seconds of CoralX's run, or until it was at the goal."""
    units = {}
    for name, goal in goals.items():
        units[f"ratio_{name}"] = curve[-1][0]
        units[f"ratio_{name}_own"] = next(e[0] for e in curve if e[goal[0]] >= goal[1])
    return units


def count_trials(found: Run) -> dict[str, int]:
    """Adapters begun, and how many of them were trained in full."""
    if "fronts" in found:
        return {"trials": found["trials"], "full": found["full"]}
    from peer_tools.trial import FULL

    points = found["points"]
    full = {p["trial"] for p in points if p["budget"] == FULL}
    return {"trials": len({p["trial"] for p in points}), "full": len(full)}


def reached(curve: Curve, figure: int, goal: float) -> float | None:
    """Seconds until the figure first was at the goal; None for never."""
    return next((entry[0] for entry in curve if entry[figure] >= goal), None)


def read(curve: Curve, seconds: float) -> tuple[float, float]:
    """Hypervolume and best AUROC at a moment; zeros while there is nothing to hand over."""
    known = [entry for entry in curve if entry[0] <= seconds]
    return known[-1][1:] if known else (0.0, 0.0)


def as_results(found: Sequence[Objectives]) -> list[TrainingResult]:
    genome = Genome()
    return [as_result("peers", genome, objectives) for objectives in found]


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Per peer the ratios over seeds. A search that never got there counts as having got there at
    its end, which is too little, and is counted in `censored`; from `least` on, figures may be
    larger than they say."""
    summary: dict[str, Any] = {}
    for peer in PEERS:
        mine = [row for row in rows if row["peer"] == peer]
        if not mine:
            continue
        summary[peer] = {}
        for figure in RATIOS:
            found = [(row[figure], row["most"][figure]) for row in mine]
            ends = [most for value, most in found if value is None]
            summary[peer][figure] = {
                **spread([most if value is None else value for value, most in found]),
                "censored": len(ends),
                "least": min(ends, default=None),
                "seeds": len(found),
            }
    return summary


def describe(document: Mapping[str, Any]) -> list[str]:
    """The tables, and what each tool did."""
    rows = document["rows"]
    times = [entry["times"] for entry in rows[0]["at"]]
    lines = [
        f"{document['generations']} generations of {document['population']} on "
        f"{document['model']}, seeds {', '.join(map(str, document['seeds']))}; validation rows. "
        "A tool's time to CoralX's final quality, as a multiple of CoralX's whole run and of the "
        "time until CoralX had it:",
        "",
    ]
    ratios = [
        [peer, *(quote(figures[name]) for name in RATIOS)]
        for peer, figures in document["peers"].items()
    ]
    lines += table(["tool", *RATIOS.values()], ratios)
    lines += [
        "",
        "Hypervolume / best AUROC of what could be handed over, by multiples of CoralX's time:",
        "",
    ]
    heads = ["seed", "tool", "seconds", "adapters", "of them in full"]
    figures = [
        [row["seed"], row["peer"], f"{row['seconds']:.0f}", row["trials"], row["full"]]
        + [f"{e['hypervolume']:.4f} / {e['auroc']:.3f}" for e in row["at"]]
        for row in rows
    ]
    lines += table([*heads, *(f"at {t:g}x" for t in times)], figures)
    return [*lines, "", *DESCRIPTIONS]


def quote(figure: Mapping[str, Any]) -> str:
    """Median (low to high); where a search that never got there says that more is not known."""
    least = math.inf if figure["least"] is None else figure["least"]
    low, median, high = (
        f"{'>' * (figure[part] >= least)}{figure[part]:.2f}x" for part in ("low", "median", "high")
    )
    missed = f", {figure['censored']} of {figure['seeds']} not reached" * bool(figure["censored"])
    return f"{median} ({low} to {high}{missed})"


DESCRIPTIONS = (
    "- optuna_hyperband: TPE, `HyperbandPruner` (1 to 27 units of 1/27 of full training, factor "
    "3) on validation AUROC.",
    "- optuna_nsga2: `NSGAIISampler` with CoralX's population size on all objectives; Optuna does "
    "not prune with several objectives, so every adapter is trained in full.",
    "- ray_asha: random draws, `ASHAScheduler` (the same rungs and factor) on validation AUROC; "
    "one worker process, kept for all trials.",
    "- syne_tune_moasha: random draws, `MOASHA` (the same rungs and factor) by non-dominated order "
    "of all objectives, its scheduler called in process.",
    "- All four train one PEFT adapter after another with every layer computed in every step; "
    "pictures' features come from a cache. An adapter counts from its first rung on, as if each "
    "rung had been saved. None takes weights over from another trial.",
    "- The two that follow AUROC alone were not asked for the other objectives: their hypervolume "
    "is what their adapters happen to have, measured off their clock.",
)


if __name__ == "__main__":
    main()
