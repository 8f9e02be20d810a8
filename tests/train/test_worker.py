"""A pack that meets trouble: a genome that breaks down, memory that does not suffice."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kill_runs import CONFIG

from coralx.config import load_config
from coralx.records import Genome, Job, LoRAConfig, Progress, Start, Stop, TrainingResult
from coralx.steps import stage_steps
from coralx.train import pack_step
from coralx.train.adapters import Weights
from coralx.train.checkpoint import load_checkpoint
from coralx.train.data import batches, subset
from coralx.train.evaluate import EvaluationSet
from coralx.train.hook import Turn
from coralx.train.member import Member, StageWork
from coralx.train.optim import PackOptimizer
from coralx.train.parting import is_shortage, train_parted
from coralx.train.worker import SKILL_SHARE, Worker

TIMES = {"train_seconds", "eval_seconds", "busy_share", "peak_memory"}


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    return Worker(load_config(CONFIG), tmp_path_factory.mktemp("checkpoints"))


def genome(name: str, rate: float = 2e-3, **lora: Any) -> Genome:
    settings = {"r": 4, "layers": 2, "target_modules": ("query", "value")} | lora
    return Genome(id=name, lora_cfg=LoRAConfig(**settings), learning_rate=rate)


HEALTHY = (
    genome("a", r=2, layers=1),
    genome("b", 4e-3, dropout=0.1),
    genome("c", target_modules=("all-linear",)),
)
# With another depth and rank, so that the others' shapes would change if it left a trace.
DOOMED = genome("doomed", 1e30, r=16, layers=3)


def make_job(worker: Worker, genomes: Sequence[Genome], stage: int = 2) -> Job:
    return Job(
        id=f"g0-{stage}",
        generation=0,
        stage=worker.config.hyperband.stages[stage],
        stage_index=stage,
        genomes=tuple(genomes),
        starts=(Start(),) * len(genomes),
    )


def timeless(results: Sequence[TrainingResult]) -> list[dict[str, Any]]:
    """All that is the genomes' own: no times, and not in which pack."""
    plain = [result.model_dump(exclude={"pack"}) for result in results]
    for result in plain:
        result["cost"] = {k: v for k, v in result["cost"].items() if k not in TIMES}
    return plain


def poison(
    worker: Worker, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Member], None]
) -> None:
    """Have `spoil` called on the genome `doomed` once its pack has trained."""
    train = worker._trainer.train

    def train_and_spoil(members: Sequence[Member], *rest: Any) -> None:
        train(members, *rest)
        for member in members:
            if member.genome.id == "doomed":
                spoil(member)

    monkeypatch.setattr(worker._trainer, "train", train_and_spoil)


@pytest.mark.parametrize("place", [0, 1, 3])
def test_one_that_breaks_down_leaves_no_trace_in_the_others(worker: Worker, place: int) -> None:
    """Bit for bit as in a pack in which it never was: weights (by their fingerprint in the
    checkpoint's id), objectives, curves and costs."""
    genomes = [*HEALTHY[:place], DOOMED, *HEALTHY[place:]]
    without = worker.train(make_job(worker, HEALTHY))
    results = worker.train(make_job(worker, genomes))
    assert [result.genome.id for result in results] == [genome.id for genome in genomes]
    broken = results.pop(place)
    assert timeless(results) == timeless(without)
    assert all(result.checkpoint and result.pack is None for result in without)
    assert all(result.pack == ("a", "b", "c") for result in results)
    assert broken.stopped is not None
    assert broken.stopped.gate == "non_finite"
    assert "step" in broken.stopped.reason
    assert broken.checkpoint is None
    assert broken.cost.steps >= 4, "what the others trained in vain is on its account"
    assert broken.cost.lost_steps < sum(r.cost.steps for r in without), "they stop when it does"


