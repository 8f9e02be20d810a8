"""How good a front each search finds for its cost: CoralX and others on the same recordings.

    python benchmarks/search_quality.py --seeds 20 --processes 2

A replay: nothing is trained. Every search draws its results from one table of recorded LoRA
curves (scripts/record_curves.py), or from a made-up problem with a fidelity axis, and pays the
recorded seconds; all have the same budget, in full trainings of an average genome (100 by default,
the least that Optuna's documentation advises for its samplers). The front is that of all results a
search paid for that are measured in full (S2 and S3 of the recordings, the last stage of a made-up
problem), its hypervolume in the box of the objectives' bounds, as a run reports it. Figures are
shares of the best that can be reached: the hypervolume of everything recorded, or of the true
front. Beside it stands the best value found of the first objective (of the recordings: skill), 0 to
1 within the same bounds. Intervals are bootstrap, over seeds.

CoralX is at its defaults but for --population (32 instead of 8, as a budget of a hundred trainings
allows) and for what a method's name says (`wide`: half of the genes mutate, not 0.3 of them, and
half of S2 goes on, not a quarter); the others are at theirs. What a child inherits is not in the
recordings: CoralX goes without its warm start here.

Needs the packages of `pip install -e '.[bench]'`. Writes results/search_quality.json, .md and .svg.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from competitors import SEARCHERS, Problem, scale, simulate
from fidelity_problems import PROBLEMS
from figures import begin, save
from numpy.typing import NDArray
from results import FOLDER, describe_machine, table, write_results

from coralx.config import Config, load_config
from coralx.errors import ExtinctError
from coralx.executors.replay import ReplayExecutor
from coralx.executors.replay_table import ReplayTable, read_rows, read_table
from coralx.loop import run
from coralx.objectives import OBJECTIVES
from coralx.records import Genome, TrainingResult, TrainingStage
from coralx.search import selection
from coralx.search.asktell import Search
from coralx.search.evolution import new_search
from coralx.search.space import sample_distinct
from coralx.settings.genes import Gene
from coralx.store import History, NoStore

TABLE = Path(__file__).parent.parent / "src" / "coralx" / "assets" / "replay_table.parquet"
CORALX: dict[str, dict[str, dict[str, Any]]] = {
    "coralx-halving": {"hyperband": {"promotion": "halving"}},
    "coralx-halving-crowding": {"evolution": {"tie_break": "crowding"}},
    "coralx-asha": {"hyperband": {"promotion": "asha"}},
    "coralx-halving-wide": {
        "evolution": {"mutation_rate": 0.5},
        "survival_rate": {"S2_serious": 0.5},
    },
}
METHODS = (*CORALX, *SEARCHERS)
SLOW = ("syne-tune-moasha",)  # sorts all trials of a rung at every result: minutes a run
USUAL = [method for method in METHODS if method not in SLOW]
POINTS = 20  # of a curve, evenly over the budget
SHOWN = (0.25, 0.5, 1.0)  # shares of the budget in the table
DRAWN = 400  # genomes that a made-up problem's average cost is taken from
RESAMPLES = 4000
CURVES = ("hypervolume", "first_objective")  # of a run, over the budget
Curve = NDArray[np.float64]
Run = Mapping[str, Any]
Searches = Mapping[tuple[str, str], Sequence[Run]]  # runs by problem and method
HEADINGS = (
    *("problem", "search", "25 %", "50 %", "100 %"),
    *("first objective", "trained in full", "steps"),
)


@dataclass(frozen=True, eq=False)
class TableProblem:
    """A task of the table as a problem (`competitors.Problem`)."""

    table: ReplayTable
    objectives: tuple[str, ...]
    bounds: Mapping[str, tuple[float, float]]

    @property
    def space(self) -> Mapping[str, Gene]:
        return self.table.space

    @property
    def stages(self) -> tuple[TrainingStage, ...]:
        return self.table.stages

    def look_up(self, genome: Genome, stage: TrainingStage) -> TrainingResult:
        return self.table.look_up(genome, stage)

    @property
    def full_from(self) -> int:
        return full_from(self.table)

    def best_known(self) -> list[TrainingResult]:
        return measured_in_full(self.table)


def full_from(table: ReplayTable) -> int:
    """The first of the stages that are measured on the rows of the last."""
    shares = [stage.data_percentage for stage in table.stages]
    return shares.index(shares[-1])


def measured_in_full(table: ReplayTable) -> list[TrainingResult]:
    """The recorded results that can be on a front."""
    first = full_from(table)
    found = (result for curve in table.curves for result in curve if result.stage_index >= first)
    return [result for result in found if result.stopped is None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--budget", type=float, default=100, help="in full trainings")
    parser.add_argument("--workers", type=int, default=1, help="virtual, of every search")
    parser.add_argument("--population", type=int, default=32, help="of CoralX")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--problems", nargs="+", default=None, help="tasks of the table and others")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=USUAL)
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    names = arguments.problems or [*tasks_of(arguments.table), *PROBLEMS]
    search = functools.partial(run_one, arguments)
    jobs = [(p, m, s) for p in names for m in arguments.methods for s in range(arguments.seeds)]
    with ProcessPoolExecutor(arguments.processes) as pool:
        runs = []
        for row in pool.map(search, jobs):
            runs.append(row)
            if len(runs) % arguments.seeds == 0:
                shares = [r["hypervolume"][-1] for r in runs[-arguments.seeds :]]
                print(f"replay: {row['problem']}, {row['method']}: {np.mean(shares):.4f}")
    speed = time_ten_thousand(load_problem(names[0], arguments.table))
    report(arguments, names, runs, speed)


def tasks_of(path: Path) -> list[str]:
    return sorted({row["task"] for row in read_rows(path)[1]}) if path.exists() else []


@functools.cache
def load_problem(name: str, path: Path) -> Problem:
    if name in PROBLEMS:
        return PROBLEMS[name]
    table = read_table(path, name)
    last = measured_in_full(table)
    objectives = tuple(n for n in OBJECTIVES if all(n in r.objectives for r in last))
    seen = selection.observed_bounds(last, objectives)
    bounds = {name: OBJECTIVES[name].bounds or seen[name] for name in objectives}
    return TableProblem(table, objectives, bounds)


@functools.cache
def full_seconds(problem: Problem) -> float:
    """What training an average genome in full costs: all training, the last evaluation."""
    rng = np.random.default_rng(0)
    spent = []
    for genome in sample_distinct(problem.space, DRAWN, rng):
        curve = [problem.look_up(genome, stage) for stage in problem.stages]
        training = sum(result.cost.train_seconds for result in curve)
        spent.append(training + curve[-1].cost.eval_seconds)
    return float(np.mean(spent))


@functools.cache
def best_reachable(problem: Problem) -> float:
    return selection.hypervolume(problem.best_known(), problem.objectives, problem.bounds)


def run_one(arguments: argparse.Namespace, job: tuple[str, str, int]) -> dict[str, Any]:
    """One search with one seed; its hypervolume at `POINTS` shares of the budget."""
    name, method, seed = job
    problem = load_problem(name, arguments.table)
    seconds = arguments.budget * full_seconds(problem) / arguments.workers
    if method in CORALX:
        config = coralx_config(problem, seed, arguments.population, CORALX[method])
        found, steps = run_coralx(problem, config, seconds, arguments.workers)
    else:
        searcher = SEARCHERS[method](problem, seed)
        found, steps = simulate(problem, searcher, seconds, arguments.workers)
    curve, first = [], []
    for share in np.linspace(1 / POINTS, 1, POINTS):
        front = [result for now, result in found if now <= share * seconds]
        volume = selection.hypervolume(front, problem.objectives, problem.bounds)
        curve.append(volume / best_reachable(problem))
        first.append(1 - min((scale(problem, result)[0] for result in front), default=1.0))
    return {
        "problem": name,
        "method": method,
        "seed": seed,
        "hypervolume": curve,
        "first_objective": first,
        "finished": len(found),
        "steps": steps,
    }


def coralx_config(
    problem: Problem, seed: int, population: int, settings: Mapping[str, Mapping[str, Any]]
) -> Config:
    """CoralX at its defaults but for what is named here; one genome a job, as the others have.

    `settings` has sections of a configuration and, as `survival_rate`, those of stages by name.
    """
    rates = settings.get("survival_rate", {})
    stages = [
        stage.model_dump() | ({"survival_rate": rates[stage.name]} if stage.name in rates else {})
        for stage in problem.stages
    ]
    return load_config(
        {
            "space": {name: gene.model_dump() for name, gene in problem.space.items()},
            "objectives": problem.objectives,
            "evolution": {"population": population, "generations": 100_000, "seed": seed},
            # The problem reads the genes; nothing is called by this name.
            "training": {"pack_size": 1, "hook": "problem:result"},
            "hyperband": {"training_stages": stages},
        },
        {name: section for name, section in settings.items() if name != "survival_rate"},
    )


class BudgetSpent(Exception):
    """The virtual clock has gone beyond the budget."""


def run_coralx(
    problem: Problem, config: Config, seconds: float, workers: int
) -> tuple[list[tuple[float, TrainingResult]], int]:
    """As `competitors.simulate`."""
    executor = ReplayExecutor(problem, config, workers)
    found: list[tuple[float, TrainingResult]] = []
    told = 0

    def watch(search: Search) -> None:
        nonlocal told
        if executor.now > seconds:
            raise BudgetSpent
        for result in search.results[told:]:
            if result.stage_index >= problem.full_from and result.stopped is None:
                found.append((executor.now, result))
        told = len(search.results)

    search = new_search(config)
    with contextlib.suppress(BudgetSpent, ExtinctError):
        run(search, executor, NoStore(), History(config, {}), watch)
    return found, sum(result.cost.steps for result in search.results[:told])


def time_ten_thousand(problem: Problem) -> float:
    """Processor seconds to replay 10,000 genomes on 1,000 virtual workers."""
    config = coralx_config(problem, 0, 1000, {"evolution": {"generations": 10}})
    search = new_search(config)
    began = time.process_time()
    run(search, ReplayExecutor(problem, config, 1000), NoStore(), History(config, {}))
    return time.process_time() - began


def interval(values: Curve, rng: np.random.Generator) -> tuple[float, float, float]:
    """Mean over seeds, and its 95 % bootstrap interval."""
    draws = rng.integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def difference(a: Curve, b: Curve, rng: np.random.Generator) -> tuple[float, float, float]:
    """Mean of a minus mean of b, and its 95 % bootstrap interval; seeds are not paired."""
    first = a[rng.integers(len(a), size=(RESAMPLES, len(a)))].mean(axis=1)
    second = b[rng.integers(len(b), size=(RESAMPLES, len(b)))].mean(axis=1)
    low, high = np.quantile(first - second, [0.025, 0.975])
    return float(a.mean() - b.mean()), float(low), float(high)


def report(
    arguments: argparse.Namespace,
    names: Sequence[str],
    runs: Sequence[Run],
    speed: float,
) -> None:
    rng = np.random.default_rng(0)
    searches = {
        (p, m): [r for r in runs if (r["problem"], r["method"]) == (p, m)]
        for p in names
        for m in arguments.methods
    }
    summary = {p: {m: summarise(searches[p, m], rng) for m in arguments.methods} for p in names}
    lines = [
        f"Replay: {arguments.seeds} seeds, budget {arguments.budget:g} full trainings, "
        f"{arguments.workers} virtual worker(s). Share of the reachable hypervolume at "
        "25, 50 and 100 % of the budget, and the best of the first objective at 100 %; mean over "
        "seeds (95 % interval).",
        "",
        *table(HEADINGS, [(p, m, *cells_of(summary[p][m])) for p, m in searches]),
        "",
    ]
    for problem in names:
        for what, title in zip(CURVES, (problem, f"{problem}, first objective"), strict=True):
            for method, found in compare(problem, searches, what, rng).items():
                if what == "hypervolume":
                    summary[problem][method]["minus_best_other"] = found
                mean, low, high = found["difference"]
                lines.append(
                    f"- {title}: {method} minus the best other ({found['other']}): "
                    f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"
                )
    lines.append(f"- 10,000 genomes on 1,000 virtual workers: {speed:.1f} s of one core")
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()}
    settings.pop("table")
    document = {
        "settings": settings,
        "summary": summary,
        "replay_10000_genomes_seconds": speed,
        "machine": describe_machine(),
        "runs": [{**r, **{k: [round(v, 5) for v in r[k]] for k in CURVES}} for r in runs],
    }
    write_results("search_quality", document, lines)
    draw(FOLDER / "search_quality.svg", names, arguments.methods, searches)


def summarise(runs: Sequence[Run], rng: np.random.Generator) -> dict[str, Any]:
    """The runs of one search on one problem; figures with their intervals."""
    volumes = curves_of(runs, "hypervolume")
    shown = {str(s): interval(volumes[:, round(s * POINTS) - 1], rng) for s in SHOWN}
    return {
        "hypervolume": shown,
        "first_objective": interval(curves_of(runs, "first_objective")[:, -1], rng),
        "finished": float(np.mean([run["finished"] for run in runs])),
        "steps": float(np.mean([run["steps"] for run in runs])),
    }


def cells_of(found: Mapping[str, Any]) -> list[str]:
    figures = (*found["hypervolume"].values(), found["first_objective"])
    cells = [f"{mean:.3f} ({low:.3f} to {high:.3f})" for mean, low, high in figures]
    return [*cells, f"{found['finished']:.0f}", f"{found['steps']:,.0f}"]


def compare(
    problem: str, searches: Searches, what: str, rng: np.random.Generator
) -> dict[str, dict[str, Any]]:
    """At the whole budget, CoralX in each of its ways minus the best other search; nothing where
    there was no other."""
    ends = {m: curves_of(runs, what)[:, -1] for (p, m), runs in searches.items() if p == problem}
    others = [method for method in ends if method not in CORALX]
    if not others:
        return {}
    best = max(others, key=lambda method: ends[method].mean())
    return {
        method: {"other": best, "difference": difference(ends[method], ends[best], rng)}
        for method in ends
        if method in CORALX
    }


def curves_of(runs: Sequence[Run], what: str) -> Curve:
    """(seeds, POINTS)"""
    return np.array([run[what] for run in runs])


def draw(
    path: Path,
    names: Sequence[str],
    methods: Sequence[str],
    searches: Searches,
) -> None:
    """Mean hypervolume against cost, a panel for each problem, with bootstrap bands."""
    rng = np.random.default_rng(1)
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    size = (4.2 * columns, 3.2 * rows + 0.6)
    figure, axes = begin(rows, columns, figsize=size, squeeze=False)
    shares = np.linspace(1 / POINTS, 1, POINTS) * 100
    for panel, problem in zip(axes.flat, names, strict=False):
        for method in methods:
            volumes = curves_of(searches[problem, method], "hypervolume")
            found = np.array([interval(column, rng) for column in volumes.T])
            style = "-" if method in CORALX else "--"
            (line,) = panel.plot(shares, found[:, 0], style, label=method, linewidth=1.4)
            panel.fill_between(shares, found[:, 1], found[:, 2], color=line.get_color(), alpha=0.15)
        panel.set_title(f"{problem} (replay)", fontsize=10)
        panel.set_xlabel("budget spent, %", fontsize=8)
        panel.set_ylabel("share of reachable hypervolume", fontsize=8)
        panel.tick_params(labelsize=7)
    for panel in list(axes.flat)[len(names) :]:
        panel.remove()
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.5 / size[1], 1, 1))
    save(figure, path)


if __name__ == "__main__":
    main()
