"""Jobs on several workers side by side, by Ray: each a process of its own, with cores or a GPU of
its own, on this machine or on those of a cluster.

What a job gives does not depend on the worker that runs it, nor on how many there are: packs are
made before anyone is asked to train them. Workers share the run's folder, where checkpoints lie.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coralx.config import Config
from coralx.errors import ExecutorError
from coralx.executors import Heal
from coralx.interrupts import handlers_kept
from coralx.records import Job, Progress, TrainingResult
from coralx.train.worker import Worker

LOOK_SECONDS = 0.5  # between two looks at how far training is
RETRIES = 3  # of a job whose worker's process ended, as Ray starts it anew


@dataclass
class _AtWork:
    """A job and its worker; `promise` is what Ray gives the results for, None if it gave none."""

    job: Job
    worker: Any
    promise: Any


class RayPool:
    """An Executor (see loop.py) on Ray actors.

    Args:
        workers: handles of `RayWorker` actors.
        observe: told now and then how far the job is that began first of those at work.
        heal: what to do about missing and damaged checkpoints.
    """

    def __init__(
        self, ray: Any, workers: Sequence[Any], observe: Callable[[Progress], None], heal: Heal
    ) -> None:
        self.slots = len(workers)
        self._ray, self._observe, self._heal = ray, observe, heal
        self._free = list(workers)
        self._running: dict[str, _AtWork] = {}  # by the job's id, the first that began first

    def submit(self, job: Job) -> bool:
        if job.id in self._running:
            return False
        worker = self._free.pop(0)
        self._running[job.id] = _AtWork(job, worker, worker.train.remote(job))
        return True

    def completed(self) -> Iterable[Sequence[TrainingResult]]:
        """The jobs that are done by now, or the one that is done next: the workers that are free
        then can be given work."""
        running = {own.promise: own for own in self._running.values()}
        done: Sequence[Any] = ()
        while running and not done:
            every = len(running)
            done, _ = self._ray.wait(list(running), num_returns=every, timeout=LOOK_SECONDS)
            if not done:
                self._look()
        for own in [running[promise] for promise in done]:
            yield self._heal(functools.partial(self._take, own))
            del self._running[own.job.id]
            self._free.append(own.worker)

    def _take(self, own: _AtWork) -> Sequence[TrainingResult]:
        """What a job came to; it is run again if that was taken before, and was an error."""
        promise = own.promise or own.worker.train.remote(own.job)
        own.promise = None
        return _get(self._ray, promise, own.job.id)  # type: ignore[no-any-return]

    def _look(self) -> None:
        """Tell how far the job is that began first."""
        first = next(iter(self._running.values()))
        with contextlib.suppress(self._ray.exceptions.RayError):  # its worker is being restarted
            progress = self._ray.get(first.worker.progress.remote(), timeout=LOOK_SECONDS)
            if progress is not None:
                self._observe(progress)


class RayWorker:
    """What runs in a worker's process.

    Args:
        folder: where the process that leads is: relative paths are meant from there.
    """

    def __init__(self, config: Config, checkpoints: str, prefix: str, folder: str) -> None:
        self._facts = config, Path(checkpoints), Path(prefix), folder
        self._worker: Worker | None = None
        self._progress: Progress | None = None

    def load(self) -> dict[str, str | int]:
        """Load base model and rows; what the last bits of results depend on. Not done by the
        constructor, whose errors Ray would wrap."""
        if self._worker is None:
            config, checkpoints, prefix, folder = self._facts
            os.chdir(folder)
            self._worker = Worker(config, checkpoints, prefix=prefix)
        return self._worker.numerics()

    def train(self, job: Job) -> list[TrainingResult]:
        self.load()
        assert self._worker  # noqa: S101 - just loaded
        try:
            return self._worker.train(job, self._note)
        finally:
            self._progress = None  # or it would be taken for that of the next job

    def progress(self) -> Progress | None:
        """How far the job at work is; answered while it is under way."""
        return self._progress

    def _note(self, progress: Progress) -> None:
        self._progress = progress


@contextlib.contextmanager
def open_pool(
    worker: Worker, observe: Callable[[Progress], None], heal: Heal, say: Callable[[str], None]
) -> Iterator[RayPool]:
    """`training.workers` workers that train as `worker` does; they end with the context.

    In a cluster (the variable RAY_ADDRESS names it) every node must have CoralX, and the run's
    folder and the data at the same paths.

    Raises:
        ExecutorError: Ray is not installed, has no room for the workers, or cannot start them, or
            these could not find a function of the user's.
    """
    import ray

    _check_functions(worker.config)
    count, threads = worker.config.training.workers, int(worker.numerics()["threads"])
    say(f"starting {count} workers")
    theirs = ray.is_initialized()  # by the program that calls us
    if not theirs:
        _start_ray(ray, count * threads)
    actors: list[Any] = []
    try:
        actors += _start_workers(ray, worker, threads)
        loading = [actor.load.remote() for actor in actors]  # all at once
        for place, promise in enumerate(loading):
            found = _get(ray, promise, "loading base model and rows")
            _check_alike(place, found, worker.numerics(), say)
        yield RayPool(ray, actors, observe, heal)
    finally:
        for actor in actors if theirs else ():
            ray.kill(actor)
        if not theirs:
            _end_ray(ray)


def _check_functions(config: Config) -> None:
    """Pass if workers can find the user's functions.

    Raises:
        ExecutorError: one lies in the program that runs here, which is not what workers run.
    """
    named = {"objectives": config.objectives, "training.hook": (config.training.hook,)}
    for setting, names in named.items():
        for name in names:
            if name and name.startswith("__main__:"):
                raise ExecutorError(
                    f"{setting}: {name!r} lies in the program itself, where workers cannot find "
                    "it; move it into a module of its own, or set training.workers: 1"
                )


def _start_ray(ray: Any, cores: int) -> None:
    """Join the cluster that RAY_ADDRESS names, or start Ray on this machine."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell a server of its use
    own: dict[str, Any] = {}
    if not os.environ.get("RAY_ADDRESS"):
        own = {"num_cpus": max(os.cpu_count() or 1, cores), "include_dashboard": False}
    try:
        with handlers_kept():
            ray.init(log_to_driver=False, logging_level="ERROR", **own)
    except Exception as error:  # Ray raises many kinds
        raise ExecutorError(f"training.workers: Ray does not start: {error}") from error


