"""The same genomes simulated, trained in full one by one, and trained by CoralX, in one run.

Both real sides use one machine, one process, the same rows and objectives. Loading is left out on
both; CoralX pays for its frozen prefix and for all of its evaluations, naive for one evaluation of
each adapter. Each side chooses on validation rows and is reported on test rows.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coralx.compare.simulation import NOTE
from coralx.compare.ways import Side, naive_side, run_coralx, run_naive, run_simulation
from coralx.config import Config
from coralx.durable import temporary_folder
from coralx.errors import ExtinctError
from coralx.json_values import plain
from coralx.models import check_layers
from coralx.records import Genome
from coralx.runs.facts import run_facts, warn_of_rows
from coralx.runs.watcher import Watcher
from coralx.search import budget, selection
from coralx.search.breeding import draw_founders
from coralx.steps import trained_steps, whole_steps
from coralx.wording import duration, plural

if TYPE_CHECKING:
    from coralx.train.naive import NaiveResult
    from coralx.train.workbench import Workbench
    from coralx.train.worker import Worker

MODES = ("simulation", "naive", "hyperband")
PACE_STEPS = 6  # of naive training, from which its length is forecast


class Comparison:
    """Grows while it is measured: what it holds at any moment was measured in full.

    Args:
        config: with the genomes' number as `evolution.population`; see `small_version`.
        genomes: to compare the three ways by.
    """

    def __init__(self, config: Config, genomes: Sequence[Genome]) -> None:
        self.config, self.genomes = config, tuple(genomes)
        self.sides: dict[str, Side] = {}
        self.extinct: str | None = None  # why no adapter comes of CoralX, where none does
        self._naive: list[NaiveResult] = []

    def measure(self, watcher: Watcher) -> None:
        """Simulate, train by CoralX, then naively; each side is kept once it is done. Where no
        adapter comes of CoralX, that is said and its side is absent.

        Raises:
            ConfigError, DataError, ModelError: what the configuration names cannot be used.
        """
        from coralx.train.worker import Worker

        with temporary_folder("coralx-") as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of transformers, about peft's calls
            worker = Worker(self.config, folder / "checkpoints", watcher.say)
            depth = worker.bench.backbone.depth
            check_layers(self.config.base_model, self.config.space, depth)
            worker.bench.check_objectives()
            warn_of_rows(run_facts(self.config, worker), self.config, watcher.say)
            names = self.config.measurable(worker.bench.splits.measures_pictures)
            self.sides["simulation"] = run_simulation(self.config, self.genomes, names)
            watcher.say(NOTE)
            with worker.at_work():
                watcher.say(forecast(self.config, worker, self.genomes[0]))
                self._run_coralx(worker, folder, watcher)
                self.sides["naive"] = run_naive(
                    self.config, worker, self.genomes, watcher, self._keep_naive
                )

    @property
    def complete(self) -> bool:
        """Whether every side is there and every genome was trained naively."""
        return all(mode in self.sides for mode in MODES) and bool(self.sides["naive"]["front"])

    def document(self) -> dict[str, Any]:
        """What was measured, as plain JSON values; null where something was not.

        `speedup` is naive seconds / the line's own. Hypervolumes are over the objectives that
        every real result has, under bounds that real results alone set. `left_out` names the
        others: a user's own, which naive training does not measure. `extinct` says why there is no
        hyperband, where no adapter comes of it.
        """
        real = [r for mode in MODES[1:] if mode in self.sides for r in self.sides[mode]["front"]]
        names = [n for n in self.config.objectives if real and all(n in r.objectives for r in real)]
        left_out = [
            n
            for n in self.config.objectives
            if n not in names and any(n in r.objectives for r in real)
        ]
        bounds = selection.observed_bounds(real, names)
        document = {
            "base_model": self.config.base_model,
            "seed": self.config.evolution.seed,
            "genomes": [genome.id for genome in self.genomes],
            "objectives": names,
            "left_out": left_out,
            "complete": self.complete,
            "extinct": self.extinct,
            "modes": [self._line(mode, names, bounds) for mode in MODES if mode in self.sides],
        }
        return {name: plain(value) for name, value in document.items()}

    def _run_coralx(self, worker: Worker, folder: Path, watcher: Watcher) -> None:
        try:
            self.sides["hyperband"] = run_coralx(self.config, worker, folder, watcher, self.genomes)
        except ExtinctError as error:
            self.extinct = str(error)
            watcher.say(f"hyperband: {self.extinct}")

    def _line(
        self, mode: str, names: Sequence[str], bounds: Mapping[str, tuple[float, float]]
    ) -> dict[str, Any]:
        """One mode's part of the document; its hypervolume is over `names` under `bounds`."""
        side = self.sides[mode]
        measured = bool(names and side["front"])
        volume = selection.hypervolume(side["front"], names, bounds) if measured else None
        return {
            "mode": mode,
            "real_gradients": mode != "simulation",
            "genomes": len(side["genomes"]),
            "seconds": side["seconds"],
            "speedup": self.sides["naive"]["seconds"] / side["seconds"] if self.complete else None,
            "steps": side["steps"],
            "tokens": side["tokens"],
            "computed_tokens": side["computed_tokens"],
            "front": len(side["front"]),
            "test_auroc_best": side["best"],
            "test_hypervolume": volume,
            "note": NOTE if mode == "simulation" else None,
        }

    def _keep_naive(self, result: NaiveResult) -> None:
        self._naive.append(result)
        self.sides["naive"] = naive_side(self.genomes, self._naive)


