"""The main loop: journal before acting, replay without retraining, any executor."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest

from coralx.config import load_config
from coralx.errors import ExtinctError
from coralx.loop import run
from coralx.records import Job, TrainingResult
from coralx.search.evolution import Evolution
from coralx.store import JOURNAL, History, Store, read_history

CONFIG = load_config({"evolution": {"population": 8, "generations": 2, "seed": 4}})


class TableExecutor:
    """Answers jobs from a rule instead of training; `reverse` answers in the other order."""

    slots = 3

    def __init__(self, reverse: bool = False, stop_after: int | None = None) -> None:
        self.jobs: list[Job] = []
        self.trained: list[tuple[str, str]] = []
        self._reverse, self._left = reverse, stop_after

    def submit(self, job: Job) -> bool:
        if job.id in {known.id for known in self.jobs}:
            return False
        self.jobs.append(job)
        return True

    def completed(self) -> Iterable[Sequence[TrainingResult]]:
        waiting, self.jobs = self.jobs, []
        for job in reversed(waiting) if self._reverse else waiting:
            results = [answer(job, place) for place in range(len(job.genomes))]
            if self._left is not None and len(self.trained) + len(results) > self._left:
                raise KeyboardInterrupt
            self.trained += [(result.genome.id, result.stage) for result in results]
            yield results[::-1] if self._reverse else results


def answer(job: Job, place: int) -> TrainingResult:
    genome = job.genomes[place]
    skill = 0.6 + int(genome.id, 16) % 1000 / 4000 + job.stage_index / 20
    return job.result(
        place,
        objectives=dict.fromkeys(CONFIG.objectives, skill),
        checkpoint=f"{genome.id}/{job.stage.name}",
    )


def evolve(
    directory: Path,
    executor: TableExecutor,
    tidy: Callable[[Evolution], None] = lambda _: None,
    begin: Callable[[Evolution], None] = lambda _: None,
) -> list[str]:
    store = Store(directory)
    if not (directory / "journal.jsonl").stat().st_size:
        store.append("run_started", {"config": CONFIG.model_dump(mode="json")})
    history: History = read_history(directory)
    try:
        return [r.genome.id for r in run(Evolution(CONFIG), executor, store, history, tidy, begin)]
    finally:
        store.close()


def test_every_stage_of_every_genome_is_trained_once_and_journalled(tmp_path: Path) -> None:
    executor = TableExecutor()
    front = evolve(tmp_path, executor)
    history = read_history(tmp_path)
    assert len(executor.trained) == len(set(executor.trained)) == 2 * (8 + 8 + 4 + 1)
    assert [(r.genome.id, r.stage) for r in history.results] == executor.trained
    assert [generation.index for generation in history.generations] == [0, 1]
    assert tuple(front) == history.generations[-1].front


def test_a_resumed_run_trains_nothing_twice_and_ends_alike(tmp_path: Path) -> None:
    whole = evolve(tmp_path / "whole", TableExecutor())
    first, second = TableExecutor(stop_after=13), TableExecutor()
    try:
        evolve(tmp_path / "cut", first)
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("the run was to be cut")
    known: list[int] = []
    cut = evolve(
        tmp_path / "cut", second, begin=lambda evolution: known.append(len(evolution.results))
    )
    assert cut == whole
    assert known == [len(first.trained)], "it begins once what is known has been told"
    assert 0 < len(first.trained) <= 13
    assert not set(first.trained) & set(second.trained)
    journal = [(r.genome.id, r.stage) for r in read_history(tmp_path / "cut").results]
    assert len(journal) == len(set(journal)) == 42


def test_a_run_cut_after_any_record_ends_alike_and_trains_nothing_twice(tmp_path: Path) -> None:
    """Replay: every beginning of a journal leads to the same end."""
    front = evolve(tmp_path / "whole", TableExecutor())
    lines = (tmp_path / "whole" / JOURNAL).read_bytes().splitlines(keepends=True)
    for count in range(1, len(lines) + 1):
        directory = tmp_path / f"cut-{count}"
        directory.mkdir()
        (directory / JOURNAL).write_bytes(b"".join(lines[:count]))
        known = {(r.genome.id, r.stage) for r in read_history(directory).results}
        executor = TableExecutor()
        assert evolve(directory, executor) == front
        assert not known & set(executor.trained)
        whole, cut = read_history(tmp_path / "whole"), read_history(directory)
        assert (cut.results, cut.generations) == (whole.results, whole.generations)
        assert {job.id: job for job in cut.jobs} == {job.id: job for job in whole.jobs}


class DoomedExecutor(TableExecutor):
    """Every genome is found wanting."""

    def completed(self) -> Iterable[Sequence[TrainingResult]]:
        for results in super().completed():
            yield [r.model_copy(update={"details": {"auroc": 0.1}}) for r in results]


def test_a_run_that_died_out_is_journalled_to_the_last_result(tmp_path: Path) -> None:
    first, second = DoomedExecutor(), DoomedExecutor()
    with pytest.raises(ExtinctError):
        evolve(tmp_path, first)
    assert len(read_history(tmp_path).results) == len(first.trained)
    with pytest.raises(ExtinctError):
        evolve(tmp_path, second)
    assert not second.trained, "what is known is not trained again to find out the same"


def test_the_order_of_arrival_makes_no_difference(tmp_path: Path) -> None:
    forward = evolve(tmp_path / "forward", TableExecutor())
    assert evolve(tmp_path / "backward", TableExecutor(reverse=True)) == forward
