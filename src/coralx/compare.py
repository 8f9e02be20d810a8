"""The same genomes simulated, trained in full one by one, and trained by CoralX, in one run.

Both real sides use one machine, one process, the same rows and objectives. Loading is left out on
both; CoralX pays for its frozen prefix and for all of its evaluations, naive for one evaluation of
each adapter. Each side chooses on validation rows and is reported on test rows.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from coralx.config import Config
from coralx.loop import run
from coralx.records import Genome, TrainingResult
from coralx.report.wording import duration, plural
from coralx.runs import Watcher
from coralx.search import budget, selection
from coralx.search.breeding import found
from coralx.search.evolution import new_search
from coralx.simulation import NOTE, simulate
from coralx.store import History, Store

if TYPE_CHECKING:
    from coralx.train.naive import NaiveResult, NaiveTrainer
    from coralx.train.worker import Worker

MODES = ("simulation", "naive", "hyperband")
PACE_STEPS = 6  # of naive training, from which its length is forecast


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


class Printer(Watcher):
    """Says what goes on, on standard output."""

    def say(self, message: str) -> None:
        print(message, flush=True)


PRINTER = Printer()


def run_coralx(
    config: Config,
    worker: Worker,
    folder: Path,
    watcher: Watcher = PRINTER,
    genomes: Sequence[Genome] | None = None,
) -> Side:
    """Evolve as `coralx run` does, journal included, then measure the front on test rows.

    Args:
        folder: for the journal; new or empty.
        genomes: those of generation 0; drawn from the space if None.
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
    watcher.say(f"measuring the front of {len(front)} on the test rows")
    tests = {result.genome.id: worker.test(result).objectives for result in front}
    tested = {name: {n: i.value for n, i in values.items()} for name, values in tests.items()}
    costs = [result.cost for result in evolution.results]
    side = Side(
        seconds=seconds,
        steps=sum(cost.steps for cost in costs),
        tokens=sum(cost.tokens for cost in costs),
        computed_tokens=sum(cost.computed_tokens for cost in costs),
        genomes=list({r.genome.id: r.genome for r in evolution.results}.values()),
        front=[r.model_copy(update={"objectives": tested[r.genome.id]}) for r in front],
        best=tested[_most_skilled(front)]["task_skill"],
    )
    size = len(side["front"])
    watcher.say(f"hyperband: {duration(seconds)}, {size} on the front, AUROC {side['best']:.3f}")
    return side


