"""What else the steps of a CoralX run could have bought: random genomes, each trained in full.

    python benchmarks/equal_steps.py --seeds 0 1 2 3 4 5 6

Real training of both, in packs and by one trainer, so that what is compared is the search alone:
stages, selection, breeding and inherited weights against as many draws from the same space as the
same steps train for the full epochs (rounded up, in their favour). Logits are scaled on both sides.
Each side chooses its front on validation rows; hypervolumes are of its members on validation and
on test rows, in the box that a run reports. At so few trainings random draws are what Optuna's
NSGA-II (population 50) and TPE (10 start-up trials) try as well.

Nothing is timed, so it may run beside other work. A seed that --work holds is not run again.
Writes results/equal_steps.json and .md from all seeds there.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from naive_vs_coralx import Noting, full_training
from results import between, describe_machine, spread, table, write_results

from coralx.compare.ways import run_coralx
from coralx.config import Config, load_config
from coralx.records import Genome, TrainingResult
from coralx.search import selection
from coralx.search.space import sample_distinct
from coralx.train.worker import Worker

Bounds = Mapping[str, tuple[float, float]]
FIGURES = ("hypervolume_validation", "hypervolume_test", "auroc_test")
HEADINGS = (
    *("seed", "steps", "random genomes"),
    *("hypervolume, validation", "random", "test", "random", "test AUROC", "random"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--generations", type=int, default=5)
    parser.add_argument("--population", type=int, default=8)
    parser.add_argument("--draws", type=int, default=2, help="random searches for each seed")
    parser.add_argument("--work", type=Path, default=Path("runs/equal_steps"))
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        kept = arguments.work / f"seed-{seed}.json"
        if not kept.exists():
            row = compare(arguments, seed)
            kept.write_text(json.dumps(row) + "\n", encoding="utf-8")
        report(arguments)


def compare(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One CoralX run, and what its steps buy of random genomes trained in full."""
    settings = {"generations": arguments.generations, "population": arguments.population}
    config = load_config(None, {"evolution": {**settings, "seed": seed}})
    sides = [train(config)]
    count = math.ceil(sides[0].steps / sides[0].full_steps)
    for draw in range(1, arguments.draws + 1):
        genomes = sample_distinct(config.space, count, np.random.default_rng([seed, draw]))
        sides.append(train(full_training(config, count), genomes))
    everyone = [result for side in sides for result in (*side.chosen, *side.tested)]
    bounds = selection.observed_bounds(everyone, config.objectives)
    own, *others = [side.describe(config.objectives, bounds) for side in sides]
    return {"seed": seed, "coralx": own, "random": others}


@dataclass(frozen=True)
class Trained:
    """A search that is over: its front as chosen on validation rows, and as tested."""

    genomes: int
    steps: int
    full_steps: int  # of one genome trained in full
    chosen: list[TrainingResult]
    tested: list[TrainingResult]
    best: float

    def describe(self, names: Sequence[str], bounds: Bounds) -> dict[str, Any]:
        return {
            "genomes": self.genomes,
            "steps": self.steps,
            "front": len(self.chosen),
            "hypervolume_validation": selection.hypervolume(self.chosen, names, bounds),
            "hypervolume_test": selection.hypervolume(self.tested, names, bounds),
            "auroc_test": self.best,
        }


def train(config: Config, genomes: Sequence[Genome] | None = None) -> Trained:
    with tempfile.TemporaryDirectory() as scratch:
        worker = Worker(config, Path(scratch) / "checkpoints", print)
        noting = Noting()
        side = run_coralx(config, worker, Path(scratch), noting, genomes)
        full = math.ceil(config.hyperband.full_epochs * worker.bench.steps_per_epoch)
        chosen = noting.evolution.front()
        count = len(side["genomes"])
        return Trained(count, side["steps"], full, chosen, side["front"], side["best"])


def report(arguments: argparse.Namespace) -> None:
    rows = [json.loads(path.read_text()) for path in sorted(arguments.work.glob("seed-*.json"))]
    summary: dict[str, Any] = {}
    for figure in FIGURES:
        pairs = [(r["coralx"][figure], np.mean([o[figure] for o in r["random"]])) for r in rows]
        differ = figure == "auroc_test"
        summary[figure] = spread([float(a - b if differ else a / b) for a, b in pairs])
    lines = [
        f"{arguments.generations} generations of {arguments.population}; random: as many genomes "
        f"as the same steps train in full, mean of {arguments.draws} draws.",
        "",
        *table(HEADINGS, [cells_of(row) for row in rows]),
        "",
    ]
    for figure, found in summary.items():
        kind = "CoralX minus random" if figure == "auroc_test" else "CoralX / random"
        lines.append(f"- {figure}, {kind}: {between(found, 3)}")
    settings = {name: getattr(arguments, name) for name in ("generations", "population", "draws")}
    document = {**summary, **settings, "machine": describe_machine(), "runs": rows}
    write_results("equal_steps", document, lines)


def cells_of(row: Mapping[str, Any]) -> list[object]:
    cells = [row["seed"], f"{row['coralx']['steps']:,}", row["random"][0]["genomes"]]
    for figure in FIGURES:
        random = np.mean([one[figure] for one in row["random"]])
        cells += [f"{row['coralx'][figure]:.4g}", f"{random:.4g}"]
    return cells


if __name__ == "__main__":
    main()
