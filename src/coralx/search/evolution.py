"""Evolution: generations of genomes through stages of growing budget, by ask and tell.

A generation enters the first stage. Once every genome of a stage is told, the best go on to the
next stage; after the last one the generation closes: NSGA-II survival over parents and children
decides who breeds, and their children enter the first stage.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence

from coralx.config import Config
from coralx.errors import CoralXError, ExtinctError
from coralx.records import Generation, Genome, Job, TrainingResult, TrainingStage
from coralx.search import breeding, budget, gates, selection, space
from coralx.search.jobs import plan_jobs
from coralx.search.packing import ModelShape


class Evolution:
    """A state machine: a deterministic function of its settings and the results told so far.

    `ask` says what to train now, `tell` takes what came of it. Promotion waits for the whole
    stage, so within a stage the order of arrival makes no difference; telling a journal's results
    again leads to the same state.

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
        self.finished = False
        self.alive: tuple[Genome, ...] = ()  # the genomes of the current stage
        self.results: list[TrainingResult] = []  # all told, gates applied, as they arrived
        self.closed: list[Generation] = []
        self._config = config
        self._image_task = image_task
        self._shape = shape
        self._stages = config.hyperband.stages
        self._past: dict[str, list[TrainingResult]] = {}  # by genome id, in order of stage
        self._parents: list[TrainingResult] = []  # best results of those who survived, best first
        self._bounds: selection.Bounds = {}
        founders = _check_given(config, population) if population is not None else None
        founders = founders or breeding.found(config.space, config.evolution)
        self._size = len(founders)
        self._enter_generation(founders)

    @property
    def stage(self) -> TrainingStage:
        """The current stage; the last one trained once evolution is finished."""
        return self._stages[self.stage_index]

    def ask(self, slots: int) -> list[Job]:
        """The first `slots` jobs of the stage that are not fully told, running ones included.

        Idempotent: the same jobs with the same ids until results are told. A job of which only
        some genomes are told stays whole, so that what is trained again is trained alike.
        """
        waiting = (job for job in self._jobs if not all(map(self._is_told, job.genomes)))
        return list(itertools.islice(waiting, max(slots, 0)))

    def tell(self, result: TrainingResult) -> TrainingResult | None:
        """Take a result: apply the stage's gates and, if it is the last one awaited, move on.

        Returns:
            The result as kept, `stopped` set if a gate stopped it; None if told before: ignored.

        Raises:
            CoralXError: the result is not one that was asked for.
            ExtinctError: no genome of the first generation passed the stage.
        """
        kept = self.judge(result)
        if kept is None:
            return None
        self._past[kept.genome.id].append(kept)
        self.results.append(kept)
        if all(map(self._is_told, self.alive)):
            self._leave_stage()
        return kept

    def judge(self, result: TrainingResult) -> TrainingResult | None:
        """The result as `tell` would keep it; nothing changes. For what must be written down
        before it is acted on.

        Raises:
            CoralXError: the result is not one that was asked for.
        """
        past = self._past.get(result.genome.id, [])
        if any(result.stage == known.stage for known in past):
            return None
        self._check_asked(result)
        return result.model_copy(update={"stopped": gates.check(self.stage, result)})

    def references(self) -> Counter[str]:
        """How many reasons there are to keep each checkpoint; one without any is not in it.

        They are: a job of the stage that is not done starts from it; a genome of this generation
        left it last, so it may go on, survive or breed; a survivor that may breed left it; it is
        on the front, which is measured and exported at the end. A genome that falls out of all of
        these never comes back: survivors come of survivors and the newly trained, and what
        dominates stays.
        """
        jobs = (job for job in self._jobs if not all(map(self._is_told, job.genomes)))
        starts = (start.checkpoint for job in jobs for start in job.starts)
        last = [self._past[genome.id][-1] for genome in self._born if self._past[genome.id]]
        kept = [r for r in (*last, *self._parents, *self.front()) if r.stopped is None]
        return Counter(name for name in (*starts, *(r.checkpoint for r in kept)) if name)

    def front(self) -> list[TrainingResult]:
        """The results that nothing dominates, at the highest stage any genome passed; best
        first."""
        return selection.front(self.results, self._config.objectives)

    def funnel(self) -> list[dict[str, int]]:
        """For each generation, how many genomes trained in each stage."""
        funnel = [{stage.name: 0 for stage in self._stages} for _ in range(self.generation + 1)]
        for result in self.results:
            funnel[result.generation][result.stage] += 1
        return funnel

    def _enter_generation(self, genomes: tuple[Genome, ...]) -> None:
        self._past.update({genome.id: [] for genome in genomes})
        self._born = genomes
        self._enter_stage(0, genomes)

    def _enter_stage(self, index: int, genomes: tuple[Genome, ...]) -> None:
        self.stage_index, self.alive = index, genomes
        self._jobs = plan_jobs(
            self._config,
            self.generation,
            index,
            genomes,
            self._past,
            self._image_task,
            self._shape,
        )

    def _leave_stage(self) -> None:
        """Promote the best to the next stage, or close the generation if there is none to go to
        or nobody to go."""
        entered = [self._past[genome.id][-1] for genome in self.alive]
        count = budget.survivors(len(entered), self.stage.survival_rate)
        settings = self._config
        promoted = selection.promote(
            entered, count, settings.objectives, settings.evolution.promote_by
        )
        if not promoted and not self._parents:
            self._finish()
            raise ExtinctError(_explain_extinction(self.stage, self._last_of(self._born)))
        if promoted and self.stage_index + 1 < len(self._stages):
            self._enter_stage(self.stage_index + 1, tuple(r.genome for r in promoted))
        else:
            self._close_generation()

    def _close_generation(self) -> None:
        """Keep the fittest of parents and children; parents are not trained again."""
        candidates = [*self._parents, *self._last_of(self._born)]
        self._parents = selection.survive(candidates, self._size, self._config.objectives)
        self.closed.append(self._record(candidates))
        children = self._breed() if self._has_next() else ()
        if children:
            self.generation += 1
            self._enter_generation(children)
        else:
            self._finish()

    def _breed(self) -> tuple[Genome, ...]:
        return breeding.breed(
            self._config.space,
            self._config.evolution,
            [result.genome for result in self._parents],
            self._size,
            (past[0].genome for past in self._past.values()),
            self.generation + 1,
        )

    def _record(self, candidates: Sequence[TrainingResult]) -> Generation:
        names, front = self._config.objectives, self.front()
        # Bounds stay those of the first generation, so that hypervolumes compare between them.
        self._bounds = self._bounds or selection.observed_bounds(self.results, names)
        survivors = tuple(result.genome for result in self._parents)
        passed = [result for result in candidates if result.stopped is None]
        return Generation(
            index=self.generation,
            population=tuple(genome.id for genome in survivors),
            front=tuple(result.genome.id for result in front),
            hypervolume=selection.hypervolume(front, names, self._bounds),
            diversity=space.diversity(self._config.space, survivors),
            first_front_share=len(selection.front(passed, names)) / len(passed),
        )

    def _finish(self) -> None:
        self.finished, self.alive, self._jobs = True, (), ()

    def _has_next(self) -> bool:
        return self.generation + 1 < self._config.evolution.generations

    def _last_of(self, genomes: Iterable[Genome]) -> list[TrainingResult]:
        return [self._past[genome.id][-1] for genome in genomes]

    def _is_told(self, genome: Genome) -> bool:
        return len(self._past[genome.id]) > self.stage_index

    def _check_asked(self, result: TrainingResult) -> None:
        alive = any(genome.id == result.genome.id for genome in self.alive)
        place = (result.generation, result.stage, result.stage_index)
        if not alive or place != (self.generation, self.stage.name, self.stage_index):
            raise CoralXError(
                f"a result must be one that was asked for, got genome {result.genome.id} in stage "
                f"{result.stage} of generation {result.generation} while {self.stage.name} of "
                f"generation {self.generation} is training; was the journal written with other "
                "settings? Resume with its own config.yaml"
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


def _explain_extinction(stage: TrainingStage, last: Iterable[TrainingResult]) -> str:
    lines = [
        f"  - {r.genome.id}: "
        + (f"{r.stopped.reason}" if r.stopped else f"passed {r.stage} but was not promoted")
        for r in sorted(last, key=lambda r: r.genome.id)
    ]
    return (
        f"{stage.name}: no genome passed its gates, so nothing is left to train; "
        "loosen the gates or lower the learning rates of the space\n" + "\n".join(lines)
    )
