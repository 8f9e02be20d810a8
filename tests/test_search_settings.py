"""Settings of the search on small real runs: their effect on weights, steps and journal."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coralx.config import Config
from coralx.plan.cost import plan_run
from coralx.records import Progress, TrainingResult
from coralx.runs import opening
from coralx.runs.running import resume_run, start_run
from coralx.runs.watcher import Watcher
from coralx.store import History
from coralx.train.checkpoint import load_checkpoint
from coralx.train.hook import Turn
from coralx.train.worker import Worker

STAGES = [
    {"name": "S0_sanity", "epoch_budget": 0.5, "data_percentage": 40, "survival_rate": 1.0},
    {"name": "S1_shakeout", "epoch_budget": 0.5, "data_percentage": 60, "survival_rate": 0.5,
     "min_auroc": None},
    {"name": "S2_serious", "epoch_budget": 0.5, "data_percentage": 100, "survival_rate": 0.5,
     "min_auroc": None},
    {"name": "S3_finisher", "epoch_budget": 1.0, "data_percentage": 100, "survival_rate": 0.5},
]  # fmt: skip
SETTINGS: dict[str, Any] = {
    "vision_tower": None,
    "objectives": ["task_skill", "memory"],
    "data": {"image_column": None, "max_rows": 64, "max_tokens": 16},
    "space": {
        "r": {"kind": "choice", "values": [2, 4]},
        "layers": {"kind": "choice", "values": [1]},
        "learning_rate": {"kind": "float", "low": 0.0005, "high": 0.004, "log": True},
        "pace": {"kind": "choice", "values": [0.5, 2.0], "when": {"r": [4]}},
    },
    "evolution": {"population": 4, "generations": 1, "seed": 5},
    "training": {"device": "cpu", "threads": 1, "pack_size": 2, "attack_rows": 0,
                 "bootstrap_draws": 20, "patience": None},
    "hyperband": {"training_stages": STAGES},
}  # fmt: skip


def configure(**sections: dict[str, Any]) -> Config:
    settings = copy.deepcopy(SETTINGS)
    for section, values in sections.items():
        settings[section] |= values
    return Config.model_validate(settings)  # `pace` is there without a hook in most tests


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    """Model and rows are loaded once for all tests."""
    return Worker(configure(), tmp_path_factory.mktemp("none"))


@pytest.fixture
def evolve(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Callable[..., History]:
    """Start a run, or go on with it if there is one, on the worker that all share."""

    def lend(config: Config, directory: Path, _watcher: object) -> Worker:
        worker.config = worker.bench.config = config
        worker.bench.checkpoints = directory / "checkpoints"
        return worker

    def begin(directory: Path, config: Config, watcher: Watcher | None = None) -> History:
        watcher = watcher or Watcher()
        if (directory / "journal.jsonl").exists():
            return resume_run(directory, watcher)
        return start_run(config, directory, watcher)

    monkeypatch.setattr(opening, "load_worker", lend)
    return begin


def figures(history: History) -> list[tuple[str, str, str, dict[str, float], str | None]]:
    results: list[TrainingResult] = history.results
    return [(r.job, r.genome.id, r.stage, r.objectives, r.checkpoint) for r in results]


class Stopper(Watcher):
    """Stops the run, as Ctrl-C does, in the first step of its n-th job."""

    def __init__(self, jobs: int) -> None:
        self.left = jobs

    def observe(self, progress: Progress) -> None:
        if progress.step == 1:
            self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_asynchronous_promotion_resumes_to_the_same_bits(
    tmp_path: Path, evolve: Callable[..., History]
) -> None:
    config = configure(evolution={"generations": 2}, hyperband={"promotion": "asha"})
    whole = evolve(tmp_path / "whole", config)
    for stop in (3, 4):  # of the jobs left, twice
        with pytest.raises(KeyboardInterrupt):
            evolve(tmp_path / "cut", config, Stopper(stop))
    cut = evolve(tmp_path / "cut", config)
    assert figures(cut) == figures(whole)
    assert cut.generations == whole.generations
    assert {job.id: job for job in cut.jobs} == {job.id: job for job in whole.jobs}
    assert [generation.index for generation in whole.generations] == [0, 1]
    stages = [sum(r.stage == stage["name"] for r in whole.results) for stage in STAGES]
    assert stages == [8, 8, 4, 2]
    children = [r for r in whole.results if r.generation == 1 and not r.stage_index]
    assert all(result.start.kind == "inherit" for result in children)


def test_exploit_trains_copies_on_from_their_models_weights(
    tmp_path: Path, evolve: Callable[..., History], worker: Worker
) -> None:
    config = configure(
        evolution={"exploit_below": 0.5},
        training={"evaluations_per_stage": 1},
        hyperband={"training_stages": [STAGES[0] | {"survival_rate": 1.0, "epoch_budget": 1},
                                       STAGES[3]]},
    )  # fmt: skip
    history = evolve(tmp_path / "run", config)
    by_place = {(r.genome.id, r.stage_index): r for r in history.results}
    copies = [r for r in history.results if r.stage_index and r.start.kind == "inherit"]
    assert len(copies) == 2
    assert all(len(r.objectives) > 1 for r in history.results), "who is replaced is ranked by all"
    worker.bench.checkpoints = tmp_path / "run" / "checkpoints"
    whole = 0
    for result in copies:
        model = by_place[result.genome.parents[0], 0]
        assert result.start.checkpoint == model.checkpoint
        taken = worker.bench.member(result.genome, result.start)
        source = load_checkpoint(worker.bench.checkpoints, model.checkpoint or "")
        for name, value in source.weights.extra.items():
            assert bool((taken.weights.extra[name] == value).all())
        if taken.lora_cfg.r < source.lora_cfg.r:  # then its update is cut
            continue
        whole += 1
        for target, (a, b) in source.weights.lora.items():
            a_taken, b_taken = taken.weights.lora[target]
            gap = source.lora_cfg.scale * (b @ a) - taken.lora_cfg.scale * (b_taken @ a_taken)
            assert float(gap.abs().max()) < 1e-5 < float((b @ a).abs().max())
    assert whole


def test_adaptive_budgets_train_the_steps_that_are_planned(
    tmp_path: Path, evolve: Callable[..., History], worker: Worker
) -> None:
    plain, adaptive = configure(), configure(hyperband={"adaptive_budgets": True})
    steps = worker.bench.steps_per_epoch
    before, plan = plan_run(plain, steps), plan_run(adaptive, steps)
    assert plan["hyperband_steps"] == pytest.approx(before["hyperband_steps"])
    shares = [stage["steps"] / plan["hyperband_steps"] for stage in plan["stages"]]
    assert shares == pytest.approx([0.1, 0.4, 0.3, 0.2]), "these founders are diverse"
    history = evolve(tmp_path / "run", adaptive)
    for line in plan["stages"]:
        here = [r for r in history.results if r.stage == line["name"]]
        assert len(here) == line["genomes"]
        for result in here:
            assert result.cost.planned_steps == pytest.approx(line["steps_per_genome"])
            # Subsets are stratified and steps are whole: a batch an epoch and a step more, at most.
            assert -1e-9 <= result.cost.steps - result.cost.planned_steps < 2.5


def set_pace(turn: Turn) -> dict[str, float]:
    """The hook of the next test: the gene `pace` scales the learning rate."""
    pace = turn.genome.extra["pace"]
    assert (pace is None) == (turn.genome.lora_cfg.r != 4)
    factor = 1e-9 if pace == 0.5 else 1.0
    return {"learning_rate": turn.genome.learning_rate * factor}


def test_a_users_gene_reaches_the_users_hook(
    tmp_path: Path, evolve: Callable[..., History], worker: Worker
) -> None:
    config = configure(
        evolution={"population": 6},
        training={"hook": "some:where", "evaluations_per_stage": 1},
        hyperband={"training_stages": [STAGES[3]], "grow_rank_at": None},
    )
    worker._hook = set_pace
    try:
        history = evolve(tmp_path / "run", config)
    finally:
        worker._hook = None
    paces = {result.genome.extra["pace"] for result in history.results}
    assert paces == {None, 0.5, 2.0}
    for result in history.results:
        weights = load_checkpoint(tmp_path / "run" / "checkpoints", result.checkpoint or "").weights
        moved = max(float(b.abs().max()) for _, b in weights.lora.values())  # B begins at 0
        assert (moved < 1e-9) == (result.genome.extra["pace"] == 0.5)
        assert result.genome.learning_rate >= 0.0005, "recorded are the genes, not what was used"
