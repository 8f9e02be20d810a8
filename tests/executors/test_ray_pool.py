"""Several workers: the same results as one, whatever happens to them."""

from __future__ import annotations

import importlib.util
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch

from coralx.config import Config, load_config
from coralx.errors import CheckpointError, ConfigError, CoralXError, ExecutorError, ObjectiveError
from coralx.executors import check_executor, just_do, open_executor
from coralx.executors.local import LocalExecutor
from coralx.executors.ray_pool import RayPool, RayWorker, _get
from coralx.records import Progress, TrainingResult
from coralx.search.evolution import new_search
from coralx.train.worker import Worker

STAGES = [
    {"name": "S1_shakeout", "epoch_budget": 1.0, "data_percentage": 50, "survival_rate": 0.5},
    {"name": "S2_serious", "epoch_budget": 3.0, "data_percentage": 100, "survival_rate": 0.5},
]


def job_of(workers: int) -> Config:
    return load_config(
        {
            "data": {"max_rows": 64, "image_column": None},
            "vision_tower": None,
            "evolution": {"population": 4, "generations": 1},
            "training": {"pack_size": 2, "workers": workers, "threads": 1, "attack_rows": 4},
            "hyperband": {"training_stages": STAGES, "grow_rank_at": None},
        }
    )


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    """One Ray for all tests here; a pool leaves one that runs already as it is."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def lead(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    return Worker(job_of(2), tmp_path_factory.mktemp("shared") / "checkpoints")


@pytest.fixture(scope="module")
def pool(lead: Worker) -> Iterator[RayPool]:
    with open_executor(lead, nothing, heal) as pool:
        assert isinstance(pool, RayPool)
        assert pool.slots == 2
        yield pool


AWAY = ".away"  # of checkpoints that are hidden
mended: list[str] = []


def heal(action: Callable[[], Any]) -> Any:
    """Puts back what a test hid."""
    try:
        return action()
    except CheckpointError as damage:
        mended.append(damage.checkpoint)
        away = Path(damage.reason.removesuffix(" is missing") + AWAY)
        away.rename(str(away).removesuffix(AWAY))
        return action()


def train(executor: Any, config: Config) -> dict[tuple[str, str], TrainingResult]:
    search = new_search(config)
    while not search.finished:
        for job in search.ask(executor.slots):
            executor.submit(job)
        for results in executor.completed():
            for result in results:
                search.tell(result)
    return {(r.genome.id, r.stage): r for r in search.results}


def facts(found: dict[tuple[str, str], TrainingResult]) -> dict[tuple[str, str], Any]:
    """All but what time and memory it took: weights too, as a checkpoint's name is their digest."""
    return {
        name: (r.objectives, r.details, r.checkpoint, r.curve, r.cost.steps)
        for name, r in found.items()
    }


def nothing(_: object) -> None:
    """For who is told."""


def test_two_workers_give_what_one_gives(lead: Worker, pool: RayPool, tmp_path: Path) -> None:
    alone = train(LocalExecutor(Worker(job_of(1), tmp_path)), job_of(1))
    assert len(alone) == 6
    assert facts(train(pool, lead.config)) == facts(alone)


def test_a_job_whose_worker_dies_is_run_again(lead: Worker, pool: RayPool) -> None:
    job = new_search(lead.config).ask(1)[0]
    pid = ray.get(pool._free[0].__ray_call__.remote(lambda _: os.getpid()))
    assert pool.submit(job)
    assert not pool.submit(job)  # it is under way
    os.kill(pid, signal.SIGKILL)
    (again,) = pool.completed()
    with open_executor(Worker(job_of(1), lead.bench.checkpoints), nothing) as alone:
        assert alone.submit(job)
        (expected,) = alone.completed()
    named = [{(r.genome.id, r.stage): r for r in found} for found in (again, expected)]
    assert facts(named[0]) == facts(named[1])


def test_a_missing_checkpoint_is_mended_and_the_job_run_again(lead: Worker, pool: RayPool) -> None:
    search = new_search(lead.config)
    while search.stage_index == 0:
        for job in search.ask(pool.slots):
            pool.submit(job)
        for results in pool.completed():
            for result in results:
                search.tell(result)
    (job,) = search.ask(1)
    name = job.starts[0].checkpoint
    (found,) = lead.bench.checkpoints.glob(f"{name}*")
    found.rename(f"{found}{AWAY}")
    assert pool.submit(job)
    (results,) = pool.completed()
    assert mended == [name]
    assert [result.genome for result in results] == list(job.genomes)


