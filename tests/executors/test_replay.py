"""Replays: jobs done in order of virtual time, the same front however many workers there are."""

from typing import Any

import numpy as np
import pytest

from coralx.config import Config, load_config
from coralx.errors import ConfigError, ExecutorError
from coralx.executors.replay import ReplayExecutor, seconds_of
from coralx.executors.replay_table import ReplayTable
from coralx.loop import run
from coralx.records import Cost, Genome, TrainingResult
from coralx.search import space
from coralx.search.asktell import Search
from coralx.search.evolution import Evolution, new_search
from coralx.search.jobs import plan_jobs
from coralx.store import History, Value

OBJECTIVES = ("task_skill", "memory")


def settings(**sections: Any) -> Config:
    return load_config({"objectives": OBJECTIVES, **sections})


def make_table(config: Config, count: int, seed: int = 9) -> ReplayTable:
    """Synthetic curves; nothing here says anything about training."""
    rng = np.random.default_rng(seed)
    genomes = space.sample_distinct(config.space, count, rng)
    return ReplayTable(
        config.space,
        config.hyperband.stages,
        [make_curve(config, genome, *rng.random(3)) for genome in genomes],
    )


def make_curve(
    config: Config, genome: Genome, skill: float, memory: float, speed: float
) -> list[TrainingResult]:
    return [
        TrainingResult(
            job="recorded",
            genome=genome,
            generation=0,
            stage=stage.name,
            stage_index=index,
            lora_cfg=genome.lora_cfg,
            objectives={"task_skill": 0.6 + skill * index / 10, "memory": memory},
            cost=Cost(steps=index + 1, train_seconds=(0.1 + speed) * (index + 1)),
        )
        for index, stage in enumerate(config.hyperband.stages)
    ]


class Kept:
    """A journal in memory."""

    def __init__(self) -> None:
        self.records: list[tuple[str, Value]] = []

    def append(self, kind: str, value: Value) -> None:
        self.records.append((kind, value))


def replay(
    config: Config, table: ReplayTable, workers: int
) -> tuple[list[str], Search, Kept, ReplayExecutor]:
    search, store = new_search(config), Kept()
    executor = ReplayExecutor(table, config, workers)
    front = run(search, executor, store, History(config, {}))
    return [result.genome.id for result in front], search, store, executor


def facts(store: Kept, kind: str) -> list[Any]:
    """Records of a kind, in their order; those of lists one by one."""
    found = [value for name, value in store.records if name == kind]
    return [item for value in found for item in (value if isinstance(value, list) else [value])]


def test_one_worker_and_a_thousand_come_to_the_same_front() -> None:
    config = settings(
        evolution={"population": 40, "generations": 4, "seed": 1}, training={"pack_size": 2}
    )
    table = make_table(config, 60)
    front, alone, _, slow = replay(config, table, workers=1)
    again, many, _, fast = replay(config, table, workers=1000)
    assert front == again
    assert alone.closed == many.closed
    assert slow.busy == pytest.approx(fast.busy)
    assert slow.now == pytest.approx(slow.busy), "one worker is never idle"
    longest: dict[tuple[int, int], float] = {}  # by generation and stage: none waits for workers
    jobs: dict[str, float] = {}
    stages = config.hyperband.stages
    for result in many.results:
        jobs[result.job] = jobs.get(result.job, 0.0) + seconds_of(
            result, stages[result.stage_index], config
        )
    for result in many.results:
        key = result.generation, result.stage_index
        longest[key] = max(longest.get(key, 0.0), jobs[result.job])
    assert fast.now == pytest.approx(sum(longest.values()))


def test_results_are_the_recorded_ones_and_say_that_they_are_replayed() -> None:
    config = settings(evolution={"population": 8, "generations": 2})
    table = make_table(config, 20)
    _, evolution, store, executor = replay(config, table, workers=3)
    for result in evolution.results:
        recorded = table.look_up(result.genome, config.hyperband.stages[result.stage_index])
        assert (result.objectives, result.cost) == (recorded.objectives, recorded.cost)
        assert result.details["replayed"] == 1.0
        assert result.checkpoint is None
    children = [r for r in evolution.results if r.generation == 1 and r.stage_index == 0]
    assert {child.start.kind for child in children} == {"fresh"}, "nothing can be inherited"
    stages = config.hyperband.stages
    spent = [seconds_of(result, stages[result.stage_index], config) for result in evolution.results]
    assert executor.busy == pytest.approx(sum(spent))
    assert facts(store, "results") == evolution.results


