"""The main loop: replay what is known, then ask, train, journal and tell until it is done."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from coralx.records import Job, TrainingResult
from coralx.search.evolution import Evolution
from coralx.store import History, Store


class Executor(Protocol):
    """Where jobs run. Results may come in any order; a job known by its id is not run twice."""

    @property
    def slots(self) -> int:
        """Jobs that may be under way at once."""

    def submit(self, job: Job) -> bool:
        """Take a job; False, and nothing happens, if it is under way already."""

    def completed(self) -> Iterable[TrainingResult]:
        """Results as they arrive; at least one while any job is under way."""


def run(
    evolution: Evolution, executor: Executor, store: Store, history: History
) -> list[TrainingResult]:
    """Evolve to the end and give the front. Every fact is journalled before it is acted on."""
    for result in history.results:  # resume = replay
        evolution.tell(result)
    recorded = len(history.generations)
    while True:
        for generation in evolution.closed[recorded:]:
            store.append("generation", generation)
            recorded += 1
        if evolution.finished:
            return evolution.front()
        for job in evolution.ask(executor.slots):
            if executor.submit(job):
                store.append("job", job)
        for result in executor.completed():
            kept = evolution.tell(result)
            if kept is not None:
                store.append("result", kept)
