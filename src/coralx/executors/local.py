"""Jobs in this process, one after another, with all of the machine's cores for each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from coralx.records import Job, Progress, TrainingResult
from coralx.train.worker import Worker


class LocalExecutor:
    """An Executor (see loop.py) on one worker.

    Args:
        observe: told how far the job at work is, after each training step.
    """

    slots = 1

    def __init__(self, worker: Worker, observe: Callable[[Progress], None] = lambda _: None):
        self.worker = worker
        self._observe = observe
        self._waiting: deque[Job] = deque()

    def submit(self, job: Job) -> bool:
        if any(job.id == known.id for known in self._waiting):
            return False
        self._waiting.append(job)
        return True

    def completed(self) -> Iterable[TrainingResult]:
        while self._waiting:
            yield from self.worker.train(self._waiting[0], self._observe)
            self._waiting.popleft()