def test_seconds_by_hand() -> None:
    """Two genomes: training always counts, measuring where the stage measures all."""
    stages = [
        {"name": name, "epoch_budget": 1, "data_percentage": 100, "survival_rate": 1.0}
        for name in ("first", "last")
    ]

    def spend(**evolution: Any) -> tuple[float, float]:
        config = settings(
            hyperband={"training_stages": stages},
            evolution={"population": 2, "generations": 1, **evolution},
        )
        table = make_table(config, 2)
        for curve in table.curves:
            cost = Cost(train_seconds=1, eval_seconds=5)
            curve[:] = [result.model_copy(update={"cost": cost}) for result in curve]
        *_, executor = replay(config, table, workers=1)
        return executor.now, executor.busy

    assert spend() == (2 * (1 + 1 + 5),) * 2, "the first stage leaves nobody behind"
    assert spend(exploit_below=0.5) == (2 * (1 + 5 + 1 + 5),) * 2


def test_a_job_is_journalled_once_however_often_it_is_asked_for() -> None:
    config = settings(evolution={"population": 8, "generations": 2}, training={"pack_size": 2})
    _, search, store, _ = replay(config, make_table(config, 20), workers=3)
    jobs = [job.id for job in facts(store, "job")]
    assert len(jobs) == len(set(jobs))
    assert set(jobs) == {result.job for result in search.results}


def test_a_rank_once_grown_stays_so() -> None:
    low = {"kind": "choice", "values": [2, 4]}
    rates = {"kind": "float", "low": 1e-4, "high": 1e-3}
    config = settings(
        space={"r": low, "learning_rate": rates}, evolution={"population": 8, "generations": 1}
    )
    _, search, _, _ = replay(config, make_table(config, 20), workers=1)
    grown = [(r.stage_index, r.lora_cfg.r / r.genome.lora_cfg.r) for r in search.results]
    assert set(grown) == {(0, 1), (1, 1), (2, 2), (3, 2)}


def test_what_is_recorded_leaves_no_checkpoint_whatever_the_recording_had() -> None:
    config = settings(evolution={"population": 4, "generations": 1})
    table = make_table(config, 4)
    for curve in table.curves:
        curve[:] = [result.model_copy(update={"checkpoint": "old"}) for result in curve]
    _, search, _, _ = replay(config, table, workers=1)
    assert {result.checkpoint for result in search.results} == {None}


def test_jobs_are_done_in_order_of_virtual_time() -> None:
    config = settings(evolution={"population": 12, "generations": 1}, training={"pack_size": 1})
    table = make_table(config, 12)
    genomes = Evolution(config).alive
    jobs = plan_jobs(config, 0, 0, genomes, {genome.id: () for genome in genomes})
    executor = ReplayExecutor(table, config, workers=2)
    assert [executor.submit(job) for job in jobs] == [True] * 12
    assert not executor.submit(jobs[0]), "under way already"
    free, ends = [0.0, 0.0], {}
    for job in jobs:  # each job goes to the worker that is free first
        free.sort()
        free[0] += seconds_of(table.look_up(job.genomes[0], job.stage), job.stage, config)
        ends[job.id] = free[0]
    done = []
    while batch := list(executor.completed()):
        ((result,),) = batch
        done.append((result.job, executor.now))
    assert done == sorted(ends.items(), key=lambda item: item[1])


def test_an_asynchronous_run_goes_by_virtual_time_and_its_journal_gives_it_again() -> None:
    config = settings(
        evolution={"population": 12, "generations": 3},
        training={"pack_size": 1},
        hyperband={"promotion": "asha"},
    )
    table = make_table(config, 40)
    front, search, store, executor = replay(config, table, workers=7)
    assert executor.busy > 3 * executor.now, "workers are at work at the same time"
    again = new_search(config)
    for kind, value in store.records:
        if kind == "job":
            again.recall(value)
        for result in value if kind == "results" else ():
            again.tell(result)
    assert again.finished
    assert [result.genome.id for result in again.front()] == front
    assert list(again.closed) == list(search.closed) == facts(store, "generation")
    assert replay(config, table, workers=7)[1].results == search.results


def test_no_workers_are_refused_rather_than_awaited_for_ever() -> None:
    config = settings()
    with pytest.raises(ExecutorError, match="at least 1, got 0"):
        ReplayExecutor(make_table(config, 2), config, workers=0)


def test_an_own_objective_that_nobody_recorded_is_refused() -> None:
    table = make_table(settings(), 4)
    config = settings(objectives=(*OBJECTIVES, "cross_modal_gain", "my:own"))
    with pytest.raises(ConfigError, match="recorded: task_skill, memory; got my:own; use those"):
        replay(config, table, workers=1)