def _end_ray(ray: Any) -> None:
    """Ray takes away the handler of SIGTERM as it ends, unseen by Python."""
    with handlers_kept():
        ray.shutdown()


def _start_workers(ray: Any, worker: Worker, threads: int) -> list[Any]:
    """One actor a worker. Raises ExecutorError where they would wait for room for ever."""
    bench, settings = worker.bench, worker.config.training
    each = {"CPU": threads, "GPU": int(bench.device.type == "cuda")}
    there = ray.cluster_resources()
    for kind, needed in each.items():
        if settings.workers * needed > there.get(kind, 0):
            raise ExecutorError(
                f"training.workers: {settings.workers} workers of {needed} {kind} each need "
                f"{settings.workers * needed}, Ray has {there.get(kind, 0):.0f}; resume where it "
                "has more, or begin a new run with lower training.workers"
                + (" or training.threads" if kind == "CPU" else "")
            )
    own = settings.model_copy(update={"threads": threads})
    config = worker.config.model_copy(update={"training": own})
    made = ray.remote(RayWorker).options(
        num_cpus=each["CPU"],
        num_gpus=each["GPU"],
        max_restarts=-1,
        max_task_retries=RETRIES,
        max_concurrency=2,  # training, and looking at it
    )
    paths = str(bench.checkpoints.absolute()), str(bench.prefix.absolute()), os.getcwd()
    return [made.remote(config, *paths) for _ in range(settings.workers)]


def _get(ray: Any, promise: Any, what: str) -> Any:
    """What a worker gives, or its error as if it were ours.

    Args:
        what: it was to do, for the error of one whose process ends.
    """
    try:
        return ray.get(promise)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error.cause.__cause__
    except ray.exceptions.RayError as error:
        raise ExecutorError(
            f"{what}: the worker's process ended {RETRIES + 1} times, mostly for want of memory; "
            "resume where there is more, or begin a new run with lower training.workers or "
            f"training.pack_size ({type(error).__name__})"
        ) from None


def _check_alike(
    place: int, found: dict[str, Any], ours: dict[str, Any], say: Callable[[str], None]
) -> None:
    changed = [f"{n}: {ours[n]} here, {v} there" for n, v in found.items() if v != ours[n]]
    if changed:
        say(
            f"warning: worker {place} computes otherwise ({'; '.join(changed)}); the last bits of "
            "results will depend on which worker a job meets"
        )
