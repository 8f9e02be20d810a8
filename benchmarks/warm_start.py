"""What inheriting weights saves: steps until a child is as good as its better parent.

    python benchmarks/warm_start.py --seeds 0 1 2 3

For each seed CoralX trains a first generation and breeds children, as in any run. Each child is
then trained twice for the full budget of naive training, on the same batches and schedule and
with the same random numbers: once from its better parent's weights (`inherit`), once from fresh
ones. P1 is measured on all validation rows at step 0 and then ever more rarely (each
point a quarter later than the one before); a child has reached its parent at the first point
where its P1 is at most TOLERANCE below the parent's on the same rows. A child that never does is
cut off at the budget: in medians it counts as later than all others, in mean steps, and so in the
ratio, as having taken the whole budget; where more fresh children are cut off than heirs, the
ratio is too low. The parent's own steps are left out on both sides: they are paid for either way.
Writes results/warm_start.json and .md.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from results import describe_machine, spread, write_results

from coralx.config import Config, load_config
from coralx.json_values import plain
from coralx.records import Genome, Start
from coralx.search.evolution import new_search
from coralx.train.adapters import PackedAdapters
from coralx.train.checkpoint import load_checkpoint
from coralx.train.data import batches, subset
from coralx.train.member import Member, StageWork
from coralx.train.trainer import StageTrainer
from coralx.train.worker import Worker

TOLERANCE = 0.005  # AUROC; well under its standard error on some hundred rows, about 0.02
GROWTH = 1.25  # of the step at which P1 is measured, from one point to the next
FIRST = 4  # the first such step above zero
PURPOSE = 77  # keeps the order of batches apart from that of any stage

ARMS = ("inherit", "fresh")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default=None, help="YAML; the default job without it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--children", type=int, default=4, help="of a seed; all train in one pack")
    parser.add_argument("--rows", type=int, default=1200, help="of each split, at most")
    arguments = parser.parse_args()
    children: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        overrides = {"evolution": {"seed": seed, "generations": 2},
                     "data": {"max_rows": arguments.rows}}  # fmt: skip
        config = load_config(load_config(arguments.config), overrides)
        with tempfile.TemporaryDirectory() as folder:
            worker = Worker(config, Path(folder) / "checkpoints")
            children += compare(worker, breed(worker, config)[: arguments.children])
        report(children, config)


def breed(worker: Worker, config: Config) -> list[tuple[Genome, Start]]:
    """The second generation and where a run would start it from; the first one is trained."""
    evolution = new_search(config, image_task=worker.bench.has_images, shape=worker.bench.shape)
    while evolution.generation == 0:
        for job in evolution.ask(1):
            print(f"seed {config.evolution.seed}: {job.id}, {len(job.genomes)} genomes", flush=True)
            for result in worker.train(job):
                evolution.tell(result)
    jobs = evolution.ask(config.evolution.population)
    pairs = [pair for job in jobs for pair in zip(job.genomes, job.starts, strict=True)]
    return [(genome, start) for genome, start in pairs if start.kind == "inherit"]


def compare(worker: Worker, pairs: Sequence[tuple[Genome, Start]]) -> list[dict[str, Any]]:
    """Each child with its parent's P1 and, for each arm, its P1 by step."""
    bench = worker.bench
    members = [bench.member(genome, s) for genome, start in pairs for s in (start, Start())]
    curves = iter(train(worker, members))
    rows = []
    for genome, start in pairs:
        known = load_checkpoint(bench.checkpoints, start.checkpoint or "")
        parent = Member(genome, known.lora_cfg, known.weights, known.moments)
        row = {
            "seed": bench.seed,
            "child": genome.id,
            "stage_of_parent": known.stage,
            "parent": skills(worker, bench.pack([parent]))[0],
            "budget": budget(worker),
        }
        rows.append(row | {arm: next(curves) for arm in ARMS})
    return rows


def train(worker: Worker, members: Sequence[Member]) -> list[dict[int, float]]:
    """Train the members together for the full budget; P1 of each by step."""
    bench, config = worker.bench, worker.config
    size, steps = config.training.batch_size, budget(worker)
    print(f"{len(members) // 2} children, each twice, {steps} steps", flush=True)
    chosen = subset(bench.splits.train, 100, bench.seed)
    plan = StageWork(
        batches=batches(chosen, bench.rows.lengths, size, steps, [bench.seed, PURPOSE]),
        examine_at=points(steps),
        index=PURPOSE,
        warmup_epoch=bench.steps_per_epoch,
        last=True,
        patience=None,
    )
    trainer = StageTrainer(bench.ground)
    trainer.train(members, plan, lambda pack: skills(worker, pack), lambda *_: None)
    return [member.skills for member in members]


