"""How lost checkpoints are trained again, with a worker that trains nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from coralx.checkpoint_files import checkpoint_path
from coralx.config import Config
from coralx.errors import CheckpointError, StoreError
from coralx.records import (
    Cost,
    Genome,
    Job,
    LoRAConfig,
    Repair,
    Start,
    Stop,
    TrainingResult,
    TrainingStage,
)
from coralx.runs import repair
from coralx.runs.opening import find_result
from coralx.runs.provenance import trained_packs
from coralx.runs.repair import Mender, train_again
from coralx.runs.reproduce import _compare
from coralx.store import History
from coralx.train.adapters import Weights
from coralx.train.checkpoint import Checkpoint, is_stand_in, load_checkpoint, save_checkpoint
from coralx.train.resize import Moments

STAGE = TrainingStage(name="S0", epoch_budget=1, data_percentage=100, survival_rate=1)


class Trainer:
    """Leaves, for each genome, weights of its own value; `value` maps genomes to what they leave,
    None to nothing."""

    def __init__(self, folder: Path, value: dict[str, float | None]) -> None:
        self.bench = SimpleNamespace(checkpoints=folder)
        self.value, self.trained = value, []
        self.observed: list[Any] = []

    def leave(self, genome: str) -> str | None:
        value = self.value[genome]
        if value is None:
            return None
        weights, first, second = (
            Weights({}, {"head.weight": torch.full((1, 2), value)}) for _ in range(3)
        )
        moments = Moments(first, second, 3)
        return save_checkpoint(
            self.bench.checkpoints, Checkpoint(genome, "S0", LoRAConfig(), weights, moments)
        )

    def train(self, job: Job, observe: Callable[[Any], None]) -> Iterator[TrainingResult]:
        self.trained.append(job.id)
        self.observed.append(observe)
        for genome, start in zip(job.genomes, job.starts, strict=True):
            if start.checkpoint:
                load_checkpoint(self.bench.checkpoints, start.checkpoint)
            left = self.leave(genome.id)
            stop = Stop(gate="non_finite", value=0, limit=0, reason="its loss was NaN")
            yield _result(job, genome, start, left, None if left else stop)


def _result(
    job: Job, genome: Genome, start: Start, left: str | None, stop: Stop | None = None
) -> TrainingResult:
    return TrainingResult(
        job=job.id, genome=genome, generation=0, stage="S0", stage_index=job.stage_index,
        lora_cfg=LoRAConfig(), start=start, checkpoint=left, stopped=stop, cost=Cost(steps=5),
    )  # fmt: skip


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    return Trainer(tmp_path / "checkpoints", {"a": 1.0, "b": 2.0, "c": 3.0})


@pytest.fixture
def history(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> History:
    """a and b in a pack, c inherits from a."""
    history = History(config=Config(), facts={}, jobs=[], results=[])

    def run(name: str, starts: dict[str, Start]) -> None:
        genomes = tuple(Genome(id=own) for own in starts)
        job = Job(id=name, generation=0, stage=STAGE, stage_index=0, genomes=genomes,
                  starts=tuple(starts.values()))  # fmt: skip
        history.jobs.append(job)
        history.results.extend(trainer.train(job, lambda _: None))

    run("j0", {"a": Start(), "b": Start()})
    a = history.results[0].checkpoint
    run("j1", {"c": Start(kind="inherit", checkpoint=a)})
    trainer.trained.clear()
    trainer.observed.clear()
    monkeypatch.setattr(repair, "read_history", lambda _: history)
    return history


class Journal:
    def __init__(self) -> None:
        self.repairs: list[Repair] = []

    def append(self, _kind: str, record: Repair) -> None:
        self.repairs.append(record)


def _name(history: History, genome: str) -> str:
    return next(r.checkpoint or "" for r in history.results if r.genome.id == genome)


def _lose(trainer: Trainer, *names: str) -> None:
    for name in names:
        checkpoint_path(trainer.bench.checkpoints, name).unlink()


def _mend(
    trainer: Any, history: History, name: str, observe: Any = None
) -> tuple[Repair, list[str]]:
    journal, said = Journal(), []
    mender = Mender(Path("run"), trainer, journal, said.append, observe)  # type: ignore[arg-type]
    mender.heal(lambda: load_checkpoint(trainer.bench.checkpoints, name))
    return journal.repairs[-1], said


def test_a_repair_through_an_ancestor_with_other_bits_is_not_identical(
    trainer: Trainer, history: History
) -> None:
    """Even where the last pack came to the same ones by chance: its figures are of another start.
    All that was trained counts, and is observed."""
    a, c = _name(history, "a"), _name(history, "c")
    _lose(trainer, a, c)
    trainer.value["a"] = 1.5
    observe = object()
    found, said = _mend(trainer, history, c, observe)
    assert not found.identical
    assert found.jobs == ("j0", "j1")
    assert found.steps == 15  # two genomes, then one
    assert said[-1].endswith("not to the same bits")
    assert trainer.observed == [observe, observe]
    assert is_stand_in(trainer.bench.checkpoints, a)
    assert not is_stand_in(trainer.bench.checkpoints, c)


def test_a_repair_to_the_same_bits_takes_what_is_needed_and_says_so(
    trainer: Trainer, history: History
) -> None:
    c = _name(history, "c")
    _lose(trainer, c)
    found, said = _mend(trainer, history, c)
    assert (found.checkpoint, found.identical, found.jobs) == (c, True, ("j1",))
    assert trainer.trained == ["j1"], "a is there"
    assert len(said) == 1


def test_one_that_leaves_no_weights_now_is_an_error_with_its_reason(
    trainer: Trainer, history: History
) -> None:
    a = _name(history, "a")
    _lose(trainer, a)
    trainer.value["a"] = None
    with pytest.raises(StoreError, match=f"{a} cannot be trained again: its loss was NaN"):
        _mend(trainer, history, a)


@pytest.mark.parametrize("now", [None, 2.0])
def test_a_mate_that_left_nothing_then_does_not_matter(
    now: float | None, trainer: Trainer, history: History
) -> None:
    a = _name(history, "a")
    history.results[1] = history.results[1].model_copy(update={"checkpoint": None})
    _lose(trainer, a)
    trainer.value["b"] = now
    found, _ = _mend(trainer, history, a)
    assert found.identical == (now is None)


def test_what_was_mended_and_is_lost_once_more_is_not_trained_for_ever(
    trainer: Trainer, history: History
) -> None:
    a = _name(history, "a")
    mender = Mender(Path("run"), trainer)  # type: ignore[arg-type]

    tries = iter(range(9))

    def fail() -> None:
        next(tries)
        raise CheckpointError(a, "is missing")

    def take_and_lose() -> None:
        load_checkpoint(trainer.bench.checkpoints, a)
        _lose(trainer, a)
        raise CheckpointError(a, "is missing")

    with pytest.raises(StoreError, match="trained again and still: is missing"):
        mender.heal(fail)  # it is whole each time
    assert trainer.trained == ["j0"]
    with pytest.raises(StoreError, match="trained again and still: is missing"):
        mender.heal(take_and_lose)
    assert trainer.trained == ["j0"]


def test_results_are_in_the_order_of_the_record(trainer: Trainer, history: History) -> None:
    (pack, _) = trained_packs(history)
    turned = type(pack)(pack.job, pack.results[::-1])
    again = train_again(trainer, turned)  # type: ignore[arg-type]
    assert [r.genome.id for r in again] == ["b", "a"]


def test_weights_that_stand_for_the_recorded_ones_are_nothing_to_compare_with(
    trainer: Trainer, history: History, tmp_path: Path
) -> None:
    a, folder = _name(history, "a"), trainer.bench.checkpoints
    trainer.bench.checkpoints = tmp_path / "again"
    trainer.value["a"] = 1.5
    other = trainer.leave("a") or ""
    assert _compare(tmp_path / "again", other, folder, a) == 0.5
    stand_in = load_checkpoint(tmp_path / "again", other)
    _lose(SimpleNamespace(bench=SimpleNamespace(checkpoints=folder)), a)  # type: ignore[arg-type]
    assert _compare(tmp_path / "again", other, folder, a) is None
    trainer.value["a"] = 1.7
    third = trainer.leave("a") or ""
    save_checkpoint(folder, stand_in, stands_for=a)
    assert _compare(tmp_path / "again", third, folder, a) is None


def test_a_genome_stopped_without_weights_is_none_to_reproduce(history: History) -> None:
    """And a later stage that left none does not hide the one that did."""
    later = history.results[0].model_copy(update={"checkpoint": None, "stage_index": 1})
    lost = later.model_copy(update={"genome": Genome(id="ab")})
    history.results.extend([later, lost])
    assert find_result(history, Path("run"), "a").checkpoint == _name(history, "a")
    with pytest.raises(StoreError, match="no trained genome begins with 'ab'"):
        find_result(history, Path("run"), "ab")


def test_a_pack_of_which_one_left_nothing_is_not_taken_for_the_maker_of_nothing(
    history: History,
) -> None:
    pack = trained_packs(history)[0]
    none = pack.results[0].model_copy(update={"checkpoint": None})
    assert type(pack)(pack.job, (none, pack.results[1])).made == {pack.results[1].checkpoint}
