"""Asynchronous successive halving (ASHA; Li et al. 2020, arXiv:1810.05934), with breeding.

Whenever a worker is free, the best genome that is due goes on, from the highest rung; where none
is due a new genome begins: the founders first, then children of the best so far. Nobody waits for
stragglers. A rung is a stage of one generation: genomes are compared with those born with them, so
that each generation, as in synchronous halving, sends its share on, whatever later ones achieve.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from coralx.errors import ExtinctError
from coralx.records import Generation, Genome, Job, TrainingResult
from coralx.search import breeding, budget
from coralx.search.asktell import Search, explain_extinction

# What is large is ranked anew only when one part in this many has been told since, so that ten
# thousand genomes are not ranked ten thousand times.
PARTS = 16


class Rung(NamedTuple):
    """A stage of one generation."""

    stage: int
    generation: int


class AsynchronousEvolution(Search):
    """Rungs without waiting.

    What is told is a function of the results in their order; which jobs are given depends on the
    jobs given before, too, and on what was told by then. So a replay is exact that recalls each job
    where it was given; without them jobs that were under way may be given in other packs, and
    nothing told is lost.

    A generation closes with the first result of a later one, the last with the end: `closed` says
    what was known by then. `generation` is the newest one told.
    """

    def _begin(self) -> None:
        self._told: dict[Rung, list[TrainingResult]] = defaultdict(list)
        self._entered: dict[Rung, dict[str, None]] = defaultdict(dict)  # genomes, told or awaited
        self._due: dict[Rung, list[Genome]] = {}  # who goes on from a rung, best first
        self._changed: set[Rung] = set()  # rungs told since they were looked through
        self._ranked: Counter[Rung] = Counter()  # how many of each rung were ranked last
        self._filling = 0  # the oldest generation that has room
        self._running: set[int] = set()  # generations from which somebody may yet go on
        self._under_way: Counter[int] = Counter()  # open jobs of each generation
        self._recent: dict[str, None] = {}  # genomes told since a generation closed
        self._passing = 0  # genomes that passed the last stage they were told in
        self._extinct = False
        self._unborn = {genome.id: genome for genome in self._founders}
        self._next: tuple[Job | None] | None = None  # known until something changes
        self._pool: list[TrainingResult] = []  # who may breed, as of the last whole part told
        self._breeders: list[TrainingResult] | None = None  # the best of the pool, once known

    @property
    def finished(self) -> bool:
        return not self._open and self._next_job() is None

    @property
    def closed(self) -> Sequence[Generation]:
        if self._extinct or not self.results or not self.finished:
            return self._closed
        candidates = self._candidates()
        return [*self._closed, self._record(candidates, self._survive(candidates))]

    def ask(self, slots: int) -> list[Job]:
        while len(self._open) < slots and (job := self._next_job()):
            self._give([job])
        return super().ask(slots)

    def tell(self, result: TrainingResult) -> TrainingResult | None:
        kept = self.judge(result)
        if kept is None:
            return None
        while len(self._closed) < kept.generation:
            self._close_generation()
        name, rung = kept.genome.id, Rung(kept.stage_index, kept.generation)
        if name not in self._entered[rung]:
            self._enter(rung, [kept.genome])
        came_here = bool(self._past[name])  # so it passed the stage before
        self._passing += (kept.stopped is None) - came_here
        under_way = len(self._open)
        self._keep(kept)
        self._under_way[kept.generation] -= under_way - len(self._open)
        self._told[rung].append(kept)
        self._recent[name] = None
        self._changed.add(rung)
        self._running.add(kept.generation)
        self._next = None
        if len(self.results) % max(1, self._size // PARTS) == 0:
            self._pool, self._breeders = self._candidates(), None
        self.stage_index, self.generation = kept.stage_index, max(self.generation, kept.generation)
        self._check_extinct()
        return kept

    def recall(self, job: Job) -> None:
        if job.id in self._open:  # given again by a later sitting
            return
        self._next_job()  # notes who is due together with it, as when it was given
        self._give([job])

    def _give(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self._enter(Rung(job.stage_index, job.generation), job.genomes)
            super()._give([job])
            self._under_way[job.generation] += 1
            self._next = None

    def _enter(self, rung: Rung, genomes: Sequence[Genome]) -> None:
        self._admit(genome for genome in genomes if genome.id not in self._past)
        for genome in genomes:
            self._unborn.pop(genome.id, None)
        entered = self._entered[rung]
        entered |= {genome.id: None for genome in genomes}
        below = Rung(rung.stage - 1, rung.generation)
        if left := [genome for genome in self._due.pop(below, ()) if genome.id not in entered]:
            self._due[below] = left

    def _next_job(self) -> Job | None:
        if self._next is None:
            self._next = (None if self._extinct else self._find_job(),)
        return self._next[0]

    def _find_job(self) -> Job | None:
        """Of those due, from the highest rung and there from the oldest generation; else new ones;
        last, those of generations that could not be filled."""
        for rung in self._changed:
            count = _ranked_now(len(self._told[rung]))
            if count != self._ranked[rung]:
                self._look_through(rung, count)
        self._changed.clear()
        if self._due or self._call_last(self._size):
            return self._continue_best()
        job = self._begin_new()
        if job is None and self._call_last(0):
            return self._continue_best()
        return job

    def _continue_best(self) -> Job:
        rung = max(self._due, key=lambda rung: (rung.stage, -rung.generation))
        return self._plan(Rung(rung.stage + 1, rung.generation), self._due[rung])

    def _begin_new(self) -> Job | None:
        evolution = self._config.evolution
        while len(self._entered[Rung(0, self._filling)]) >= self._size:
            self._filling += 1
        generation = self._filling
        if generation >= evolution.generations:
            return None
        room = self._size - len(self._entered[Rung(0, generation)])
        count = min(room, self._config.training.pack_size)
        if generation:
            chance = breeding.stream(evolution.seed, len(self._past), breeding.Purpose.ARRIVE)
            new = self._breed(self._choose_parents(), count, generation, chance)
        else:
            new = tuple(itertools.islice(self._unborn.values(), count))
        return self._plan(Rung(0, generation), new) if new else None

    def _plan(self, rung: Rung, genomes: Sequence[Genome]) -> Job:
        """The largest pack that begins with the first of the genomes."""
        genomes = genomes[: self._config.training.pack_size]
        while True:
            job, *others = self._plan_jobs(rung.generation, rung.stage, genomes)
            if not others:
                name = f"g{rung.generation}-{job.stage.name}-{job.genomes[0].id}"
                return job.model_copy(update={"id": name})
            genomes = genomes[:-1]

    def _look_through(self, rung: Rung, count: int, least: int = 0) -> None:
        """Note who goes on from a rung by the first `count` results told there."""
        self._ranked[rung] = count
        self._due.pop(rung, None)
        if due := self._find_due(rung, count, least):
            self._due[rung] = due

    def _find_due(self, rung: Rung, count: int, least: int = 0) -> list[Genome]:
        """Those in the top share of the first `count` told at a rung, `least` at least, while
        together with those that went before they are no more."""
        if rung.stage + 1 == len(self._stages):
            return []
        told = self._told[rung][:count]
        places = budget.share_of(len(told), self._stages[rung.stage].survival_rate)
        places = max(places, least)
        beyond = self._entered[Rung(rung.stage + 1, rung.generation)]
        if len(beyond) >= places:
            return []
        best = (result.genome for result in self._promote(told, places))
        due = [genome for genome in best if genome.id not in beyond]
        return due[: places - len(beyond)]

    def _call_last(self, size: int) -> bool:
        """Whether somebody goes on in generations that are whole (`size` genomes or more have
        begun) and at rest: by a rank among all told, and from its highest rung at least one."""
        for generation in sorted(self._running):
            if not self._is_quiet(generation, size):
                continue
            for rung, count, least in self._last_looks(generation):
                self._look_through(rung, count, least)
                if rung in self._due:
                    return True
            self._running.discard(generation)
        return False

    def _is_quiet(self, generation: int, size: int) -> bool:
        begun = len(self._entered[Rung(0, generation)])
        return begun >= size and not self._under_way[generation]

    def _last_looks(self, generation: int) -> list[tuple[Rung, int, int]]:
        """Rungs, how many are told there and how many go on at least; the highest first."""
        rungs = [Rung(stage, generation) for stage in reversed(range(len(self._stages)))]
        told = [rung for rung in rungs if self._told[rung]]
        return [(rung, len(self._told[rung]), int(rung == told[0])) for rung in told]

    def _is_over(self, generation: int) -> bool:
        """Whether nobody goes on from a whole generation any more. It changes nothing, so that what
        is needed follows from what was told and not from when somebody looked."""
        return self._is_quiet(generation, self._size) and not any(
            self._find_due(*look) for look in self._last_looks(generation)
        )

    def _candidates(self) -> list[TrainingResult]:
        return [*self._parents, *self._last_of(self._recent)]

    def _choose_parents(self) -> list[Genome]:
        """The best of the pool, best first, but for those that a gate has stopped since."""
        if self._breeders is None:
            self._breeders = self._survive(self._pool)
        genomes = (result.genome for result in self._breeders)
        return [genome for genome in genomes if self._past[genome.id][-1].stopped is None]

    def _close_generation(self) -> None:
        self._close(self._candidates())
        self._recent = {}
        self._pool = self._breeders = self._parents

    def _check_extinct(self) -> None:
        """A founder that is still training may yet pass, whatever newcomers came to."""
        if not self._passing and all(self._past.get(genome.id) for genome in self._founders):
            self._extinct = True
            self._open.clear()
            self._awaited.clear()
            raise ExtinctError(explain_extinction(self.stage, self._last_of(self._past)))

    def _needed(self) -> Iterable[TrainingResult]:
        """Once a generation is at rest nobody goes on from it, so that only survivors stay."""
        running = [generation for generation in self._running if not self._is_over(generation)]
        members = (self._entered[Rung(0, generation)] for generation in running)
        going = (result for names in members for result in self._last_of(names))
        return [*going, *self._candidates()]

    def _check_asked(self, result: TrainingResult) -> None:
        index = result.stage_index
        job = self._awaited.get((result.genome.id, index))
        named = 0 <= index < len(self._stages) and self._stages[index].name == result.stage
        if job is not None:
            fits = self._open[job].generation == result.generation
        else:
            fits = self._may_replay(result)
        if not (named and fits):
            raise self._refuse(result, f"{len(self._open)} other jobs are under way")

    def _may_replay(self, result: TrainingResult) -> bool:
        """Whether a result can be of a job that was not recalled."""
        genome, past = result.genome, self._past.get(result.genome.id)
        if past is None:
            known = all(parent in self._past for parent in genome.parents)
            begun = 0 <= result.generation < self._config.evolution.generations
            in_place = (genome.id in self._unborn) is (result.generation == 0)
            return result.stage_index == 0 and in_place and known and begun
        if not past or past[-1].stopped is not None:
            return False
        return past[-1].stage_index + 1 == result.stage_index and (
            past[-1].generation == result.generation
        )


def _ranked_now(told: int) -> int:
    """How many of those told at a rung are ranked: all up to 2 x PARTS, then in whole parts."""
    part = 1 << max(0, told.bit_length() - (2 * PARTS).bit_length() + 1)
    return told - told % part