def run_naive(
    config: Config,
    worker: Worker,
    genomes: Sequence[Genome],
    watcher: Watcher = PRINTER,
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
        skill, seconds = results[-1].validation["task_skill"], results[-1].train_seconds
        watcher.say(f"{head}: {duration(seconds)}, validation AUROC {skill:.3f}")
    pairs = zip(genomes, results, strict=True)
    judged = [naive_as_result(genome, result.validation) for genome, result in pairs]
    front = selection.front(judged, config.objectives)
    tested = {r.genome.id: trainer.test(r.genome) for r in front}
    side = naive_side(genomes, results)
    side["front"] = [naive_as_result(r.genome, tested[r.genome.id]) for r in front]
    side["best"] = tested[_most_skilled(front)]["task_skill"]
    return side


def naive_side(genomes: Sequence[Genome], results: Sequence[NaiveResult]) -> Side:
    """What naive training of the genomes that have results cost, as yet without test figures."""
    return Side(
        seconds=sum(r.train_seconds + r.eval_seconds for r in results),
        steps=sum(r.steps for r in results),
        tokens=sum(r.tokens for r in results),
        computed_tokens=sum(r.computed_tokens for r in results),
        genomes=list(genomes[: len(results)]),
        front=[],
        best=math.nan,
    )


class Comparison:
    """Grows while it is measured: what it holds at any moment was measured in full.

    Args:
        config: with the genomes' number as `evolution.population`; see `small_version`.
        genomes: to compare the three ways by.
    """

    def __init__(self, config: Config, genomes: Sequence[Genome]) -> None:
        self.config, self.genomes = config, tuple(genomes)
        self.sides: dict[str, Side] = {}
        self._naive: list[NaiveResult] = []

    def measure(self, watcher: Watcher) -> None:
        """Simulate, train by CoralX, then naively; each side is kept once it is done.

        Raises:
            ConfigError, DataError, ModelError: what the configuration names cannot be used.
            ExtinctError: CoralX stopped every genome.
        """
        from coralx.train.worker import Worker

        with tempfile.TemporaryDirectory(prefix="coralx-") as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of transformers, about peft's calls
            worker = Worker(self.config, Path(folder) / "checkpoints", watcher.say)
            names = _measured_names(self.config, worker.bench.has_images)
            self.sides["simulation"] = run_simulation(self.config, self.genomes, names)
            watcher.say(NOTE)
            watcher.say(forecast(self.config, worker, self.genomes[0]))
            self.sides["hyperband"] = run_coralx(
                self.config, worker, Path(folder), watcher, self.genomes
            )
            self.sides["naive"] = run_naive(
                self.config, worker, self.genomes, watcher, self._keep_naive
            )

    @property
    def complete(self) -> bool:
        """Whether every side is there and every genome was trained naively."""
        return "naive" in self.sides and bool(self.sides["naive"]["front"])

    def document(self) -> dict[str, Any]:
        """What was measured, as plain JSON values; null where something was not.

        `speedup` is naive seconds / the line's own. Hypervolumes are over the objectives that
        every real result has, under bounds that real results alone set.
        """
        real = [r for mode in MODES[1:] if mode in self.sides for r in self.sides[mode]["front"]]
        names = [n for n in self.config.objectives if real and all(n in r.objectives for r in real)]
        bounds = selection.observed_bounds(real, names)
        lines = []
        for mode in (mode for mode in MODES if mode in self.sides):
            side = self.sides[mode]
            measured = bool(names and side["front"])
            volume = selection.hypervolume(side["front"], names, bounds) if measured else math.nan
            faster = self.sides["naive"]["seconds"] / side["seconds"] if self.complete else None
            lines.append(
                {
                    "mode": mode,
                    "real_gradients": mode != "simulation",
                    "genomes": len(side["genomes"]),
                    "seconds": side["seconds"],
                    "speedup": faster,
                    "steps": side["steps"],
                    "tokens": side["tokens"],
                    "computed_tokens": side["computed_tokens"],
                    "front": len(side["front"]),
                    "test_auroc_best": _finite(side["best"]),
                    "test_hypervolume": _finite(volume),
                    "note": NOTE if mode == "simulation" else None,
                }
            )
        return {
            "base_model": self.config.base_model,
            "seed": self.config.evolution.seed,
            "genomes": [genome.id for genome in self.genomes],
            "objectives": names,
            "complete": self.complete,
            "modes": lines,
        }

    def _keep_naive(self, result: NaiveResult) -> None:
        self._naive.append(result)
        self.sides["naive"] = naive_side(self.genomes, self._naive)


def small_version(
    config: Config, count: int, rows: int, seed: int | None = None
) -> tuple[Config, tuple[Genome, ...]]:
    """The first `count` genomes of the configuration's generation 0, with a configuration of one
    generation of them on at most `rows` rows of each split.

    A `count` above the population draws as large a generation 0.

    Raises:
        ConfigError: the space holds fewer genomes.
    """
    evolution = config.evolution
    wanted = {"seed": evolution.seed if seed is None else seed, "generations": 1}
    drawn = evolution.model_copy(update={**wanted, "population": max(count, evolution.population)})
    genomes = found(config.space, drawn)[:count]
    most = min(config.data.max_rows or rows, rows)
    sections = {
        "evolution": drawn.model_copy(update={"population": count}),
        "data": config.data.model_copy(update={"max_rows": most}),
    }
    return config.model_copy(update=sections), genomes


def run_simulation(config: Config, genomes: Sequence[Genome], names: Sequence[str]) -> Side:
    """What the instant heuristic says; its figures stand for nothing."""
    began = time.perf_counter()
    results = simulate(genomes, names, config.evolution.seed)
    seconds = time.perf_counter() - began
    best = max(results, key=lambda r: r.objectives["task_skill"])
    return Side(
        seconds=seconds,
        steps=0,
        tokens=0,
        computed_tokens=0,
        genomes=list(genomes),
        front=selection.front(results, config.objectives),
        best=best.objectives["task_skill"],
    )


def forecast(config: Config, worker: Worker, genome: Genome) -> str:
    """What the real sides will take: steps by plan, and seconds at the pace of a few naive steps
    taken now, where there are enough to tell it from."""
    from coralx.train.naive import NaiveTrainer

    hyperband, population = config.hyperband, config.evolution.population
    epoch, epochs = worker.bench.steps_per_epoch, hyperband.full_epochs
    plan = budget.plan(hyperband.stages, population, epoch, epochs)
    said = (
        f"{plural(population, 'genome')}, {len(worker.bench.rows):,} training rows: "
        f"{math.ceil(plan.naive_steps):,} naive steps, at most about "
        f"{math.ceil(plan.hyperband_steps):,} through the stages, none in simulation"
    )
    if math.ceil(epochs * epoch) <= PACE_STEPS:
        return said
    pace = _measure_pace(NaiveTrainer(worker.bench, epochs), genome)
    seconds = pace * (plan.naive_steps + plan.hyperband_steps)
    return f"{said}; about {duration(seconds)} on this machine, and what evaluation takes"


class _Enough(Exception):
    """The few steps wanted are taken."""


def _measure_pace(trainer: NaiveTrainer, genome: Genome) -> float:
    """Seconds of a step."""
    marks: list[float] = []

    def mark(_step: int, _steps: int) -> None:
        marks.append(time.perf_counter())
        if len(marks) == PACE_STEPS:
            raise _Enough

    with contextlib.suppress(_Enough):
        trainer.train(genome, mark)
    return float(np.median(np.diff(marks)))


def _measured_names(config: Config, images: bool) -> list[str]:
    """The objectives that the configuration's rows allow to measure; P1 always."""
    absent = set()
    if not images:
        absent.add("cross_modal_gain")
    if not config.training.attack_rows:
        absent.add("safety")
    return [n for n in dict.fromkeys(("task_skill", *config.objectives)) if n not in absent]


def _most_skilled(results: Sequence[TrainingResult]) -> str:
    """Genome id of the best P1; one that is no number is the worst."""

    def skill(result: TrainingResult) -> float:
        value = result.objectives["task_skill"]
        return value if math.isfinite(value) else -math.inf

    return max(results, key=skill).genome.id


def naive_as_result(genome: Genome, objectives: Mapping[str, float]) -> TrainingResult:
    """Objectives of a naively trained genome as selection takes them."""
    return TrainingResult(
        job="naive",
        genome=genome,
        generation=genome.generation,
        stage="naive",
        stage_index=0,
        lora_cfg=genome.lora_cfg,
        objectives=dict(objectives),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