def budget(worker: Worker) -> int:
    """Steps of naive full training."""
    return math.ceil(worker.config.hyperband.full_epochs * worker.bench.steps_per_epoch)


def points(steps: int) -> list[int]:
    """Steps at which P1 is measured: 0, 4, 5, 6, 8, 10, 12, ... and the last."""
    count = math.ceil(math.log(steps / FIRST, GROWTH))
    return sorted({0, *(round(FIRST * GROWTH**i) for i in range(count)), steps})


def skills(worker: Worker, pack: PackedAdapters) -> list[float]:
    """P1 on all validation rows."""
    bench, batch = worker.bench, worker.config.training.evaluation_batch
    found = bench.validation(100).skill(pack, batch, 100, bench.has_images)
    return [float(value) for value in found]


def steps_to(curve: dict[int, float], target: float) -> float:
    """The first step measured at or above the target; infinite if there is none."""
    return min((step for step, skill in curve.items() if skill >= target), default=math.inf)


def report(children: Sequence[dict[str, Any]], config: Config) -> None:
    for child in children:
        target = child["parent"] - TOLERANCE
        child["steps"] = {arm: steps_to(child[arm], target) for arm in ARMS}
    caps = {child["seed"]: child["budget"] for child in children}
    means = {seed: {arm: mean_steps(children, seed, arm, cap) for arm in ARMS}
             for seed, cap in caps.items()}  # fmt: skip
    ratios = [m["fresh"] / m["inherit"] for m in means.values() if m["inherit"]]
    arms = {arm: summarize(children, arm) for arm in ARMS}
    document = {
        "ratio": spread(ratios) if ratios else None,
        "arms": arms,
        "mean_steps_by_seed": means,
        "tolerance": TOLERANCE,
        "budget_steps": caps,
        "model": config.base_model,
        "rows": config.data.max_rows,
        "machine": describe_machine(),
        "children": [{**child, "steps": plain(child["steps"])} for child in children],
    }
    write_results("warm_start", document, table(document))


def mean_steps(children: Sequence[dict[str, Any]], seed: int, arm: str, cap: int) -> float:
    """Of one seed's children, the budget standing in for those cut off."""
    own = [min(child["steps"][arm], cap) for child in children if child["seed"] == seed]
    return float(np.mean(own))


def summarize(children: Sequence[dict[str, Any]], arm: str) -> dict[str, Any]:
    """All children of an arm; a median is None where half or more were cut off."""
    steps = [child["steps"][arm] for child in children]
    final = [child[arm][max(child[arm])] - child["parent"] for child in children]
    return {
        "median_steps": plain(statistics.median(steps)),
        "reached": sum(map(math.isfinite, steps)),
        "reached_at_step_0": steps.count(0),
        "children": len(steps),
        "median_auroc_over_parent_at_the_end": statistics.median(final),
    }


def table(document: dict[str, Any]) -> list[str]:
    arms, caps = document["arms"], document["budget_steps"]
    lines = [
        f"Steps until a child is as good as its better parent (validation AUROC, {TOLERANCE} "
        f"allowed for); {document['model']}, {arms['fresh']['children']} children of {len(caps)} "
        f"seed(s), at most {max(caps.values())} steps",
        "",
        "| start | median steps | reached | of them at step 0 | AUROC over parent at the end |",
        "|---|---|---|---|---|",
    ]
    for arm, a in arms.items():
        median = "never" if a["median_steps"] is None else f"{a['median_steps']:g}"
        lines.append(
            f"| {arm} | {median} | {a['reached']} of {a['children']} | {a['reached_at_step_0']} | "
            f"{a['median_auroc_over_parent_at_the_end']:+.3f} |"
        )
    lines += ["", "| seed | mean steps, inherit | mean steps, fresh | ratio |", "|---|---|---|---|"]
    for seed, mean in document["mean_steps_by_seed"].items():
        ratio = f"{mean['fresh'] / mean['inherit']:.2f}" if mean["inherit"] else "no step needed"
        lines.append(f"| {seed} | {mean['inherit']:.1f} | {mean['fresh']:.1f} | {ratio} |")
    ratio = document["ratio"]
    if ratio:
        lines += ["", f"- ratio of mean steps, fresh / inherit: {ratio['median']:.2f} "
                  f"({ratio['low']:.2f} to {ratio['high']:.2f} over seeds)"]  # fmt: skip
    return lines


if __name__ == "__main__":
    main()
