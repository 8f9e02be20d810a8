"""Ray Tune: ASHA on skill."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from coralx.config import load_config
from coralx.settings.genes import Choice, Gene, Integer
from coralx.train.workbench import Workbench
from peer_tools.trial import ETA, FULL, RUNGS, Book, Task, Trial, decode, labels


def asha(task: Task) -> None:
    """`ASHAScheduler` over random draws: at each rung the better third by skill goes on.

    Trials run in a worker process that is kept for all of them (`reuse_actors`), with all cores
    for the one trial under way. Starting Ray, and the worker's loading of model and rows, is off
    the clock.
    """
    cores = os.cpu_count() or 1
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    settings = task.config.model_dump(mode="json")
    with tempfile.TemporaryDirectory() as folder:
        ray.init(
            num_cpus=cores,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parent.parent)}},
        )
        try:
            trainable = tune.with_parameters(PeftTrainable, settings=settings)
            tuner = tune.Tuner(
                tune.with_resources(trainable, {"cpu": cores}),
                param_space={n: domain(gene) for n, gene in sorted(task.config.space.items())},
                tune_config=tune.TuneConfig(
                    metric="task_skill",
                    mode="max",
                    search_alg=BasicVariantGenerator(max_concurrent=1, random_state=task.seed),
                    scheduler=ASHAScheduler(
                        time_attr="budget", max_t=FULL, grace_period=RUNGS[0], reduction_factor=ETA
                    ),
                    num_samples=-1,
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    storage_path=folder,
                    stop=Recorder(task.book),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                    failure_config=tune.FailureConfig(fail_fast="raise"),
                    verbose=0,
                ),
            )
            tuner.fit()
        finally:
            ray.shutdown()


class PeftTrainable(tune.Trainable):  # type: ignore[misc]
    """One trial after another in one process; each step trains up to the next rung."""

    def setup(self, config: dict[str, Any], settings: dict[str, Any]) -> None:
        loaded = load_config(settings)
        self._bench = Workbench(loaded, Path(self.logdir) / "checkpoints")
        self._bench.validation(100)
        self._ready = time.time()
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial, in the same process."""
        self._trial = Trial(self._bench, decode(self._bench.config.space, new_config))
        self._place = 0
        return True

    def step(self) -> dict[str, Any]:
        budget = RUNGS[self._place]
        self._place += 1
        self._trial.train_to(budget)
        skill = self._trial.skill()
        began = time.time()
        objectives = self._trial.objectives()  # the benchmark's question, so off the clock
        return {
            "task_skill": skill,
            "budget": budget,
            "objectives": objectives,
            "ready": self._ready,
            "discount": time.time() - began,
        }


class Recorder(tune.Stopper):  # type: ignore[misc]
    """Writes each result down, and ends the search at the first one past the limit."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._numbers: dict[str, int] = {}
        self._over = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        if not self._numbers:
            self._book.discount(result["ready"] - self._book.began)
        number = self._numbers.setdefault(trial_id, len(self._numbers))
        self._book.discount(result["discount"])
        self._book.record(number, result["budget"], result["objectives"])
        self._over = self._book.seconds > self._book.limit
        return self._over

    def stop_all(self) -> bool:
        return self._over


def domain(gene: Gene) -> Any:
    if isinstance(gene, Choice):
        return tune.choice(list(labels(gene)))
    if isinstance(gene, Integer):
        return tune.randint(gene.low, gene.high + 1)
    return tune.loguniform(gene.low, gene.high) if gene.log else tune.uniform(gene.low, gene.high)
