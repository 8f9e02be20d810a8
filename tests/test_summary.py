"""The summary against figures worked out by hand."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from coralx.config import load_config
from coralx.errors import StoreError
from coralx.records import (
    Cost,
    Generation,
    Genome,
    Interval,
    LoRAConfig,
    Repair,
    Stop,
    TestResult,
    TrainingResult,
)
from coralx.store import History
from coralx.summary import scored_by_text, summarize, write_summary

STAGES = [
    {"name": "cheap", "epoch_budget": 0.5, "data_percentage": 10, "survival_rate": 0.5},
    {"name": "full", "epoch_budget": 2, "data_percentage": 100, "survival_rate": 1.0},
]


def result(name: str, stage: int, skill: float, steps: int, **more: Any) -> TrainingResult:
    return TrainingResult(
        job=f"job-{stage}",
        genome=Genome(id=name),
        generation=more.pop("generation", 0),
        stage=("cheap", "full")[stage],
        stage_index=stage,
        lora_cfg=LoRAConfig(r=16),
        objectives={"task_skill": skill, "memory": 1e8},
        details={"auroc/task/fraud": skill},
        cost=Cost(
            steps=steps,
            planned_steps=float(steps),
            tokens=10 * steps,
            train_seconds=0.5 * steps,
            eval_seconds=1.0,
            busy_share=0.8,
        ),
        **more,
    )


@pytest.fixture
def history() -> History:
    """Two generations of two genomes, 100 steps per epoch: `a` and `d` finish, `b` is stopped."""
    reason = "AUROC 0.5 is below the limit of 0.55"
    stop = Stop(gate="auroc", value=0.5, limit=0.55, reason=reason)
    config = {
        "objectives": ["task_skill", "memory"],
        "hyperband": {"training_stages": STAGES, "grow_rank_at": None},
        "evolution": {"seed": 7, "population": 2, "generations": 2},
    }
    return History(
        config=load_config(config),
        facts={
            "steps_per_epoch": 100.0,
            "versions": {"coralx": "0.1.0"},
            "seed": 7,
            "left_out": {"rows.csv": 2},
        },
        results=[
            result("a", 0, 0.6, 5),
            result("b", 0, 0.5, 5, stopped=stop),
            result("a", 1, 0.8, 200),
            result("c", 0, 0.6, 5, generation=1),
            result("d", 0, 0.7, 5, generation=1),
            result("d", 1, 0.9, 200, generation=1),
        ],
        generations=[
            Generation(
                index=0,
                population=("a",),
                front=("a",),
                front_stages=("full",),
                hypervolume=0.3,
                diversity=0.9,
                first_front_share=0.5,
            ),
            Generation(
                index=1,
                population=("a", "d"),
                front=("a", "d"),
                front_stages=("full", "full"),
                hypervolume=0.4,
                diversity=0.8,
                first_front_share=1.0,
            ),
        ],
        tests=[
            TestResult(
                genome="d",
                stage="full",
                objectives={"task_skill": Interval(value=0.88, low=0.8, high=0.93)},
                attack_threshold=0.5,
            )
        ],
        repairs=[
            Repair(checkpoint=name, reason="", jobs=(), steps=0, seconds=0, identical=same)
            for name, same in (("a/cheap-1", True), ("a/full-2", False))
        ],
        seconds=300.0,
        finished=True,
    )


def test_front_has_the_highest_stage_best_first(history: History) -> None:
    best, second = summarize(history)["front"]
    assert (best["genome"], second["genome"]) == ("d", "a")
    assert best["stage"] == "full"
    assert best["objectives"] == {"task_skill": 0.9, "memory": 1e8}
    assert best["test"] == {"task_skill": {"value": 0.88, "low": 0.8, "high": 0.93}}
    assert best["details"] == {"auroc/task/fraud": 0.9}
    assert best["adapter"] == "adapters/d"
    assert best["genes"]["target_modules"] == ["query", "value"]
    assert (best["genes"]["r"], best["trained_rank"]) == (8, 16)
    assert second["objectives"]["task_skill"] == 0.8
    assert second["test"] == {}


def test_a_genome_is_scored_by_text_alone_where_there_are_pictures_to_leave_out(
    history: History,
) -> None:
    history.config = load_config({"hyperband": {"cross_modal_proxy": True}})
    for images in (False, True):
        history.facts["images"] = images
        assert scored_by_text(history, result("any", 1, 0.8, 1)) is images


def test_funnel_and_stopped(history: History) -> None:
    summary = summarize(history)
    assert summary["funnel"] == [{"cheap": 2, "full": 1}, {"cheap": 2, "full": 1}]
    (stopped,) = summary["stopped"]
    assert (stopped["genome"], stopped["stage"]) == ("b", "cheap")
    assert stopped["reason"] == "AUROC 0.5 is below the limit of 0.55"


def test_merged_children_that_beat_both_parents_untrained(history: History) -> None:
    assert summarize(history)["merge"] == {"children": 0, "beat_better_parent": 0}
    for own, best in ((0.9, 0.8), (0.8, 0.8), (0.7, 0.8)):
        child = result("m", 0, 0.6, 5)
        compared = {"auroc_at_start": own, "auroc_of_better_parent": best}
        history.results.append(child.model_copy(update={"details": compared}))
    assert summarize(history)["merge"] == {"children": 3, "beat_better_parent": 1}


def test_efficiency_is_naive_over_actual(history: History) -> None:
    spent = summarize(history)["efficiency"]
    # four genomes, two epochs of 100 steps each, against 4 x 5 + 2 x 200 steps trained
    assert spent["naive_steps"] == 800
    assert spent["steps"] == 420
    assert spent["efficiency_ratio"] == pytest.approx(800 / 420)
    assert spent["tokens"] == 4200
    assert spent["seconds"] == pytest.approx(0.5 * 420 + 6)
    assert spent["busy_share"] == pytest.approx(0.8)
    assert [stage["name"] for stage in spent["stages"]] == ["cheap", "full"]


def test_facts_of_the_run(history: History) -> None:
    summary = summarize(history)
    assert summary["hypervolume"] == 0.4
    assert summary["seed"] == 7
    assert summary["versions"] == {"coralx": "0.1.0"}
    assert summary["left_out"] == {"rows.csv": 2}
    assert summary["stand_ins"] == ["a/full-2"]
    assert summary["genomes"] == 4
    assert summary["wall_seconds"] == 300.0
    assert summary["objectives"] == {"task_skill": "max", "memory": "min"}
    assert [item["front_size"] for item in summary["generations"]] == [1, 2]
    assert [item["first_front_share"] for item in summary["generations"]] == [0.5, 1.0]
    # of the two in `cheap` of generation 0, b was stopped; in generation 1, d dominates c
    assert [item["non_dominated"]["cheap"] for item in summary["generations"]] == [1.0, 0.5]
    assert {"r", "learning_rate"} <= set(summary["space"])


def test_correlation_between_stages(history: History) -> None:
    # Nine more of generation 0: the better in `cheap` the worse in `full`.
    for place in range(9):
        history.results.append(result(f"n{place}", 0, 0.6 + place / 100, 5))
        history.results.append(result(f"n{place}", 1, 0.9 - place / 100, 200))
    skill, memory = summarize(history)["stage_correlation"]
    assert (skill["stage"], skill["next_stage"]) == ("cheap", "full")
    assert (skill["objective"], memory["objective"]) == ("task_skill", "memory")
    # a goes with them, equal to the lowest and lower than all there: ranks 1.5 and 1; b never got
    # to `full`, and d is alone in generation 1
    assert (skill["entered"], skill["n"]) == (13, 10)
    assert -0.8 < skill["rho"] < -0.5
    assert skill["predicts"] is False
    assert (memory["rho"], memory["predicts"]) == (None, None)  # all the same


def test_empty_run() -> None:
    summary = summarize(History(config=load_config(None), facts={}))
    assert summary["front"] == summary["funnel"] == summary["stopped"] == []
    assert summary["hypervolume"] is None
    assert summary["seed"] == 0


def test_what_json_cannot_hold_is_null(history: History, tmp_path: Path) -> None:
    history.results.append(result("d", 1, math.nan, 1, generation=1))
    write_summary(history, tmp_path / "summary.json")
    text = (tmp_path / "summary.json").read_text(encoding="utf-8")
    summary = json.loads(text, parse_constant=pytest.fail)
    assert summary["front"][-1]["objectives"]["task_skill"] is None
    assert [item.name for item in tmp_path.iterdir()] == ["summary.json"]


def test_a_folder_that_cannot_be_written_is_named(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/a/temporary/name")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StoreError, match=r"cannot be written: Read-only.*writing in") as caught:
        write_summary(history, tmp_path / "summary.json")
    assert str(caught.value).startswith(f"{tmp_path}/summary.json: ")
    assert "temporary" not in str(caught.value).replace(str(tmp_path), "")


def test_front_member_without_result_is_left_out(history: History) -> None:
    history.results = [item for item in history.results if item.genome.id != "d"]
    assert [member["genome"] for member in summarize(history)["front"]] == ["a"]


def test_every_key_is_documented(history: History) -> None:
    text = (Path(__file__).parents[1] / "docs" / "summary.md").read_text(encoding="utf-8")
    summary = summarize(history)
    keys = {*summary, *summary["front"][0], *summary["efficiency"], *summary["generations"][0]}
    assert [key for key in sorted(keys) if f"`{key}`" not in text] == []
