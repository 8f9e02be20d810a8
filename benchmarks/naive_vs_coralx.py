"""What the search saves: a CoralX run against naive full training of the genomes it met.

    python benchmarks/naive_vs_coralx.py --seeds 0

Both sides run on one machine in one process, on the same rows, objectives and genomes. Naive is
`coralx.train.naive`: one PEFT adapter after another, every one for the full epochs. Loading is
left out on both sides; CoralX pays for its frozen prefix and for all of its evaluations, naive
for one evaluation of each adapter. Each side chooses its front on validation rows; figures are of
test rows. Writes results/naive_vs_coralx.json and .md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from results import describe_machine, spread, write_results

from coralx.config import Config, load_config
from coralx.executors.local import LocalExecutor
from coralx.loop import run
from coralx.records import Genome, TrainingResult
from coralx.search import selection
from coralx.search.evolution import Evolution
from coralx.store import History, Store
from coralx.train.naive import NaiveResult, NaiveTrainer
from coralx.train.worker import Worker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=None, help="YAML; the default job without it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--generations", type=int, default=None)
    arguments = parser.parse_args()
    rows = []
    for seed in arguments.seeds:
        config = with_seed(load_config(arguments.config), seed, arguments.generations)
        rows.append(compare(config))
        report(rows, config)


def with_seed(config: Config, seed: int, generations: int | None) -> Config:
    wanted = {"seed": seed, "generations": generations or config.evolution.generations}
    evolution = config.evolution.model_copy(update=wanted)
    return config.model_copy(update={"evolution": evolution})


def compare(config: Config) -> dict[str, Any]:
    """One seed: CoralX first, then naive on the genomes that CoralX trained."""
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(config, Path(folder) / "checkpoints", print)
        coralx = run_coralx(config, worker, Path(folder))
        naive = run_naive(config, worker, coralx["genomes"])
    bounds = selection.observed_bounds([*coralx["front"], *naive["front"]], config.objectives)
    row: dict[str, Any] = {"seed": config.evolution.seed, "genomes": len(coralx["genomes"])}
    for name, side in (("coralx", coralx), ("naive", naive)):
        row[name] = {
            "seconds": side["seconds"],
            "steps": side["steps"],
            "tokens": side["tokens"],
            "computed_tokens": side["computed_tokens"],
            "front": len(side["front"]),
            "test_hypervolume": selection.hypervolume(side["front"], config.objectives, bounds),
            "test_auroc_best": side["best"],
            "test_objectives": [r.objectives for r in side["front"]],
        }
    row["speedup_wall_clock"] = naive["seconds"] / coralx["seconds"]
    row["speedup_steps"] = naive["steps"] / coralx["steps"]
    row["hypervolume_ratio"] = row["coralx"]["test_hypervolume"] / row["naive"]["test_hypervolume"]
    row["auroc_difference"] = coralx["best"] - naive["best"]
    return row


def run_coralx(config: Config, worker: Worker, folder: Path) -> dict[str, Any]:
    bench = worker.bench
    evolution = Evolution(config, image_task=bench.has_images, shape=bench.shape)
    store = Store(folder / "journal")
    began = time.perf_counter()
    front = run(evolution, LocalExecutor(worker), store, History(config, {}))
    seconds = time.perf_counter() - began
    tests = [worker.test(result) for result in front]
    final = [
        result.model_copy(update={"objectives": {n: i.value for n, i in test.objectives.items()}})
        for result, test in zip(front, tests, strict=True)
    ]
    chosen = max(front, key=lambda result: result.objectives["task_skill"]).genome.id
    best = next(r for r in final if r.genome.id == chosen).objectives["task_skill"]
    costs = [result.cost for result in evolution.results]
    print(f"coralx: {seconds:.0f} s, {len(front)} on the front, test AUROC {best:.3f}")
    return {
        "seconds": seconds,
        "steps": sum(cost.steps for cost in costs),
        "tokens": sum(cost.tokens for cost in costs),
        "computed_tokens": sum(cost.computed_tokens for cost in costs),
        "front": final,
        "best": best,
        "genomes": list({r.genome.id: r.genome for r in evolution.results}.values()),
    }


def run_naive(config: Config, worker: Worker, genomes: Sequence[Genome]) -> dict[str, Any]:
    trainer = NaiveTrainer(worker.bench, config.hyperband.full_epochs)
    worker.bench.validation(100)
    worker.bench.test()
    found: list[NaiveResult] = []
    for genome in genomes:
        found.append(trainer.train(genome))
        skill = found[-1].validation["task_skill"]
        seconds = found[-1].train_seconds
        print(f"naive {len(found)}/{len(genomes)}: {seconds:.0f} s, validation AUROC {skill:.3f}")
    by_id = {genome.id: genome for genome in genomes}
    front = selection.front(
        [as_result(by_id[r.genome], r.validation) for r in found], config.objectives
    )
    tested = {r.genome.id: trainer.test(r.genome) for r in front}
    best = max(front, key=lambda r: r.objectives["task_skill"])
    return {
        "seconds": sum(r.train_seconds + r.eval_seconds for r in found),
        "steps": sum(r.steps for r in found),
        "tokens": sum(r.tokens for r in found),
        "computed_tokens": sum(r.computed_tokens for r in found),
        "front": [as_result(r.genome, tested[r.genome.id]) for r in front],
        "best": tested[best.genome.id]["task_skill"],
    }


def as_result(genome: Genome, objectives: dict[str, float]) -> TrainingResult:
    return TrainingResult(
        job="naive",
        genome=genome,
        generation=genome.generation,
        stage="naive",
        stage_index=0,
        lora_cfg=genome.lora_cfg,
        objectives=objectives,
    )


def report(rows: Sequence[dict[str, Any]], config: Config) -> None:
    figures = ("speedup_wall_clock", "speedup_steps", "hypervolume_ratio", "auroc_difference")
    summary = {name: spread([row[name] for row in rows]) for name in figures}
    first = rows[0]
    tokens_per_step = np.mean([r["naive"]["computed_tokens"] / r["naive"]["steps"] for r in rows])
    document = {
        **summary,
        "seeds": [row["seed"] for row in rows],
        "generations": config.evolution.generations,
        "population": config.evolution.population,
        "model": config.base_model,
        "tokens_per_step_naive": float(tokens_per_step),
        "machine": describe_machine(),
        "runs": list(rows),
    }
    lines = [
        f"{first['genomes']} genomes a seed, {len(rows)} seed(s), {config.base_model}, "
        f"{tokens_per_step:.0f} tokens a naive step",
        "",
        "| seed | side | seconds | steps | tokens | front | test hypervolume | best test AUROC |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for side in ("naive", "coralx"):
            s = row[side]
            lines.append(
                f"| {row['seed']} | {side} | {s['seconds']:.0f} | {s['steps']:,} | "
                f"{s['tokens']:,} | {s['front']} | {s['test_hypervolume']:.4f} | "
                f"{s['test_auroc_best']:.3f} |"
            )
    lines.append("")
    for name in figures:
        low, high = summary[name]["low"], summary[name]["high"]
        lines.append(f"- {name}: {summary[name]['median']:.3f} ({low:.3f} to {high:.3f})")
    write_results("naive_vs_coralx", document, lines)


if __name__ == "__main__":
    main()
