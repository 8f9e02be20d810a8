"""What CoralX costs beside training: search and journal per genome, and their share of a run.

    python benchmarks/overhead.py            # about five minutes on 2 idle cores
    python benchmarks/overhead.py --quick    # a minute; printed, not recorded

First the real loop, search and journal (each record forced to disk) with an executor that makes
results up at once: six objectives, three generations, the default stages; what making them up
takes is left out. Then real runs of one generation, and the time that no genome's training or
evaluation accounts for. Goals: 1 ms a genome; 3% of a run. Writes results/overhead.json and .md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from results import between, describe_machine, spread, table, write_results

from coralx.config import Config, load_config
from coralx.executors.local import LocalExecutor
from coralx.loop import Executor, run
from coralx.objectives import OBJECTIVES
from coralx.records import Cost, CurvePoint, Genome, Job, ModelShape, TrainingResult
from coralx.runs.retention import Retention
from coralx.search import selection
from coralx.search.asktell import Search
from coralx.search.evolution import Evolution
from coralx.store import History, Store, Value
from coralx.train.worker import Worker

POPULATIONS = (8, 32, 128)
QUICK = Path(__file__).parents[1] / "configs" / "quick.yaml"
GOAL_MS, GOAL_SHARE = 1.0, 0.03
CURVE_POINTS, DETAILS = 24, 40  # about as many as a real result holds
PARTS = ("ask", "judge", "tell", "journal")
SHAPE = ModelShape(layers=6, hidden=384, intermediate=1536, vocab=30_522)


class Stopwatch:
    """Seconds by name. What is called from within something timed counts as that."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._running = False

    @contextmanager
    def at(self, name: str) -> Iterator[None]:
        if self._running:
            yield
            return
        self._running, began = True, time.perf_counter()
        try:
            yield
        finally:
            self._running = False
            self.seconds[name] += time.perf_counter() - began


class TimedEvolution(Evolution):
    """Evolution with its share of the time; selection and breeding happen in `tell`."""

    def __init__(
        self, watch: Stopwatch, config: Config, images: bool, shape: ModelShape | None
    ) -> None:
        self._watch = watch
        super().__init__(config, image_task=images, shape=shape)

    def ask(self, slots: int) -> list[Job]:
        with self._watch.at("ask"):
            return super().ask(slots)

    def judge(self, result: TrainingResult) -> TrainingResult | None:
        with self._watch.at("judge"):
            return super().judge(result)

    def tell(self, result: TrainingResult) -> TrainingResult | None:
        with self._watch.at("tell"):
            return super().tell(result)


class TimedStore(Store):
    """A journal with its share of the time."""

    def __init__(self, watch: Stopwatch, directory: Path) -> None:
        self._watch = watch
        super().__init__(directory)

    def append(self, kind: str, value: Value) -> None:
        with self._watch.at("journal"):
            super().append(kind, value)


class InventingExecutor:
    """Answers jobs at once with made-up results of a real result's size."""

    slots = 1

    def __init__(self) -> None:
        self._waiting: deque[Job] = deque()

    def submit(self, job: Job) -> bool:
        if job in self._waiting:
            return False
        self._waiting.append(job)
        return True

    def completed(self) -> Iterable[Sequence[TrainingResult]]:
        while self._waiting:
            job = self._waiting.popleft()
            pairs = zip(job.genomes, job.starts, strict=True)
            yield [invent(job, genome, start.grow_to) for genome, start in pairs]


