"""Other searches on the same recordings, at the same prices, each as its documentation says.

A searcher names the stages it wants to hear of and is charged for what it uses: training of all
stages up to there, and the evaluation of those alone.
"""

from __future__ import annotations

import heapq
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from coralx.objectives import minimised
from coralx.records import GeneValue, Genome, TrainingResult, TrainingStage
from coralx.search import selection
from coralx.search.space import build, ladder, sample
from coralx.search.tiebreak import TIE_BREAKS
from coralx.settings.genes import Choice, Float, Gene, Integer

Losses = Sequence[float]


class Problem(Protocol):
    """What is searched; objectives lie within `bounds` (least, greatest)."""

    @property
    def space(self) -> Mapping[str, Gene]: ...

    @property
    def stages(self) -> tuple[TrainingStage, ...]: ...

    @property
    def objectives(self) -> tuple[str, ...]: ...

    @property
    def bounds(self) -> Mapping[str, tuple[float, float]]: ...

    @property
    def full_from(self) -> int:
        """The first stage whose results can be on a front."""

    def look_up(self, genome: Genome, stage: TrainingStage) -> TrainingResult:
        """As `coralx.executors.replay.Recordings`."""

    def best_known(self) -> list[TrainingResult]:
        """Results whose hypervolume cannot, or hardly, be surpassed."""

    def __hash__(self) -> int: ...


class Searcher(Protocol):
    """Suggests genomes one by one; `rungs` are the indices of the stages it is told of."""

    rungs: tuple[int, ...]

    def suggest(self) -> tuple[Any, Genome]:
        """A trial, under the searcher's own name for it, and its genome."""

    def tell(self, trial: Any, rung: int, losses: Losses | None) -> bool:
        """Whether the trial is to go on to the next rung. `losses` are to be minimised, 0..1
        within the problem's bounds; None if training broke down."""


def simulate(
    problem: Problem, searcher: Searcher, seconds: float, workers: int
) -> tuple[list[tuple[float, TrainingResult]], int]:
    """Results measured in full with the virtual time of each, and all steps trained."""
    found: list[tuple[float, TrainingResult]] = []
    steps = 0
    heap: list[tuple[float, int, int]] = []  # end, number of the trial, place of its rung
    trials: list[tuple[Any, Genome]] = []

    def begin(now: float) -> None:
        trials.append(searcher.suggest())
        go_on(now, len(trials) - 1, 0)

    def go_on(now: float, number: int, place: int) -> None:
        spent = price(problem, searcher.rungs, place, trials[number][1])
        heapq.heappush(heap, (now + spent, number, place))

    for _ in range(workers):
        begin(0.0)
    while heap[0][0] <= seconds:
        now, number, place = heapq.heappop(heap)
        trial, genome = trials[number]
        rung = searcher.rungs[place]
        result = problem.look_up(genome, problem.stages[rung])
        steps += sum(r.cost.steps for r in passed_through(problem, searcher.rungs, place, genome))
        broken = result.stopped is not None
        going = searcher.tell(trial, rung, None if broken else scale(problem, result))
        if rung >= problem.full_from and not broken:
            found.append((now, result))
        if going and not broken and place + 1 < len(searcher.rungs):
            go_on(now, number, place + 1)
        else:
            begin(now)
    return found, steps


def passed_through(
    problem: Problem, rungs: Sequence[int], place: int, genome: Genome
) -> list[TrainingResult]:
    """The results of the stages from the rung before up to this one, or to a breakdown."""
    first = rungs[place - 1] + 1 if place else 0
    found = []
    for stage in problem.stages[first : rungs[place] + 1]:
        found.append(problem.look_up(genome, stage))
        if found[-1].stopped is not None:
            break
    return found


def price(problem: Problem, rungs: Sequence[int], place: int, genome: Genome) -> float:
    """Seconds from one rung to the next: all training, but the last evaluation alone."""
    passed = passed_through(problem, rungs, place, genome)
    return sum(r.cost.train_seconds for r in passed) + passed[-1].cost.eval_seconds


def scale(problem: Problem, result: TrainingResult) -> list[float]:
    losses = selection.objective_matrix([result], problem.objectives)[0]
    least, most = limits(problem)
    return [float(loss) for loss in np.clip((losses - least) / (most - least), 0.0, 1.0)]


def limits(problem: Problem) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The bounds of the objectives as losses: (least, greatest)."""
    pairs = []
    for name in problem.objectives:
        low, high = problem.bounds[name]
        pairs.append((low, high) if minimised(name) else (-high, -low))
    table = np.array(pairs)
    return table[:, 0], table[:, 1]


class RandomSearch:
    """Every genome drawn from the space, all of them trained in full."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self.rungs: tuple[int, ...] = (len(problem.stages) - 1,)
        self._space = problem.space
        self._rng = np.random.default_rng(seed)

    def suggest(self) -> tuple[Any, Genome]:
        return None, sample(self._space, self._rng)

    def tell(self, trial: Any, rung: int, losses: Losses | None) -> bool:
        return True


