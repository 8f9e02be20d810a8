"""`coralx reproduce`: the winner from its lineage, and how checkpoints are traced back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from coralx.config import Config, load_config
from coralx.errors import StoreError
from coralx.records import (
    Generation,
    Genome,
    Job,
    LoRAConfig,
    Start,
    TrainingResult,
    TrainingStage,
)
from coralx.report.lives import read_lives
from coralx.runs import reproduce as reproduce_module
from coralx.runs.facts import warn_of_other_bits
from coralx.runs.opening import find_result
from coralx.runs.provenance import packs_to
from coralx.runs.repair import train_again
from coralx.runs.reproduce import Reproduction, reproduce
from coralx.store import JOURNAL, History, Store, read_history
from coralx.summary import current_front

ROOT = Path(__file__).parents[2]
STAGES = [
    TrainingStage(name=name, epoch_budget=1, data_percentage=100, survival_rate=1)
    for name in ("S0", "S1")
]


def trained(
    job: str, stage: int, genomes: dict[str, Start], packs: tuple[tuple[str, ...], ...] = ()
) -> tuple[Job, list[TrainingResult]]:
    known = {name: Genome(id=name) for name in genomes}
    made = Job(
        id=job,
        generation=0,
        stage=STAGES[stage],
        stage_index=stage,
        genomes=tuple(known.values()),
        starts=tuple(genomes.values()),
    )
    pack_of = {name: pack for pack in packs for name in pack}
    results = [
        TrainingResult(
            job=job,
            genome=genome,
            generation=0,
            stage=STAGES[stage].name,
            stage_index=stage,
            lora_cfg=LoRAConfig(),
            start=genomes[name],
            checkpoint=f"{name}/S{stage}",
            pack=pack_of.get(name),
        )
        for name, genome in known.items()
    ]
    return made, results


@pytest.fixture
def history() -> History:
    """a and b in a pack, c alone beside d; b goes on; e inherits from b, in a pack with f."""
    rows = [
        trained("j0", 0, {"a": Start(), "b": Start()}),
        trained("j1", 0, {"c": Start(), "d": Start()}, (("c",), ("d",))),
        trained("j2", 1, {"b": Start(kind="continue", checkpoint="b/S0")}),
        trained(
            "j3",
            0,
            {
                "e": Start(kind="inherit", checkpoint="b/S1"),
                "f": Start(kind="inherit", checkpoint="c/S0"),
            },
        ),
    ]
    jobs = [job for job, _ in rows]
    results = [result for _, results in rows for result in results]
    return History(config=Config(), facts={}, jobs=jobs, results=results)


def trace(history: History, checkpoint: str, whole: set[str]) -> list[tuple[str, list[str]]]:
    steps = packs_to(history, checkpoint, whole.__contains__)
    return [(step.job.id, [genome.id for genome in step.job.genomes]) for step in steps]


def test_a_schedule_holds_every_job_of_the_lineage_with_its_pack(history: History) -> None:
    assert trace(history, "e/S0", set()) == [
        ("j0", ["a", "b"]),
        ("j1", ["c"]),  # as it was parted; d has nothing to do with it
        ("j2", ["b"]),
        ("j3", ["e", "f"]),
    ]


def test_a_merged_child_goes_back_to_both_ancestors(history: History) -> None:
    start = Start(kind="merge", checkpoint="b/S1", second="c/S0")
    job, results = trained("j4", 0, {"m": start})
    history.jobs.append(job)
    history.results.extend(results)
    assert [name for name, _ in trace(history, "m/S0", set())] == ["j0", "j1", "j2", "j4"]
    assert [name for name, _ in trace(history, "m/S0", {"b/S1"})] == ["j1", "j4"]


def test_it_begins_at_the_last_good_ancestors(history: History) -> None:
    assert trace(history, "e/S0", {"b/S1", "c/S0"}) == [("j3", ["e", "f"])]
    assert trace(history, "b/S1", {"b/S0"}) == [("j2", ["b"])]
    assert trace(history, "e/S0", {"b/S0"}) == [("j1", ["c"]), ("j2", ["b"]), ("j3", ["e", "f"])]


def test_a_job_that_was_given_twice_counts_once(history: History) -> None:
    history.jobs.append(history.jobs[0])
    assert trace(history, "b/S0", set()) == [("j0", ["a", "b"])]


def test_what_no_record_explains_is_refused(history: History) -> None:
    with pytest.raises(StoreError, match="does not say how x/S0 came about"):
        trace(history, "x/S0", set())
    del history.jobs[0]
    with pytest.raises(StoreError, match="b/S0"):
        trace(history, "e/S0", set())


def test_a_member_of_the_front_is_the_result_that_is_on_it(history: History) -> None:
    closed = Generation(
        index=0,
        population=("b",),
        front=("b",),
        front_stages=("S0",),
        hypervolume=0.1,
        diversity=0.1,
        first_front_share=1.0,
    )
    assert find_result(history, Path("run"), "b").stage == "S1"
    history.generations.append(closed)
    assert find_result(history, Path("run"), "b").stage == "S0"
    assert [result.stage for result in current_front(history)] == ["S0"]
    (life,) = (life for life in read_lives(history) if life.genome.id == "b")
    assert (life.shown.stage, life.last.stage) == ("S0", "S1")


def test_an_unknown_genome_is_refused_with_those_there_are(history: History) -> None:
    assert find_result(history, Path("run"), "b").stage == "S1"
    with pytest.raises(StoreError, match="no trained genome begins with 'zz'; there are a, b"):
        find_result(history, Path("run"), "zz")


def test_a_genome_is_found_by_how_its_id_begins(history: History) -> None:
    longer = Genome(id="bc")
    first = history.results[1].model_copy(update={"genome": longer, "checkpoint": "bc/S0"})
    history.results.append(first)
    assert find_result(history, Path("run"), "bc").genome == longer
    assert find_result(history, Path("run"), "b").genome.id == "b", "an id in full is no prefix"
    with pytest.raises(StoreError, match="more than one genome begins with ''; there are a, b"):
        find_result(history, Path("run"), "")
    history.results[:] = [r for r in history.results if r.genome.id != "b"]
    assert find_result(history, Path("run"), "b").genome == longer


def outcome(again: str, difference: float | None) -> Reproduction:
    return Reproduction("a", "S1", ("j0",), 5, "a/S1-1", again, difference)


def test_the_outcome_is_told_in_words() -> None:
    assert "trained again in 1 job, 5 steps of a genome" in outcome("a/S1-1", 0.0).describe()
    assert "bit for bit" in outcome("a/S1-1", 0.0).describe()
    assert "differ by up to 0.25" in outcome("a/S1-2", 0.25).describe()
    assert "no longer there" in outcome("a/S1-2", None).describe()


def test_the_winner_is_reproduced_from_its_lineage_in_another_process(whole: Path) -> None:
    history = read_history(whole)
    front = history.generations[-1].front
    child = next((name for name in front if find_result(history, whole, name).genome.parents),
                 front[0])  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "coralx", "reproduce", str(whole), child],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bit for bit" in done.stdout
    assert find_result(history, whole, child).checkpoint in done.stdout


def test_a_sitting_on_another_machine_is_told(whole: Path, tmp_path: Path) -> None:
    """The run began where it is reproduced, and a part of it was trained elsewhere."""
    run = shutil.copytree(whole, tmp_path / "run")
    facts = read_history(run).facts
    other = facts | {"numerics": facts["numerics"] | {"threads": 64}}
    store = Store(run)
    for elsewhere in (other, facts, other):
        store.append("resumed", elsewhere)
    store.close()
    said: list[str] = []
    name = read_history(run).generations[0].front[0]
    assert reproduce(run, name, said.append).identical
    warnings = [line for line in said if "the bits may not be the same" in line]
    threads = facts["numerics"]["threads"]
    assert warnings == [
        f"warning: the bits may not be the same, because of threads: 64 then, {threads} now"
    ]


def test_other_rows_than_any_sitting_trained_by_are_told(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation rows, too: P1 is looked at on them along the way. Test rows change no weights."""
    monkeypatch.setattr("coralx.runs.facts.machine_facts", lambda _: {})
    marks = {"train": "a", "validation": "b", "test": "c"}
    worker: Any = SimpleNamespace(bench=SimpleNamespace(splits=SimpleNamespace(fingerprints=marks)))
    said: list[str] = []
    for sitting in ({"test": "x"}, {"train": "x", "validation": "x"}):
        history.facts, history.resumed = (
            {"fingerprints": marks},
            [{"fingerprints": marks | sitting}],
        )
        warn_of_other_bits(history, worker, said.append)
    assert said == [
        "warning: the bits may not be the same, because of other train rows; other validation rows"
    ]


