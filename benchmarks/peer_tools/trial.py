"""What all peers share: the trial that a user would write with PEFT, and the clock.

A trial is one PEFT adapter trained the Hugging Face way (`coralx.train.naive`). Its budget is
counted in units of 1/27 of full training, so rungs three times as long as the one before end in
full training.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from coralx.config import Config
from coralx.records import GeneValue, Genome
from coralx.search import space
from coralx.settings.genes import Choice, Gene
from coralx.train.naive import NaiveRun
from coralx.train.workbench import Workbench

ETA = 3
FULL = 27
RUNGS = (1, 3, 9, FULL)


class OutOfTime(Exception):
    """The peer has used up its time."""


class Book:
    """A peer's clock, and what it could hand over when.

    Args:
        limit: seconds until the peer is out of time.
        clock: must agree between processes.
    """

    def __init__(self, limit: float, clock: Callable[[], float] = time.time) -> None:
        self.limit, self.points = limit, list[dict[str, Any]]()
        self.began = clock()
        self._clock, self._discounted = clock, 0.0

    @property
    def seconds(self) -> float:
        return self._clock() - self.began - self._discounted

    def check(self) -> None:
        """Raises OutOfTime."""
        if self.seconds > self.limit:
            raise OutOfTime

    def discount(self, seconds: float) -> None:
        """Take off the clock what the peer did not ask for."""
        self._discounted += seconds

    def record(self, trial: int, budget: int, objectives: Mapping[str, float]) -> None:
        """From now on the peer could hand this adapter over."""
        point = {"trial": trial, "budget": budget, "objectives": dict(objectives)}
        self.points.append({"seconds": self.seconds, **point})


class Trial:
    """One adapter in training; `check` is called after every step."""

    def __init__(
        self, bench: Workbench, genome: Genome, check: Callable[[], None] = lambda: None
    ) -> None:
        self._epochs = bench.config.hyperband.full_epochs
        self._run = NaiveRun(bench, genome, self._epochs)
        self._rows = bench.validation(100)
        self._check = check

    def train_to(self, budget: int) -> None:
        self._run.train_to(self._epochs * budget / FULL, lambda _step, _steps: self._check())

    def skill(self) -> float:
        """Validation AUROC."""
        return self._run.skill(self._rows)

    def objectives(self) -> dict[str, float]:
        """Every objective, on the validation rows."""
        return self._run.measure(self._rows)


@dataclass(frozen=True)
class Task:
    """One peer's search for one seed, in this process. `names` are the objectives that the rows
    allow to measure."""

    config: Config
    bench: Workbench
    names: tuple[str, ...]
    book: Book

    @property
    def seed(self) -> int:
        return self.config.evolution.seed

    def begin(self, genome: Genome) -> Trial:
        """Raises OutOfTime, as its methods do."""
        self.book.check()
        return Trial(self.bench, genome, self.book.check)

    def skill_at(self, number: int, trial: Trial, budget: int) -> float:
        """Train up to the budget and measure the AUROC; the rest of the objectives, which only
        the benchmark asks for, is measured off the clock."""
        trial.train_to(budget)
        skill = trial.skill()
        began = time.time()
        objectives = trial.objectives()
        self.book.discount(time.time() - began)
        self.book.record(number, budget, objectives)
        return skill

    def objectives_at(self, number: int, trial: Trial, budget: int) -> dict[str, float]:
        """Train up to the budget and measure every objective."""
        trial.train_to(budget)
        objectives = trial.objectives()
        self.book.record(number, budget, objectives)
        return objectives


def labels(gene: Choice) -> dict[str, GeneValue]:
    """The values of a choice under names: not every tool takes lists as values."""
    return {
        "+".join(value) if isinstance(value, tuple) else str(value): value for value in gene.values
    }


def decode(genes: Mapping[str, Gene], picked: Mapping[str, Any]) -> Genome:
    """The genome that a tool picked, choices by their names."""
    values = {
        name: labels(gene)[picked[name]] if isinstance(gene, Choice) else picked[name]
        for name, gene in genes.items()
    }
    return space.build(values)
