"""Jobs answered from a table of recorded results, in virtual time: nothing is trained or awaited.

For trying searches and schedules on thousands of workers. A replay says how a search would spend
its budget on curves like those recorded; it is no evidence of what training would have come to.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import Protocol

from coralx.config import Config
from coralx.errors import ConfigError, ExecutorError
from coralx.objectives import OBJECTIVES
from coralx.records import Genome, Job, TrainingResult, TrainingStage


class Recordings(Protocol):
    """Where results come from: `replay_table.ReplayTable` beside this, or a made-up problem."""

    def look_up(self, genome: Genome, stage: TrainingStage) -> TrainingResult:
        """A result of the stage for this genome; of it objectives, details, cost and whether
        training stopped it or it left early are used."""


class ReplayExecutor:
    """An Executor (see loop.py) of `workers` workers on a clock of its own.

    A job takes its genomes' recorded seconds and is done in order of virtual time, jobs of equal
    end in the order they were submitted. Results say `details["replayed"] = 1`; they leave no
    checkpoint, so children start fresh: inheritance is not in the recordings. `now` is the
    clock's time and `busy` the seconds of all workers' work so far, those under way included.

    Args:
        config: says in which stages the search measures everything.

    Raises:
        ExecutorError: there are no workers.
    """

    def __init__(self, recordings: Recordings, config: Config, workers: int = 1) -> None:
        if workers < 1:
            raise ExecutorError(f"a replay's workers must be at least 1, got {workers}")
        self.slots = workers
        self.now = 0.0
        self.busy = 0.0
        self._recordings, self._config = recordings, config
        self._ranks: dict[str, int] = {}  # of each genome, as trained last
        self._free = [0.0] * workers  # heap: when each worker is done with what it has
        self._ends: list[tuple[float, int, str]] = []  # heap: jobs under way
        self._results: dict[str, list[TrainingResult]] = {}  # theirs, by id
        self._submitted = 0

    def submit(self, job: Job) -> bool:
        """As every Executor.

        Raises:
            ConfigError: an objective of one's own was not recorded; built-in ones can be absent,
                as cross-modal gain is where there are no images.
        """
        if job.id in self._results:
            return False
        results = [self._answer(job, place) for place in range(len(job.genomes))]
        seconds = sum(seconds_of(result, job.stage, self._config) for result in results)
        end = max(self.now, heapq.heappop(self._free)) + seconds
        heapq.heappush(self._free, end)
        heapq.heappush(self._ends, (end, self._submitted, job.id))
        self._results[job.id] = results
        self._submitted += 1
        self.busy += seconds
        return True

    def completed(self) -> Iterable[Sequence[TrainingResult]]:
        """The job that is done next: one at a time, so that its worker is given work before the
        clock goes on."""
        if self._ends:
            self.now, _, name = heapq.heappop(self._ends)
            yield self._results.pop(name)

    def _answer(self, job: Job, place: int) -> TrainingResult:
        genome, start = job.genomes[place], job.starts[place]
        known = self._recordings.look_up(genome, job.stage)
        self._check_recorded(known)
        rank = start.grow_to or self._ranks.get(genome.id, genome.lora_cfg.r)
        self._ranks[genome.id] = rank
        return job.result(
            place,
            lora_cfg=genome.lora_cfg.model_copy(update={"r": rank}),
            objectives=known.objectives,
            details={**known.details, "replayed": 1.0},
            stopped=known.stopped,
            left_early=known.left_early,
            cost=known.cost,
        )

    def _check_recorded(self, known: TrainingResult) -> None:
        """A search would go on without what is missing, and say nothing of it."""
        own = [name for name in self._config.objectives if name not in OBJECTIVES]
        missing = [name for name in own if name not in known.objectives]
        if missing and known.stopped is None:
            raise ConfigError(
                "objectives",
                [
                    f"a replay has the objectives that were recorded: "
                    f"{', '.join(known.objectives)}; got {', '.join(missing)}; use those, or "
                    "record others"
                ],
            )


def seconds_of(result: TrainingResult, stage: TrainingStage, config: Config) -> float:
    """Recorded seconds of one genome in one stage.

    Every objective is recorded after every stage, but a run measures skill alone, in a small part
    of the time, where `Config.measures_all` says no: such measuring is not counted.
    """
    measuring = result.cost.eval_seconds if config.measures_all(stage) else 0.0
    return result.cost.train_seconds + measuring
