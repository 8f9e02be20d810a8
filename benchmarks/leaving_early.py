"""What leaving a stage early saves, and what it loses: the same genomes with and without patience.

    python benchmarks/leaving_early.py --genomes 16 --seeds 0 1

Genomes of the default space are trained through all stages twice, in the same packs from the same
random streams: to the end of every stage, and with the configuration's patience. Nobody is left
behind in between. Regret is what a genome's skill on all validation rows, after the last stage, is
lower by. A front member of the full training is falsely stopped if it left a stage early and lost
more than --tolerance. Writes results/leaving_early.json and .md.
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
from coralx.records import Genome, TrainingResult
from coralx.search import selection
from coralx.search.breeding import found
from coralx.search.jobs import plan_jobs
from coralx.train.worker import Worker


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
    genomes = found(config.space, config.evolution)
    training = config.training.model_copy(update={"patience": None})
    full = train_through(config.model_copy(update={"training": training}), genomes)
    early = train_through(config, genomes)
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
            "regret": skill(full[name]) - skill(early[name]),
        }
        for name in both
    ]


def train_through(config: Config, genomes: Sequence[Genome]) -> dict[str, list[TrainingResult]]:
    """Every genome through all stages; only one that breaks down goes no further."""
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
    return past


def skill(results: Sequence[TrainingResult]) -> float:
    return results[-1].objectives["task_skill"]


def report(seeds: Sequence[Sequence[dict[str, Any]]], arguments: argparse.Namespace) -> None:
    lines = [line for seed in seeds for line in seed]
    saved = 1 - sum(x["steps"] for x in lines) / sum(x["full_steps"] for x in lines)
    regrets = [line["regret"] for line in lines]
    front = [line for line in lines if line["on_front"]]
    falsely = [x for x in front if x["left_early"] and x["regret"] > arguments.tolerance]
    document = {
        "seeds": arguments.seeds,
        "genomes": len(lines),
        "max_rows": arguments.max_rows,
        "left_early": sum(bool(line["left_early"]) for line in lines),
        "steps_saved": saved,
        "regret": {**spread(regrets), "mean": float(np.mean(regrets))},
        "front_members": len(front),
        "falsely_stopped": len(falsely),
        "tolerance": arguments.tolerance,
        "machine": describe_machine(),
        "lines": lines,
    }
    figures = document["regret"]
    write_results(
        "leaving_early",
        document,
        [
            f"{len(lines)} genomes through all stages, {document['left_early']} left one early",
            "",
            f"- steps saved: {100 * saved:.0f}%",
            f"- regret in validation AUROC: median {figures['median']:+.4f}, mean "
            f"{figures['mean']:+.4f} ({figures['low']:+.4f} to {figures['high']:+.4f})",
            f"- front members of full training falsely stopped (left early and lost more than "
            f"{arguments.tolerance}): {len(falsely)} of {len(front)}",
        ],
    )


if __name__ == "__main__":
    main()