def test_a_schedule_that_was_tampered_with_is_found_out(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another learning rate in the journal than what was trained with: other weights."""
    history = read_history(whole)
    name = history.generations[-1].front[0]
    target = find_result(history, whole, name)

    def faster(genome: Genome) -> Genome:
        changed = {"learning_rate": genome.learning_rate * 2, "id": genome.id}
        return genome.model_copy(update=changed) if genome.id == name else genome

    store = Store(tmp_path / "run")
    config = load_config(history.config, {"training": {"prefix_memory_gb": 0}})
    store.append("run_started", history.facts | {"config": config.model_dump(mode="json")})
    for job in history.jobs:
        store.append("job", job.model_copy(update={"genomes": tuple(map(faster, job.genomes))}))
    store.append("results", history.results)
    store.close()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    found = reproduce(tmp_path / "run", target.genome.id)
    assert not list(scratch.iterdir()), "frozen outputs on disk go with the rest"
    assert not found.identical
    assert found.difference is None  # the copy has no weights of its own
    assert target.checkpoint is not None
    packs = packs_to(history, target.checkpoint, lambda _: False)
    assert len(packs) > 1
    taken = sum(result.cost.steps for pack in packs for result in pack.results)
    assert found.steps == taken
    assert json.loads((whole / JOURNAL).read_text("utf-8").splitlines()[0])


def test_a_mistyped_id_is_answered_by_a_few(history: History) -> None:
    for index in range(20):
        genome = Genome(id=f"c{index:02d}")
        first = history.results[1].model_copy(
            update={"genome": genome, "checkpoint": f"{genome.id}/S0"}
        )
        history.results.append(first)
    with pytest.raises(StoreError, match=r"there are a, b, c, .*c03 and 16 more$"):
        find_result(history, Path("run"), "zz")


def test_only_what_is_still_needed_lies_on_disk(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = read_history(whole)
    name = max(history.generations[-1].front, key=lambda own: len(_lineage(history, whole, own)))
    packs = _lineage(history, whole, name)
    most = []

    def note(worker: Any, pack: Any) -> Any:
        most.append(len(list(worker.bench.checkpoints.glob("*/*"))))
        return train_again(worker, pack)

    monkeypatch.setattr(reproduce_module, "train_again", note)
    said: list[str] = []
    assert reproduce(whole, name, said.append).identical
    before = [{s for later in packs[place:] for s in later.sources} for place in range(len(packs))]
    assert len(packs) > 2
    assert all(held <= len(needed) for held, needed in zip(most, before, strict=True))
    assert any(line.startswith(f"to be trained again: {len(packs)} jobs, ") for line in said)


def _lineage(history: History, directory: Path, name: str) -> list[Any]:
    recorded = find_result(history, directory, name).checkpoint
    return packs_to(history, recorded or "", whole=lambda _: False)