def test_how_far_training_is_can_be_asked_while_it_goes_on(lead: Worker, pool: RayPool) -> None:
    seen: list[Progress] = []
    job = new_search(lead.config).ask(1)[0]
    worker = pool._free[0]
    done = worker.train.remote(job)
    while not ray.wait([done], timeout=0)[0]:
        seen.append(ray.get(worker.progress.remote()))
    told = [progress for progress in seen if progress is not None]
    assert len(seen) > 1  # answered while training went on
    assert {progress.job.id for progress in told} <= {job.id}  # never one of before
    assert [p.step for p in told] == sorted(p.step for p in told)


def test_more_workers_than_there_is_room_for_are_refused(tmp_path: Path) -> None:
    crowd = Worker(job_of(3), tmp_path / "checkpoints")
    with (
        pytest.raises(
            ExecutorError,
            match=r"3 workers of 1 CPU each need 3, Ray has 2; resume where .* new run with lower",
        ),
        open_executor(crowd, nothing),
    ):
        pass


@pytest.mark.parametrize(
    "own",
    [
        {"objectives": ["task_skill", "__main__:mine"]},
        {"training": {"workers": 2, "hook": "__main__:mine"}},
    ],
)
def test_a_function_of_the_program_itself_is_refused(own: dict[str, Any], lead: Worker) -> None:
    config = load_config(lead.config, own)
    worker = SimpleNamespace(config=config)
    with (
        pytest.raises(ExecutorError, match=r"'__main__:mine' lies in the program itself.*a module"),
        open_executor(worker, nothing),  # type: ignore[arg-type]
    ):
        pass


def test_what_a_worker_cannot_load_is_told_as_this_process_would(tmp_path: Path) -> None:
    settings = job_of(2).model_dump(mode="json")
    settings["training"]["hook"] = "no_such_module:hook"
    own = str(tmp_path), str(tmp_path), os.getcwd()
    worker = ray.remote(RayWorker).remote(load_config(settings), *own)
    with pytest.raises(ConfigError, match="no_such_module"):
        _get(ray, worker.load.remote(), "loading")
    ray.kill(worker)


def test_a_job_that_kills_its_worker_again_and_again_is_an_error() -> None:
    class Broken:
        exceptions = ray.exceptions

        def wait(self, promises: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
            return promises, []

        def get(self, promise: Any) -> Any:
            raise ray.exceptions.ActorDiedError

    class Actor:
        class train:
            remote = staticmethod(lambda job: object())

    pool = RayPool(Broken(), [Actor()], nothing, just_do)
    pool.submit(new_search(job_of(1)).ask(1)[0])
    with pytest.raises(ExecutorError, match=r"ended 4 times.*; resume where .* new run with lower"):
        list(pool.completed())


def test_ray_missing_is_told_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    check_executor(1)
    with pytest.raises(ExecutorError, match=r"need Ray.*'coralx\[ray\]', or begin a new run"):
        check_executor(2)


def test_cores_are_shared_out_among_workers(tmp_path: Path) -> None:
    config = job_of(2)
    config = config.model_copy(
        update={"training": config.training.model_copy(update={"threads": None})}
    )
    before = torch.get_num_threads()
    try:
        worker = Worker(config, tmp_path / "checkpoints")
        assert worker.numerics()["threads"] == max(1, (os.cpu_count() or 1) // 2)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("config.yaml", ["one", "two"]),
        CheckpointError("abc", "is missing"),
        ObjectiveError("mine:f", "abc", "no"),
        ExecutorError("plain"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_travel_between_processes(error: CoralXError) -> None:
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_signals_still_stop_a_run_once_ray_has_started_and_ended() -> None:
    """Ray puts its own handler in the place of ours. A process of its own, as Ray starts anew."""
    code = (
        "import os, ray, signal\n"
        "from coralx.executors.ray_pool import _end_ray, _start_ray\n"
        "from coralx.interrupts import stoppable\n"
        "with stoppable():\n"
        "    for act in (lambda: _start_ray(ray, 1), lambda: _end_ray(ray)):\n"
        "        act()\n"
        "        try:\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n"
        "        except KeyboardInterrupt:\n"
        "            print('stopped')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["stopped"] * 2), done.stderr
