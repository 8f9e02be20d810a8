"""The main loop: replay what is known, then ask, train, journal and tell until it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from coralx.records import Job, TrainingResult
from coralx.search.asktell import Search
from coralx.store import History, NoStore, Store


class Executor(Protocol):
    """Where jobs run. They may be done in any order; a job known by its id is not run twice."""

    @property
    def slots(self) -> int:
        """Jobs that may be under way at once."""

    def submit(self, job: Job) -> bool:
        """Take a job; False, and nothing happens, if it is under way already."""

    def completed(self) -> Iterable[Sequence[TrainingResult]]:
        """The results of each job as it is done, one for each of its genomes; at least one job
        while any is under way."""


def run(
    evolution: Search,
    executor: Executor,
    store: Store | NoStore,
    history: History,
    tidy: Callable[[Search], None] = lambda _: None,
    begin: Callable[[Search], None] = lambda _: None,
) -> list[TrainingResult]:
    """Evolve to the end and give the front. Every fact is journalled before it is acted on, but for
    a job, written as it is given out: what it leaves counts once its results are written.

    A job's results are one record, so a kill leaves all of them or none: what is journalled is
    never trained again, and what is trained again is trained in the same pack.

    Args:
        tidy: called whenever results have been told, to remove what nobody needs any more.
        begin: called once what is known has been replayed: all told from then on is new.
    """
    for fact in history.order:  # resume = replay
        if isinstance(fact, Job):
            evolution.recall(fact)
        else:
            evolution.tell(fact)
    begin(evolution)
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
        for results in executor.completed():
            judged = [kept for kept in map(evolution.judge, results) if kept is not None]
            store.append("results", judged)
            for result in judged:
                evolution.tell(result)
            tidy(evolution)