def invent(job: Job, genome: Genome, rank: int | None) -> TrainingResult:
    rng = np.random.default_rng([zlib.crc32(genome.id.encode()), job.stage_index])
    lora = genome.lora_cfg.model_copy(update={"r": rank or genome.lora_cfg.r})
    return TrainingResult(
        job=job.id,
        genome=genome,
        generation=job.generation,
        stage=job.stage.name,
        stage_index=job.stage_index,
        lora_cfg=lora,
        objectives={name: 0.6 + 0.4 * float(rng.random()) for name in OBJECTIVES},
        details={f"figure/{i}": float(rng.random()) for i in range(DETAILS)},
        checkpoint=f"{genome.id}/{job.stage.name}",
        curve=tuple(
            CurvePoint(step=i, loss=float(rng.random()), auroc=0.7) for i in range(CURVE_POINTS)
        ),
        cost=Cost(steps=100, planned_steps=100, tokens=10_000, computed_tokens=11_000),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few repeats, a short real run")
    parser.add_argument("--config", default=None, help="of the real run; the default job without")
    parser.add_argument("--repeats", type=int, default=None, help="of real runs; 2, quick: 1")
    arguments = parser.parse_args()
    repeats = 2 if arguments.quick else 7
    search = [measure_search(population, repeats) for population in POPULATIONS]
    config = load_config(arguments.config or (QUICK if arguments.quick else None))
    one = {"evolution": config.evolution.model_copy(update={"generations": 1})}
    runs = arguments.repeats or (1 if arguments.quick else 2)
    real = [measure_run(config.model_copy(update=one)) for _ in range(runs)]
    write(search, real, keep=not arguments.quick)


def measure_search(population: int, repeats: int, generations: int = 3) -> dict[str, Any]:
    """Milliseconds per genome of the loop with a real journal and made-up results."""
    config = load_config({"evolution": {"population": population, "generations": generations}})
    found: dict[str, list[float]] = defaultdict(list)
    for repeat in range(repeats + 1):
        watch = Stopwatch()
        evolution = TimedEvolution(watch, config, True, SHAPE)
        with tempfile.TemporaryDirectory() as folder:
            evolve(evolution, InventingExecutor(), watch, config, Path(folder))
        genomes = len({result.genome.id for result in evolution.results})
        if repeat == 0:  # loads pymoo and moocore
            continue
        for name in PARTS:
            found[name].append(1e3 * watch.seconds[name] / genomes)
        found["all"].append(sum(found[name][-1] for name in PARTS))
        tie_break = config.evolution.tie_break
        began = time.perf_counter()
        selection.survive(evolution.results, population, config.objectives, tie_break)
        found["survival"].append(1e3 * (time.perf_counter() - began) / genomes)
    return {
        "population": population,
        "genomes": genomes,
        "results": len(evolution.results),
        "ms_per_genome": {name: spread(values) for name, values in found.items()},
    }


def measure_run(config: Config) -> dict[str, Any]:
    """Where the seconds of a real run go, from the first job to the last result; loading and the
    final figures are left out."""
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(config, Path(folder) / "checkpoints", print)
        bench, watch = worker.bench, Stopwatch()
        evolution = TimedEvolution(watch, config, bench.has_images, bench.shape)
        retention = Retention(bench.checkpoints, config.storage.checkpoints_gb)
        executor = LocalExecutor(worker)
        whole = evolve(evolution, executor, watch, config, Path(folder), retention.tidy)
    costs = [result.cost for result in evolution.results]
    training = sum(cost.train_seconds for cost in costs)
    evaluation = sum(cost.eval_seconds for cost in costs)
    search, journal = sum(watch.seconds[name] for name in PARTS[:-1]), watch.seconds["journal"]
    return {
        "genomes": len({result.genome.id for result in evolution.results}),
        "seconds": whole,
        "training": training,
        "evaluation": evaluation,
        "search": search,
        "journal": journal,
        "rest": whole - training - evaluation - search - journal,
        "share_outside": (whole - training - evaluation) / whole,
    }


def evolve(
    evolution: TimedEvolution,
    executor: Executor,
    watch: Stopwatch,
    config: Config,
    folder: Path,
    tidy: Callable[[Search], None] = lambda _: None,
) -> float:
    """The main loop to its end; seconds."""
    store = TimedStore(watch, folder)
    began = time.perf_counter()
    try:
        run(evolution, executor, store, History(config, {}), tidy)
    finally:
        store.close()
    return time.perf_counter() - began


def write(search: Sequence[dict[str, Any]], real: Sequence[dict[str, Any]], keep: bool) -> None:
    per_genome = [line["ms_per_genome"] for line in search]
    shares = spread([line["share_outside"] for line in real])
    names = ("seconds", "training", "evaluation", "search", "journal", "rest")
    lines = [
        f"Milliseconds per genome, six objectives, three generations; goal {GOAL_MS:g} in all. "
        "`tell` holds promotion, survival and breeding; `survival` is one selection among all "
        "results, on its own.",
        "",
        *table(
            ("population", "genomes", "results", "all", *PARTS, "survival"),
            [
                (line["population"], line["genomes"], line["results"], *cells_of(found))
                for line, found in zip(search, per_genome, strict=True)
            ],
        ),
        "",
        f"Real runs of one generation, seconds; outside training and evaluation: "
        f"{between({k: 100 * v for k, v in shares.items()}, 2)}%, goal {100 * GOAL_SHARE:g}%. "
        "`rest` is checkpoints, packing up and what else there is.",
        "",
        *table(
            ("genomes", *names, "outside"),
            [
                (
                    line["genomes"],
                    *(f"{line[name]:.2f}" for name in names),
                    f"{100 * line['share_outside']:.2f}%",
                )
                for line in real
            ],
        ),
    ]
    document = {
        "machine": describe_machine(),
        "ms_per_genome": {line["population"]: line["ms_per_genome"]["all"] for line in search},
        "share_outside": shares,
        "search": list(search),
        "runs": list(real),
    }
    write_results("overhead", document, lines, keep)


def cells_of(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    parts = [f"{found[name]['median']:.3f}" for name in (*PARTS, "survival")]
    return [between(found["all"], 2), *parts]


if __name__ == "__main__":
    main()