class Optuna:
    """A sampler of Optuna at its defaults. Its pruners do not serve several objectives
    (`Trial.should_prune`), so every trial is trained in full."""

    def __init__(self, problem: Problem, seed: int, sampler: str) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        samplers = {
            "nsga2": lambda: optuna.samplers.NSGAIISampler(seed=seed),
            "tpe": lambda: optuna.samplers.TPESampler(seed=seed),
        }
        self.rungs: tuple[int, ...] = (len(problem.stages) - 1,)
        self._space = problem.space
        directions = ["minimize"] * len(problem.objectives)
        self._study = optuna.create_study(directions=directions, sampler=samplers[sampler]())
        self._failed = optuna.trial.TrialState.FAIL

    def suggest(self) -> tuple[Any, Genome]:
        trial = self._study.ask()
        drawn = {name: self._draw(trial, name, gene) for name, gene in self._space.items()}
        return trial, build(decode(self._space, drawn))

    def tell(self, trial: Any, rung: int, losses: Losses | None) -> bool:
        if losses is None:
            self._study.tell(trial, state=self._failed)
        else:
            self._study.tell(trial, list(losses))
        return False

    @staticmethod
    def _draw(trial: Any, name: str, gene: Gene) -> Any:
        if isinstance(gene, Float):
            return trial.suggest_float(name, gene.low, gene.high, log=gene.log)
        if isinstance(gene, Integer):
            return trial.suggest_int(name, gene.low, gene.high)
        count = len(options(gene))
        if ladder(gene) is not None:  # numbers: their order is worth knowing
            return trial.suggest_int(name, 0, count - 1)
        return trial.suggest_categorical(name, list(range(count)))


class SyneTune:
    """Syne Tune's multi-objective ASHA, of the stopping kind, at its defaults.

    Its first rung is the second stage: after the first, of a step or a few, a result says next
    to nothing. Rungs are told as 1, 3, 9, ... so that each is one, with the default reduction
    factor of 3. `mended` hands it ranks, by front and crowding: its own `NonDominatedPriority`
    (0.16.0) gives the items' order where a rank of each is read, so that good ones are stopped.
    """

    def __init__(self, problem: Problem, seed: int, mended: bool) -> None:
        from syne_tune import config_space
        from syne_tune.optimizer.schedulers.multiobjective.moasha import MOASHA
        from syne_tune.optimizer.schedulers.multiobjective.multiobjective_priority import MOPriority

        class Ranks(MOPriority):  # type: ignore[misc]
            def priority_unsafe(self, objectives: NDArray[np.float64]) -> NDArray[np.int64]:
                front = selection.ranks(objectives)
                apart = TIE_BREAKS["crowding"](objectives, front, len(front))
                return np.argsort(np.lexsort((-apart, front)), kind="stable")

        def domain(gene: Gene) -> Any:
            if isinstance(gene, Float):
                draw = config_space.loguniform if gene.log else config_space.uniform
                return draw(gene.low, gene.high)
            if isinstance(gene, Integer):
                return config_space.randint(gene.low, gene.high)
            return config_space.choice(list(range(len(options(gene)))))

        np.random.seed(seed)  # what it samples from
        self.rungs = tuple(range(1, len(problem.stages)))
        self._names = [f"loss{place}" for place in range(len(problem.objectives))]
        self._space = problem.space
        self._scheduler = MOASHA(
            config_space={name: domain(gene) for name, gene in problem.space.items()},
            metrics=self._names,
            time_attr="rung",
            max_t=3 ** (len(self.rungs) - 1),
            multiobjective_priority=Ranks() if mended else None,
            random_seed=seed,
        )
        self._begun = 0

    def suggest(self) -> tuple[Any, Genome]:
        from syne_tune.backend.trial_status import Trial

        drawn = self._scheduler.suggest().config
        trial = Trial(self._begun, drawn, datetime.min)
        self._begun += 1
        self._scheduler.on_trial_add(trial)
        return trial, build(decode(self._space, drawn))

    def tell(self, trial: Any, rung: int, losses: Losses | None) -> bool:
        if losses is None:
            self._scheduler.on_trial_error(trial)
            return False
        told = dict(zip(self._names, losses, strict=True)) | {"rung": 3 ** (rung - 1)}
        goes_on = bool(self._scheduler.on_trial_result(trial, told) == "CONTINUE")
        if not goes_on:
            self._scheduler.on_trial_remove(trial)
        return goes_on


def options(gene: Choice) -> Sequence[GeneValue]:
    return ladder(gene) or gene.values


def decode(space: Mapping[str, Gene], drawn: Mapping[str, Any]) -> dict[str, GeneValue]:
    """Genes of what a searcher drew: choices are drawn by their number."""
    return {
        name: options(gene)[drawn[name]] if isinstance(gene, Choice) else drawn[name]
        for name, gene in space.items()
    }


SEARCHERS: dict[str, Callable[[Problem, int], Searcher]] = {
    "random": RandomSearch,
    "optuna-nsga2": lambda problem, seed: Optuna(problem, seed, "nsga2"),
    "optuna-tpe": lambda problem, seed: Optuna(problem, seed, "tpe"),
    "syne-tune-moasha": lambda problem, seed: SyneTune(problem, seed, mended=False),
    "syne-tune-moasha-mended": lambda problem, seed: SyneTune(problem, seed, mended=True),
}