def test_who_breaks_down_has_its_own_figures_and_pays_for_all(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(worker, [*HEALTHY, genome("doomed", r=16, layers=3)])
    each = [result.cost.flops for result in worker.train(job)]

    def spoil(member: Member) -> None:
        member.stop = Stop(gate="non_finite", value=None, limit=None, reason="")

    def compare(member: Member, _: Start) -> dict[str, float]:
        return {"auroc_at_start": float(len(member.genome.id))}

    poison(worker, monkeypatch, spoil)
    monkeypatch.setattr(worker._measurer, "compare_merged", compare)
    *_, broken = worker.train(job)
    assert broken.cost.flops == pytest.approx(sum(each))
    assert broken.details["auroc_at_start"] == len("doomed")


def test_what_is_saved_is_what_was_trained(worker: Worker) -> None:
    """With the rank to which it grew, not that of its genes."""
    _, first = worker.train(make_job(worker, HEALTHY[:2], 0))
    assert str(first.checkpoint).startswith("b/first-")
    start = Start(kind="continue", checkpoint=first.checkpoint, grow_to=8)
    job = make_job(worker, HEALTHY[1:2], 1).model_copy(update={"starts": (start,)})
    (second,) = worker.train(job)
    saved = load_checkpoint(worker.bench.checkpoints, str(second.checkpoint))
    assert (saved.genome, saved.stage) == ("b", "short")
    assert saved.lora_cfg == second.lora_cfg
    assert (second.genome.lora_cfg.r, second.lora_cfg.r) == (4, 8)
    assert saved.moments.step == first.cost.steps + second.cost.steps
    first_moment, second_moment = (
        part.extra["head.weight"] for part in (saved.moments.first, saved.moments.second)
    )
    assert first_moment.min() < 0 <= second_moment.min()


def test_looks_within_a_stage_are_at_a_share_and_the_best_is_told(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here before the first step and, worse, half-way."""
    shares: list[float] = []
    told: list[Progress] = []

    def look(_: Any, pack: Any, __: int, share: float, ___: bool) -> Any:
        shares.append(share)
        return np.full(pack.size, 0.8 - 0.1 * len(shares))

    monkeypatch.setattr(EvaluationSet, "skill", look)
    long = worker.config.hyperband.stages[1].model_copy(update={"epoch_budget": 32.0})
    job = make_job(worker, HEALTHY[:1], 1).model_copy(update={"stage": long})
    worker.train(job, told.append)
    assert shares == [SKILL_SHARE] * 2
    assert SKILL_SHARE < 100
    assert told[-1].skill == pytest.approx(0.7)


def test_the_best_that_is_told_is_a_number_where_a_genome_diverged(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Progress] = []

    def look(_: Any, pack: Any, *__: Any) -> Any:
        return np.array([math.nan, 0.7, math.nan])[: pack.size]

    monkeypatch.setattr(EvaluationSet, "skill", look)
    long = worker.config.hyperband.stages[1].model_copy(update={"epoch_budget": 32.0})
    job = make_job(worker, HEALTHY, 1).model_copy(update={"stage": long})
    worker.train(job, told.append)
    assert told[-1].skill == 0.7


def test_in_lanes_too(
    worker: Worker, two_lanes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same of packs that are shared out, in which the others have lanes of their own."""
    training = worker.config.training.model_copy(update={"threads": 2})
    wide = worker.config.model_copy(update={"training": training})
    monkeypatch.setattr(worker, "config", wide)
    without = worker.train(make_job(worker, HEALTHY))
    again = worker.train(make_job(worker, HEALTHY))
    assert timeless(again) == timeless(without)
    *results, broken = worker.train(make_job(worker, [*HEALTHY, DOOMED]))
    assert timeless(results) == timeless(without)
    assert broken.stopped is not None
    assert "lane-1" in two_lanes


def test_nan_in_weights_after_the_last_step_is_found(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = worker.train(make_job(worker, HEALTHY))

    def spoil(member: Member) -> None:
        extra = {k: torch.full_like(v, torch.nan) for k, v in member.weights.extra.items()}
        member.weights = Weights(member.weights.lora, extra)

    poison(worker, monkeypatch, spoil)
    *results, broken = worker.train(make_job(worker, [*HEALTHY, genome("doomed")]))
    assert timeless(results) == timeless(without)
    assert broken.stopped is not None
    assert "weights hold NaN" in broken.stopped.reason


def test_nan_in_the_gradient_alone_is_found(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forward pass is fine, the way back is not."""
    without = worker.train(make_job(worker, HEALTHY))
    pack = worker.bench.pack
    assert pack is not None
    clip = PackOptimizer.clip

    def spoil(self: PackOptimizer, limit: float | None) -> torch.Tensor:
        if self._pack.size == 4:
            self._pack.gradients[3, 0] = torch.inf
        return clip(self, limit)

    monkeypatch.setattr(PackOptimizer, "clip", spoil)
    results = worker.train(make_job(worker, [*HEALTHY, genome("doomed")]))
    stopped = {r.genome.id: r.stopped for r in results if r.stopped}
    assert list(stopped) == ["doomed"]
    assert "gradient norm became inf" in stopped["doomed"].reason
    assert timeless([r for r in results if not r.stopped]) == timeless(without)


def test_all_break_down_together(worker: Worker) -> None:
    doomed = [genome(name, 1e30) for name in "xyz"]
    results = worker.train(make_job(worker, doomed))
    assert all(r.stopped and r.stopped.gate == "non_finite" for r in results)


def test_what_broke_down_is_not_computed_further(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, score = [], pack_step.score
    monkeypatch.setattr(pack_step, "score", lambda *of: taken.append(of) or score(*of))
    told: list[Progress] = []
    (broken,) = worker.train(make_job(worker, [DOOMED]), told.append)
    assert broken.stopped is not None
    assert (told[0].alive, told[-1].alive) == (1, 0)
    assert f"at step {len(taken)} of" in broken.stopped.reason
    assert len(taken) == broken.cost.steps + 1, "the step in which it broke down is the last"


def test_a_curve_goes_on_where_training_was_not_where_the_weights_are_from(worker: Worker) -> None:
    (first,) = worker.train(make_job(worker, HEALTHY[:1], 0))
    start = Start(kind="continue", checkpoint=first.checkpoint, steps=100)
    job = make_job(worker, HEALTHY[:1], 1).model_copy(update={"starts": (start,)})
    (second,) = worker.train(job)
    steps = [point.step for point in second.curve]
    assert steps[0] > 100
    assert steps[-1] == 100 + second.cost.steps


class Enough(Exception):
    """Ends a stage where it would begin to train."""


@pytest.fixture
def planned(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Job], tuple[Sequence[Member], StageWork]]:
    """Who would be trained for a job, and on what."""
    told: list[tuple[Sequence[Member], StageWork]] = []

    def note(members: Sequence[Member], plan: StageWork, *_: Any) -> None:
        told.append((members, plan))
        raise Enough

    monkeypatch.setattr(worker._trainer, "train", note)

    def ask(job: Job) -> tuple[Sequence[Member], StageWork]:
        with pytest.raises(Enough):
            worker.train(job)
        return told.pop()

    return ask


def test_a_stage_is_planned_as_the_run_is_configured(worker: Worker, planned: Any) -> None:
    bench, settings = worker.bench, worker.config.training
    for index, stage in enumerate(worker.config.hyperband.stages):
        _, plan = planned(make_job(worker, HEALTHY[:1], index))
        chosen = subset(bench.splits.train, stage.data_percentage, bench.seed)
        key, count = [bench.seed, index], len(plan.batches)
        assert count == math.ceil(stage.epoch_budget * math.ceil(len(chosen) / settings.batch_size))
        own = batches(chosen, bench.rows.lengths, settings.batch_size, count, key)
        assert np.concatenate(plan.batches).tolist() == np.concatenate(own).tolist()
        assert (plan.index, plan.last) == (index, index == 2)
        assert plan.warmup_epoch == math.ceil(len(bench.splits.train) / settings.batch_size)
        assert (plan.patience, plan.least_gain) == (settings.patience, settings.least_gain)
    assert settings.least_gain


@pytest.mark.parametrize(("index", "before"), [(0, []), (1, [0])])
def test_a_long_stage_is_examined_before_its_first_step_where_something_was_trained(
    index: int, before: list[int], worker: Worker, planned: Any
) -> None:
    long = worker.config.hyperband.stages[1].model_copy(update={"epoch_budget": 32.0})
    _, plan = planned(make_job(worker, HEALTHY[:1], index).model_copy(update={"stage": long}))
    steps = len(plan.batches)
    assert steps % 2 == 0
    assert list(plan.examine_at) == [*before, steps // 2]  # at its end it is measured as a whole


def test_a_hook_decides_what_is_trained(
    worker: Worker, planned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[Turn] = []
    monkeypatch.setattr(worker, "_hook", lambda turn: turns.append(turn) or {"learning_rate": 9})
    (member, *_), _ = planned(make_job(worker, HEALTHY))
    assert (member.genome.id, member.genome.learning_rate) == ("a", 9)
    assert [turn.genome for turn in turns] == list(HEALTHY)
    assert {turn.stage for turn in turns} == {"long"}


def test_a_stage_is_measured_on_its_own_share(
    worker: Worker, planned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    validation = worker.bench.validation
    monkeypatch.setattr(
        worker.bench, "validation", lambda share: asked.append(share) or validation(share)
    )
    for index in (0, 2):
        planned(make_job(worker, HEALTHY[:1], index))
    assert asked == [50, 100]


def test_what_a_stage_cost_is_told(worker: Worker) -> None:
    """The steps planned are not rounded."""
    job = make_job(worker, HEALTHY[:1], 0)
    (result,) = worker.train(job)
    planned = stage_steps(job.stage, worker.bench.steps_per_epoch)
    assert result.cost.planned_steps == float(planned) != result.cost.steps
    assert 0 < result.cost.busy_share <= 1
    assert result.cost.peak_memory > 2**20


def test_the_gates_are_told_of_the_gradients(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before they are clipped."""
    norms: list[float] = []
    clip = PackOptimizer.clip

    def note(self: PackOptimizer, limit: float | None) -> torch.Tensor:
        found = clip(self, limit)
        norms.extend(found.tolist())
        return found

    monkeypatch.setattr(PackOptimizer, "clip", note)
    (result,) = worker.train(make_job(worker, HEALTHY[:1]))
    assert len(norms) == result.cost.steps
    assert result.details["grad_norm"] == pytest.approx(np.median(norms))


def test_who_left_early_says_so(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    train = worker._trainer.train

    def leave(members: Sequence[Member], *rest: Any) -> None:
        train(members, *rest)
        members[1].left_early = True

    monkeypatch.setattr(worker._trainer, "train", leave)
    results = worker.train(make_job(worker, HEALTHY[:2]))
    assert [result.left_early for result in results] == [False, True]


SHORTAGES = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 8 bytes. Error code 12 (Cannot allocate memory)"
    ),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
]


@pytest.mark.parametrize("shortage", SHORTAGES, ids=[type(e).__name__ + str(i) for i, e in
                                                     enumerate(SHORTAGES)])  # fmt: skip
def test_whatever_says_that_memory_is_short_parts_the_pack(
    shortage: Exception, worker: Worker
) -> None:
    sizes: list[int] = []

    def attempt(part: Job, _: list[Member]) -> list[TrainingResult]:
        sizes.append(len(part.genomes))
        if len(part.genomes) > 1:
            raise shortage
        return [part.result(0)]

    results = train_parted(make_job(worker, HEALTHY[:2]), attempt)
    assert sizes == [2, 1, 1]
    assert [r.pack for r in results] == [("a",), ("b",)]


def test_out_of_memory_parts_the_pack_and_stops_who_does_not_fit_alone(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real trainer on an allocator that fails for packs above two and for one genome."""
    genomes = [*HEALTHY, genome("huge"), genome("d")]
    train, sizes = worker._trainer.train, []

    def run_short(members: Sequence[Member], *rest: Any) -> None:
        sizes.append(len(members))
        if len(members) > 2 or any(member.genome.id == "huge" for member in members):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        train(members, *rest)

    with monkeypatch.context() as short:
        short.setattr(worker._trainer, "train", run_short)
        results = worker.train(make_job(worker, genomes))
    assert sizes == [5, 2, 3, 1, 2, 1, 1]
    assert [r.pack for r in results] == [("a", "b"), ("a", "b"), ("c",), ("huge",), ("d",)]
    stopped = [r for r in results if r.stopped]
    assert [r.genome.id for r in stopped] == ["huge"]
    assert stopped[0].stopped is not None
    assert stopped[0].stopped.gate == "out_of_memory"
    assert "lower training.batch_size" in stopped[0].stopped.reason
    assert timeless(results[:2]) == timeless(worker.train(make_job(worker, HEALTHY[:2])))


def test_what_ran_out_of_memory_is_paid_for(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pack of three trains its steps before memory fails; one alone, too."""
    alone = worker.train(make_job(worker, HEALTHY[:1]))
    train = worker._trainer.train

    def run_short(members: Sequence[Member], *rest: Any) -> None:
        train(members, *rest)
        if len(members) > 1 or members[0].genome.id == "b":
            raise MemoryError

    monkeypatch.setattr(worker._trainer, "train", run_short)
    results = worker.train(make_job(worker, HEALTHY))
    each = alone[0].cost.steps
    assert [r.cost.steps for r in results] == [4 * each, 3 * each, each]
    assert [r.cost.kept_steps for r in results] == [each, 0, each]
    assert [r.stopped is not None for r in results] == [False, True, False]
    assert results[0].cost.tokens == 4 * alone[0].cost.tokens
    assert results[0].curve == alone[0].curve
    assert all(r.cost.train_seconds > 0 for r in results)


def test_an_attempt_that_came_to_no_members_is_paid_for(worker: Worker) -> None:
    def attempt(part: Job, _: list[Member]) -> list[TrainingResult]:
        if len(part.genomes) > 1:
            time.sleep(0.1)
            raise MemoryError
        return [part.result(0)]

    genomes = [genome(name) for name in "abcd"]
    seconds = [r.cost.train_seconds for r in train_parted(make_job(worker, genomes), attempt)]
    assert seconds[0] >= 0.2, "all four, then the first two"
    assert seconds[2] >= 0.1
    assert seconds[1] == seconds[3] == 0


def test_the_seconds_of_a_pack_that_broke_off_are_counted_once(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four, two break down together: all of the attempt is theirs, with what came before its
    first step."""
    train, walls = worker._trainer.train, []
    attempt = worker._train_together

    def spoil(members: Sequence[Member], *rest: Any) -> None:
        if len(members) < 4:
            return train(members, *rest)
        time.sleep(0.2)
        for member in members:
            member.seconds += 0.2 / len(members)
            if member.genome.id.startswith("doomed"):
                member.stop = Stop(gate="non_finite", value=None, limit=None, reason="")

    def compare(member: Member, _: Start) -> dict[str, float]:
        time.sleep(0.05)
        member.eval_seconds += 0.05
        return {}

    def watch(*of: Any) -> list[TrainingResult]:
        began = time.perf_counter()
        results = attempt(*of)
        walls.append(time.perf_counter() - began)
        return results

    monkeypatch.setattr(worker._trainer, "train", spoil)
    monkeypatch.setattr(worker._measurer, "compare_merged", compare)
    monkeypatch.setattr(worker, "_train_together", watch)
    results = worker.train(make_job(worker, [*HEALTHY[:2], genome("doomed1"), genome("doomed2")]))
    whole, broken = (
        sum(r.cost.train_seconds + r.cost.eval_seconds for r in part)
        for part in (results, results[2:])
    )
    assert all(result.stopped for result in results[2:])
    assert 4 * 0.05 + 0.2 <= broken <= walls[0]
    assert whole <= sum(walls)


def test_other_errors_are_not_taken_for_a_shortage(worker: Worker) -> None:
    def fail(_: Job, __: list[Member]) -> list[TrainingResult]:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        train_parted(make_job(worker, HEALTHY), fail)
    assert not is_shortage(ValueError("out of memory"))
    assert is_shortage(RuntimeError("could not create a primitive"))  # of oneDNN: all it says
    unsupported = "could not create a primitive descriptor for a matmul primitive"
    assert not is_shortage(RuntimeError(unsupported))


LIMITED = """
import json, resource, sys
from pathlib import Path
import test_worker as t
from coralx.config import load_config
from coralx.train.worker import Worker
settings = t.CONFIG
settings["data"] |= {"max_tokens": 64, "max_rows": 96}
settings["training"] |= {"batch_size": 48, "evaluation_batch": 8}
worker = Worker(load_config(settings), Path(sys.argv[1]))
genomes = [t.genome(f"g{i}", target_modules=("all-linear",), layers="all") for i in range(4)]
worker.train(t.make_job(worker, genomes[:1], 1))  # whatever is loaded once
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]) * 2**20,) * 2)
results = worker.train(t.make_job(worker, genomes, 1))
print(json.dumps([[r.genome.id, r.pack, r.stopped and r.stopped.gate] for r in results]))
"""


def test_a_pack_that_really_runs_out_of_memory_is_parted(tmp_path: Path) -> None:
    """The system refuses to give more than 400 MiB beyond what one genome needed."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path), "400"],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert [name for name, _, _ in results] == [f"g{i}" for i in range(4)]
    assert all(gate is None for _, _, gate in results)
    assert all(pack is not None and 1 <= len(pack) < 4 for _, pack, _ in results)
