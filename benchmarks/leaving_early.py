"""What leaving a stage early saves, and what it loses: the same genomes with and without patience.

    python benchmarks/leaving_early.py --genomes 16 --seeds 0 1

Genomes of the default space are trained through all stages twice, in the same packs from the same
random streams: to the end of every stage, and with the configuration's patience. Nobody is left
behind in between. Regret is what a genome's skill after the last stage is lower by: on all
validation rows, a quarter of which the rule looks at, and on test rows, which it never sees. A
front member of the full training is falsely stopped if it left a stage early and lost more than
--tolerance; how many gained as much says how far chance alone would go. Writes
results/leaving_early.json and .md.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from results import describe_machine, spread, write_results

from coralx.config import Config, load_config
from coralx.records import Genome, Start, TrainingResult
from coralx.search import selection
from coralx.search.breeding import draw_founders
from coralx.search.jobs import plan_jobs
from coralx.train.worker import Worker

ROWS = ("validation", "test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--genomes", type=int, default=16, help="of each seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--max-rows", type=int, default=None, help="of each split, for a try")
    parser.add_argument("--tolerance", type=float, default=0.005, help="of AUROC")
    arguments = parser.parse_args()
    rows = [measure_seed(seed, arguments) for seed in arguments.seeds]
    report(rows, arguments)


def measure_seed(seed: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A line for each genome that came through the last stage both ways."""
    config = load_config(
        None,
        {
            "evolution": {"seed": seed, "population": arguments.genomes},
            "data": {"max_rows": arguments.max_rows},
        },
    )
    genomes = draw_founders(config.space, config.evolution)
    training = config.training.model_copy(update={"patience": None})
    full, full_skills = train_through(config.model_copy(update={"training": training}), genomes)
    early, skills = train_through(config, genomes)
    last = len(config.hyperband.stages) - 1
    finished = [lives[-1] for lives in full.values() if lives[-1].stage_index == last]
    front = {r.genome.id for r in selection.front(finished, config.objectives)}
    both = [
        name for name in full if full[name][-1].stage_index == early[name][-1].stage_index == last
    ]
    return [
        {
            "genome": name,
            "on_front": name in front,
            "left_early": [r.stage for r in early[name] if r.left_early],
            "steps": sum(r.cost.steps for r in early[name]),
            "full_steps": sum(r.cost.steps for r in full[name]),
            "regret": {rows: full_skills[name][rows] - skills[name][rows] for rows in ROWS},
        }
        for name in both
    ]


def train_through(
    config: Config, genomes: Sequence[Genome]
) -> tuple[dict[str, list[TrainingResult]], dict[str, dict[str, float]]]:
    """Every genome through all stages, and the skills of those that came through the last; only one
    that breaks down goes no further."""
    past: dict[str, list[TrainingResult]] = {genome.id: [] for genome in genomes}
    going = list(genomes)
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(config, Path(folder) / "checkpoints", print)
        images, shape = worker.bench.has_images, worker.bench.shape
        for index in range(len(config.hyperband.stages)):
            for job in plan_jobs(config, 0, index, going, past, images, shape):
                for result in worker.train(job):
                    past[result.genome.id].append(result)
            going = [genome for genome in going if past[genome.id][-1].stopped is None]
            print(f"{config.hyperband.stages[index].name}: {len(going)} genomes")
        skills = {genome.id: measure(worker, past[genome.id][-1]) for genome in going}
    return past, skills


def measure(worker: Worker, result: TrainingResult) -> dict[str, float]:
    """Skill on the rows of each split, all of them."""
    bench = worker.bench
    member = bench.member(result.genome, Start(kind="continue", checkpoint=result.checkpoint))
    batch = bench.config.training.evaluation_batch
    found = bench.test().skill(bench.pack([member]), batch, 100, bench.has_images)
    return {"validation": result.objectives["task_skill"], "test": float(found[0])}


def report(seeds: Sequence[Sequence[dict[str, Any]]], arguments: argparse.Namespace) -> None:
    lines = [line for seed in seeds for line in seed]
    saved = 1 - sum(x["steps"] for x in lines) / sum(x["full_steps"] for x in lines)
    gone = [line for line in lines if line["left_early"]]
    front = [line for line in lines if line["on_front"]]
    document = {
        "seeds": arguments.seeds,
        "genomes": len(lines),
        "max_rows": arguments.max_rows,
        "left_early": len(gone),
        "steps_saved": saved,
        "front_members": len(front),
        "front_members_left_early": sum(line["on_front"] for line in gone),
        "regret": {rows: describe(gone, rows, arguments.tolerance) for rows in ROWS},
        "tolerance": arguments.tolerance,
        "machine": describe_machine(),
        "lines": lines,
    }
    write_results(
        "leaving_early",
        document,
        [
            f"{len(lines)} genomes through all stages, {document['left_early']} left one early; "
            f"{100 * saved:.0f}% of the steps were saved. Of {len(front)} front members of full "
            f"training {document['front_members_left_early']} left one early.",
            "",
            "| rows | regret in AUROC of those that left, median | mean | range | front members "
            f"among them that lost more than {arguments.tolerance} | gained more |",
            "|---|---|---|---|---|---|",
            *(show(rows, document["regret"][rows]) for rows in ROWS),
        ],
    )


def describe(gone: Sequence[dict[str, Any]], rows: str, tolerance: float) -> dict[str, Any]:
    """The regrets on these rows of the genomes that left early, and how many of the front members
    among them lost and gained more than the tolerance."""
    regrets = [line["regret"][rows] for line in gone]
    front = [line["regret"][rows] for line in gone if line["on_front"]]
    return {
        **spread(regrets),
        "mean": float(np.mean(regrets)),
        "falsely_stopped": sum(regret > tolerance for regret in front),
        "gained": sum(regret < -tolerance for regret in front),
    }


def show(rows: str, found: dict[str, Any]) -> str:
    return (
        f"| {rows} | {found['median']:+.4f} | {found['mean']:+.4f} | {found['low']:+.4f} to "
        f"{found['high']:+.4f} | {found['falsely_stopped']} | {found['gained']} |"
    )


if __name__ == "__main__":
    main()
