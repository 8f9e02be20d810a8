"""Evolution: generations of genomes through stages of growing budget, by ask and tell.

A generation enters the first stage. Once every genome of a stage is told, the best go on to the
next stage; after the last one the generation closes: NSGA-II survival over parents and children
decides who breeds, and their children enter the first stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from coralx.config import Config
from coralx.errors import ExtinctError
from coralx.records import Genome, ModelShape, TrainingResult
from coralx.search import breeding, budget, space
from coralx.search.asktell import Search, explain_extinction
from coralx.search.asynchronous import AsynchronousEvolution


def new_search(
    config: Config,
    population: Sequence[Genome] | None = None,
    image_task: bool = False,
    shape: ModelShape | None = None,
) -> Search:
    """The search that `hyperband.promotion` names, at its beginning; see `Search`."""
    kinds = {"halving": Evolution, "asha": AsynchronousEvolution}
    return kinds[config.hyperband.promotion](config, population, image_task, shape)


class Evolution(Search):
    """Successive halving: promotion waits for the whole stage, so within a stage the order of
    arrival makes no difference; telling a journal's results again leads to the same state."""

    alive: tuple[Genome, ...]  # the genomes of the current stage; nobody at the end

    def _begin(self) -> None:
        self._enter_generation(self._founders)

    @property
    def finished(self) -> bool:
        return not self.alive

    def tell(self, result: TrainingResult) -> TrainingResult | None:
        kept = self.judge(result)
        if kept is None:
            return None
        self._keep(kept)
        if not self._awaited:
            self._leave_stage()
        return kept

    def _needed(self) -> Iterable[TrainingResult]:
        """A genome that leaves these never returns: survivors are chosen only among earlier
        survivors and the newly trained, and what dominates one stays."""
        return [*self._last_of(self._born), *self._parents]

    def _enter_generation(self, genomes: tuple[Genome, ...]) -> None:
        self._admit(genomes)
        self._born = [genome.id for genome in genomes]
        if self._config.hyperband.adaptive_budgets:
            diversity = space.relative_diversity(self._config.space, genomes)
            stages = self._config.hyperband.stages
            self._stages = budget.adapt(stages, len(genomes), diversity)
        self._enter_stage(0, genomes)

    def _enter_stage(self, index: int, genomes: tuple[Genome, ...]) -> None:
        self.stage_index, self.alive = index, genomes
        jobs = self._plan_jobs(self.generation, index, genomes)
        self._give(job.model_copy(update={"stage": self.stage}) for job in jobs)

    def _leave_stage(self) -> None:
        """Promote the best to the next stage, or close the generation if there is none to go to
        or nobody to go. Whoever passed an earlier stage can still breed."""
        entered = self._last_of(genome.id for genome in self.alive)
        count = budget.survivors(len(entered), self.stage.survival_rate)
        promoted = self._promote(entered, count)
        born = self._last_of(self._born)
        if not self._parents and all(result.stopped for result in born):
            self.alive = ()
            raise ExtinctError(explain_extinction(self.stage, born))
        if promoted and self.stage_index + 1 < len(self._stages):
            going = self._exploit([result.genome for result in promoted])
            self._enter_stage(self.stage_index + 1, going)
        else:
            self._close_generation()

    def _exploit(self, ranked: Sequence[Genome]) -> tuple[Genome, ...]:
        going = breeding.exploit(
            self._config.space,
            self._config.evolution,
            ranked,
            self._seen,
            self.generation,
            self.stage_index,
        )
        copies = [genome for genome in going if genome.id not in self._past]
        self._admit(copies)
        self._born += [genome.id for genome in copies]
        return going

    def _close_generation(self) -> None:
        """Keep the fittest of parents and children; parents are not trained again."""
        self._close([*self._parents, *self._last_of(self._born)])
        if children := self._next_generation():
            self.generation += 1
            self._enter_generation(children)
        else:
            self.alive = ()

    def _next_generation(self) -> tuple[Genome, ...]:
        """Nobody after the last generation, and where the space is used up."""
        index, settings = self.generation + 1, self._config.evolution
        if index == settings.generations:
            return ()
        chance = breeding.stream(settings.seed, index, breeding.Purpose.BREED)
        parents = [result.genome for result in self._parents]
        return self._breed(parents, self._size, index, chance)

    def _check_asked(self, result: TrainingResult) -> None:
        place = (result.generation, result.stage, result.stage_index)
        here = (self.generation, self.stage.name, self.stage_index)
        if (result.genome.id, self.stage_index) not in self._awaited or place != here:
            awaited = f"{self.stage.name} of generation {self.generation} is training"
            raise self._refuse(result, awaited)
