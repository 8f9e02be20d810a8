"""Jobs in this process, one after another, with all of the machine's cores for each."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from coralx.executors import Heal, just_do
from coralx.records import Job, Progress, TrainingResult
from coralx.train.worker import Worker


class LocalExecutor:
    """An Executor (see loop.py) on one worker.

    Args:
        observe: told how far the job at work is, after each training step.
        heal: what to do about missing and damaged checkpoints; by default they are an error.
    """

    slots = 1

    def __init__(
        self,
        worker: Worker,
        observe: Callable[[Progress], None] = lambda _: None,
        heal: Heal = just_do,
    ) -> None:
        self.worker = worker
        self._observe = observe
        self._heal = heal
        self._waiting: deque[Job] = deque()

    def submit(self, job: Job) -> bool:
        if any(job.id == known.id for known in self._waiting):
            return False
        self._waiting.append(job)
        return True

    def completed(self) -> Iterable[Sequence[TrainingResult]]:
        while self._waiting:
            job = self._waiting[0]
            yield self._heal(functools.partial(self.worker.train, job, self._observe))
            self._waiting.popleft()
