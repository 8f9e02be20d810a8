"""What every search is to the main loop: ask, tell; and the memory that all kinds share."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence

from numpy.random import Generator

from coralx.config import Config
from coralx.errors import CoralXError
from coralx.records import Generation, Genome, Job, ModelShape, TrainingResult, TrainingStage
from coralx.search import breeding, gates, selection, space
from coralx.search.jobs import measured_in_full, plan_jobs
from coralx.search.running_front import RunningFront

# By gate: of what, and what to do where it has stopped everyone.
_DIVERGED = "loss and gradients", "loosen the gates or lower the learning rates of the space"
CURES = {
    "non_finite": _DIVERGED,
    "gradient_norm": _DIVERGED,
    "loss_rising": _DIVERGED,
    "auroc": (
        "AUROC",
        "give the stage more rows or epochs (data_percentage, epoch_budget), raise the learning "
        "rates, or set its min_auroc lower or to null",
    ),
    "out_of_memory": (
        "memory",
        "lower training.batch_size, data.max_tokens or the largest rank of the space",
    ),
}


class Search(ABC):
    """A state machine: a deterministic function of its settings and the results told so far.

    `ask` says what to train now, `tell` takes what came of it. `generation` is the newest one
    begun and `stage_index` the stage at work or last told.

    `population` are genomes to begin with instead of drawn ones; later generations are as large.
    `image_task` says that rows have images, `shape` bounds packs by memory.

    Raises:
        ConfigError: the space cannot fill the population, or a genome that would breed lies
            outside the space.
        CoralXError: the population given is empty or names one genome twice.
    """

    def __init__(
        self,
        config: Config,
        population: Sequence[Genome] | None = None,
        image_task: bool = False,
        shape: ModelShape | None = None,
    ) -> None:
        self.generation = 0
        self.stage_index = 0
        self.results: list[TrainingResult] = []  # all told, gates applied, as they arrived
        self._config = config
        self._image_task = image_task
        self._shape = shape
        self._stages = config.hyperband.stages
        self._past: dict[str, list[TrainingResult]] = {}  # by genome id, in order of stage
        self._seen: set[space.Key] = set()  # genes of all genomes
        self._open: dict[str, Job] = {}  # jobs not fully told, in the order they were given
        self._awaited: dict[tuple[str, int], str] = {}  # genome id and stage -> its open job
        self._parents: list[TrainingResult] = []  # best results of those who survived, best first
        self._closed: list[Generation] = []
        self._bounds: selection.Bounds = {}
        self._front = RunningFront(
            config.objectives, measured_in_full(config, image_task), self._is_measured
        )
        founders = _check_given(config, population) if population is not None else None
        self._founders = founders or breeding.draw_founders(config.space, config.evolution)
        self._size = len(self._founders)
        self._begin()

    @abstractmethod
    def _begin(self) -> None:
        """Get ready to be asked for the founders."""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether there is nothing left to train."""

    @property
    def closed(self) -> Sequence[Generation]:
        """The generations that are over."""
        return self._closed

    @property
    def stage(self) -> TrainingStage:
        """The stage at work or last told."""
        return self._stages[self.stage_index]

    def ask(self, slots: int) -> list[Job]:
        """The first `slots` jobs that are not fully told, running ones included.

        Idempotent: the same jobs with the same ids until results are told. A job of which only
        some genomes are told stays whole, so that what is trained again is trained alike.
        """
        return list(itertools.islice(self._open.values(), max(slots, 0)))

    @abstractmethod
    def tell(self, result: TrainingResult) -> TrainingResult | None:
        """Take a result: apply the stage's gates and, if the time has come, move on.

        Returns:
            The result as kept, `stopped` set if a gate stopped it; None if told before: ignored.

        Raises:
            CoralXError: the result is not one that was asked for.
            ExtinctError: no genome is left that could go on or breed.
        """

    def recall(self, job: Job) -> None:  # noqa: B027 - where results alone decide
        """Learn that a job was given before a stop: each at its place among the results told."""

    def judge(self, result: TrainingResult) -> TrainingResult | None:
        """The result as `tell` would keep it; nothing changes. For what must be written down
        before it is acted on.

        Raises:
            CoralXError: the result is not one that was asked for.
        """
        past = self._past.get(result.genome.id, ())
        if any(result.stage == known.stage for known in past):
            return None
        self._check_asked(result)
        stage = self._config.hyperband.stages[result.stage_index]
        return result.model_copy(update={"stopped": gates.check(stage, result)})

    def references(self) -> set[str]:
        """The checkpoints that there is a reason to keep: an open job starts from it; a genome that
        may yet go on, survive or breed left it last; it is on the front, which is measured and
        exported at the end.
        """
        starts = (start for job in self._open.values() for start in job.starts)
        kept = [r for r in (*self._needed(), *self._front.points()) if r.stopped is None]
        names = [name for start in starts for name in start.sources]
        return {*names, *(r.checkpoint for r in kept if r.checkpoint)}

    def front(self) -> list[TrainingResult]:
        """The results that nothing dominates among those measured in full; until there are any, at
        the highest stage that a genome passed and that measures all objectives. In order of genome
        id."""
        return self._front.members()

    @abstractmethod
    def _check_asked(self, result: TrainingResult) -> None:
        """Raise a CoralXError if the result is not one that was asked for."""

    @abstractmethod
    def _needed(self) -> Iterable[TrainingResult]:
        """The results whose genomes may yet go on, survive or breed, stopped ones among them."""

    def _admit(self, genomes: Iterable[Genome]) -> None:
        for genome in genomes:
            self._past[genome.id] = []
            self._seen.add(space.key(genome))

    def _plan_jobs(self, generation: int, stage: int, genomes: Sequence[Genome]) -> tuple[Job, ...]:
        images, shape = self._image_task, self._shape
        return plan_jobs(self._config, generation, stage, genomes, self._past, images, shape)

    def _give(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self._open[job.id] = job
            self._awaited |= {(genome.id, job.stage_index): job.id for genome in job.genomes}

    def _keep(self, result: TrainingResult) -> None:
        name = result.genome.id
        self._past[name].append(result)
        self.results.append(result)
        self._front.add(result)
        job = self._open.get(self._awaited.pop((name, result.stage_index), ""))
        if job and not any((g.id, job.stage_index) in self._awaited for g in job.genomes):
            del self._open[job.id]

    def _is_measured(self, result: TrainingResult) -> bool:
        return self._config.measures_all(self._stages[result.stage_index])

    def _last_of(self, genomes: Iterable[str]) -> list[TrainingResult]:
        return [self._past[name][-1] for name in genomes if self._past[name]]

    def _promote(self, entered: Sequence[TrainingResult], count: int) -> list[TrainingResult]:
        settings = self._config.evolution
        return selection.promote(
            entered, count, self._config.objectives, settings.promote_by, settings.tie_break
        )

    def _breed(
        self, parents: Sequence[Genome], count: int, generation: int, chance: Generator
    ) -> tuple[Genome, ...]:
        config = self._config
        return breeding.breed(
            config.space, config.evolution, parents, count, self._seen, generation, chance
        )

    def _survive(self, candidates: Iterable[TrainingResult]) -> list[TrainingResult]:
        tie_break = self._config.evolution.tie_break
        return selection.survive(candidates, self._size, self._config.objectives, tie_break)

    def _close(self, candidates: Sequence[TrainingResult]) -> None:
        """End the oldest open generation: of its candidates the fittest are the next parents."""
        self._parents = self._survive(candidates)
        self._closed.append(self._record(candidates, self._parents))

    def _record(
        self, candidates: Sequence[TrainingResult], survivors: Sequence[TrainingResult]
    ) -> Generation:
        """What is recorded of the oldest open generation if it closes with these candidates and
        survivors."""
        names, front = self._config.objectives, self.front()
        if not self._bounds:  # those of the first generation, so that hypervolumes compare
            self._bounds = selection.observed_bounds(self.results, names)
        passed = [result for result in candidates if result.stopped is None]
        genomes = [result.genome for result in survivors]
        return Generation(
            index=len(self._closed),
            population=tuple(genome.id for genome in genomes),
            front=tuple(result.genome.id for result in front),
            front_stages=tuple(result.stage for result in front),
            hypervolume=selection.hypervolume(front, names, self._bounds),
            diversity=space.diversity(self._config.space, genomes),
            first_front_share=len(selection.front(passed, names)) / max(1, len(passed)),
        )

    def _refuse(self, result: TrainingResult, awaited: str) -> CoralXError:
        return CoralXError(
            f"a result must be one that was asked for, got genome {result.genome.id} in stage "
            f"{result.stage} of generation {result.generation} while {awaited}; the journal was "
            "changed, or written by another version: restore it, or go on with that version"
        )


def explain_extinction(stage: TrainingStage, last: Iterable[TrainingResult]) -> str:
    """Why nobody is left after a stage: what to do, and the reason of each genome."""
    known = sorted(last, key=lambda r: r.genome.id)
    lines = [f"  - {r.genome.id}: {r.stopped.reason}" for r in known if r.stopped]
    gates = {result.stopped.gate for result in known if result.stopped}
    cures = dict.fromkeys(CURES[gate] for gate in CURES if gate in gates)
    several = len(cures) > 1
    advice = "; ".join(f"for {what}: {cure}" if several else cure for what, cure in cures)
    return (
        f"{stage.name}: no genome passed its gates, so nothing is left to train; {advice}\n"
        + "\n".join(lines)
    )


def _check_given(config: Config, population: Sequence[Genome]) -> tuple[Genome, ...]:
    ids = [genome.id for genome in population]
    twice = sorted(name for name, times in Counter(ids).items() if times > 1)
    if not ids or twice:
        found = f"{', '.join(twice)} more than once" if twice else "no genome"
        raise CoralXError(
            f"a population needs genomes with different ids, got {found}; "
            "genomes with equal genes and lineage have equal ids, give them ids or train them once"
        )
    if config.evolution.generations > 1:
        for genome in population:
            space.check(config.space, genome)
    return tuple(population)