def small_version(config: Config, count: int, rows: int) -> tuple[Config, tuple[Genome, ...]]:
    """The first `count` genomes of the configuration's generation 0, with a configuration of one
    generation of them on at most `rows` rows of each split.

    A `count` above the population draws as large a generation 0.

    Raises:
        ConfigError: the space holds fewer genomes.
    """
    evolution = config.evolution
    size = max(count, evolution.population)
    drawn = evolution.model_copy(update={"generations": 1, "population": size})
    genomes = draw_founders(config.space, drawn)[:count]
    most = min(config.data.max_rows or rows, rows)
    sections = {
        "evolution": drawn.model_copy(update={"population": count}),
        "data": config.data.model_copy(update={"max_rows": most}),
        # The sides are timed one after another, each with all cores.
        "training": config.training.model_copy(update={"workers": 1}),
    }
    return config.model_copy(update=sections), genomes


def forecast(config: Config, worker: Worker, genome: Genome) -> str:
    """What the real sides will take: steps by plan, and seconds at the pace of a few naive steps
    taken now, where there are enough to tell it from."""
    bench, epochs = worker.bench, config.hyperband.full_epochs
    each = whole_steps(epochs * bench.steps_per_epoch)
    naive, staged = config.evolution.population * each, _staged_steps(config, bench)
    said = (
        f"{plural(config.evolution.population, 'genome')}, {len(bench.rows):,} training rows: "
        f"{naive:,} naive steps, at most about {staged:,} through the stages, none in simulation"
    )
    if each <= PACE_STEPS:
        return said
    seconds = _measure_pace(bench, genome, epochs) * (naive + staged)
    return f"{said}; about {duration(seconds)} on this machine, and what evaluation takes"


def _staged_steps(config: Config, bench: Workbench) -> int:
    """Steps of all genomes through the stages, each genome's rounded up in each stage as training
    does. More may be trained where budgets adapt or no genome waits for the others."""
    from coralx.train.data import subset

    genomes, total = config.evolution.population, 0
    for stage in config.hyperband.stages:
        rows = len(subset(bench.splits.train, stage.data_percentage, bench.seed))
        total += genomes * trained_steps(stage, rows, config.training.batch_size)
        genomes = budget.survivors(genomes, stage.survival_rate)
    return total


def _measure_pace(bench: Workbench, genome: Genome, epochs: float) -> float:
    """Seconds of a naive step."""
    from coralx.train.naive import NaiveRun

    marks: list[float] = []
    run = NaiveRun(bench, genome, epochs)
    run.train_to(PACE_STEPS / bench.steps_per_epoch, lambda *_: marks.append(time.perf_counter()))
    return float(np.median(np.diff(marks)))
