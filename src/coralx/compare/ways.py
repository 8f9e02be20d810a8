"""The ways to train the same genomes: by CoralX, naively in full, and not at all.

The real ones use one worker, the same rows and objectives; each chooses its front on validation
rows and is reported on test rows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from coralx.compare.simulation import simulate
from coralx.config import Config
from coralx.errors import ExtinctError
from coralx.loop import run
from coralx.objectives import loss
from coralx.records import Cost, Genome, TrainingResult
from coralx.runs.watcher import Watcher
from coralx.search import selection
from coralx.search.evolution import new_search
from coralx.store import History, Store
from coralx.wording import duration

if TYPE_CHECKING:
    from coralx.train.naive import NaiveResult
    from coralx.train.worker import Worker


class Side(TypedDict):
    """What one way of training came to.

    `front` holds the results that nothing dominates on validation rows, with their objectives on
    test rows; `best` is the test AUROC of the one with the best validation AUROC. A side that was
    interrupted has neither: its `front` is empty and `best` is NaN.
    """

    seconds: float
    steps: int
    tokens: int
    computed_tokens: int
    genomes: list[Genome]
    front: list[TrainingResult]
    best: float


def run_coralx(
    config: Config,
    worker: Worker,
    folder: Path,
    watcher: Watcher,
    genomes: Sequence[Genome] | None = None,
) -> Side:
    """Evolve as `coralx run` does, journal included, then measure the front on test rows.

    Args:
        folder: for the journal; new or empty.
        genomes: those of generation 0; drawn from the space if None.

    Raises:
        ExtinctError: no genome is left, or those that are were scored by text alone although rows
            have pictures: no adapters come of them.
    """
    from coralx.executors.local import LocalExecutor

    bench = worker.bench
    evolution = new_search(config, genomes, bench.has_images, bench.shape)
    store = Store(folder / "journal")
    watcher.begin(evolution)
    began = time.perf_counter()
    try:
        executor = LocalExecutor(worker, watcher.observe)
        front = run(evolution, executor, store, History(config, {}))
    finally:
        store.close()
    seconds = time.perf_counter() - began
    if any(config.hyperband.is_proxy(r.stage_index, bench.has_images) for r in front):
        raise ExtinctError(
            f"no genome passed a stage after {front[0].stage}, which scores by text alone "
            "(hyperband.cross_modal_proxy): no adapters come of that"
        )
    watcher.say(f"measuring the front of {len(front)} on the test rows")
    met = {result.genome.id: result.genome for result in evolution.results}
    side = _side(seconds, met.values(), [result.cost for result in evolution.results])
    side["front"], side["best"] = measure_front(worker, front)
    skill = f"test AUROC {side['best']:.3f}"
    watcher.say(f"hyperband: {duration(seconds)}, {len(front)} on the front, {skill}")
    return side


def measure_front(
    worker: Worker, front: Sequence[TrainingResult]
) -> tuple[list[TrainingResult], float]:
    """The results with their objectives on test rows, and the test AUROC of the one with the best
    validation AUROC."""
    found = {result.genome.id: worker.test(result).objectives for result in front}
    tested = [
        r.model_copy(update={"objectives": {n: i.value for n, i in found[r.genome.id].items()}})
        for r in front
    ]
    return tested, found[_most_skilled(front)]["task_skill"].value


def run_naive(
    config: Config,
    worker: Worker,
    genomes: Sequence[Genome],
    watcher: Watcher,
    tell: Callable[[NaiveResult], None] = lambda _: None,
) -> Side:
    """Train every genome in full, one after another, then measure the front on test rows.

    Args:
        tell: told each genome's result as soon as it is there.
    """
    from coralx.train.naive import NaiveTrainer

    trainer = NaiveTrainer(worker.bench, config.hyperband.full_epochs)
    worker.bench.validation(100)
    worker.bench.test()
    results: list[NaiveResult] = []
    for place, genome in enumerate(genomes, start=1):
        head = f"naive {place}/{len(genomes)}"

        def observe(step: int, steps: int, head: str = head) -> None:
            watcher.show(f"{head}: step {step:,}/{steps:,}")

        results.append(trainer.train(genome, observe))
        tell(results[-1])
        skill = results[-1].validation["task_skill"]
        seconds = naive_side(genomes, results[-1:])["seconds"]  # as the table counts them
        watcher.say(f"{head}: {duration(seconds)}, validation AUROC {skill:.3f}")
    pairs = zip(genomes, results, strict=True)
    judged = [as_result("naive", genome, result.validation) for genome, result in pairs]
    front = selection.front(judged, config.objectives)
    tested = {r.genome.id: trainer.test(r.genome) for r in front}
    side = naive_side(genomes, results)
    side["front"] = [as_result("naive", r.genome, tested[r.genome.id]) for r in front]
    side["best"] = tested[_most_skilled(front)]["task_skill"]
    return side


def naive_side(genomes: Sequence[Genome], results: Sequence[NaiveResult]) -> Side:
    """What naive training of the genomes that have results cost, as yet without test figures."""
    seconds = sum(r.train_seconds + r.eval_seconds for r in results)
    return _side(seconds, genomes[: len(results)], results)


def run_simulation(config: Config, genomes: Sequence[Genome], names: Sequence[str]) -> Side:
    """What the instant heuristic says; its figures stand for nothing."""
    began = time.perf_counter()
    seed = config.evolution.seed
    results = [as_result("simulation", g, simulate(g, names, seed)) for g in genomes]
    seconds = time.perf_counter() - began
    side = _side(seconds, genomes, [])
    side["front"] = selection.front(results, config.objectives)
    side["best"] = max(result.objectives["task_skill"] for result in results)
    return side


def as_result(way: str, genome: Genome, objectives: Mapping[str, float]) -> TrainingResult:
    """What a genome came to by a way of training, as selection takes it: as if of one stage."""
    return TrainingResult(
        job=way,
        genome=genome,
        generation=genome.generation,
        stage=way,
        stage_index=0,
        lora_cfg=genome.lora_cfg,
        objectives=dict(objectives),
    )


def _side(seconds: float, genomes: Iterable[Genome], spent: Sequence[Cost | NaiveResult]) -> Side:
    """What was spent on the genomes, as yet without a front."""
    return Side(
        seconds=seconds,
        steps=sum(each.steps for each in spent),
        tokens=sum(each.tokens for each in spent),
        computed_tokens=sum(each.computed_tokens for each in spent),
        genomes=list(genomes),
        front=[],
        best=math.nan,
    )


def _most_skilled(results: Sequence[TrainingResult]) -> str:
    """Genome id of the best P1; one that is no number is the worst."""
    return min(results, key=lambda r: loss("task_skill", r.objectives["task_skill"])).genome.id
