"""Measuring members whose scores are no numbers, or are those of text alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coralx.config import load_config
from coralx.records import Genome, Job, LoRAConfig, Start
from coralx.search import gates
from coralx.train.evaluate import EvaluationSet
from coralx.train.measuring import PROXY_FACTOR
from coralx.train.worker import Worker

SETTINGS = {
    "vision_tower": None,
    "objectives": ["task_skill", "strict_objective:mean"],
    "data": {"image_column": None, "max_rows": 40, "max_tokens": 16},
    "training": {"device": "cpu", "threads": 1, "attack_rows": 0},
}
MODULE = """
import numpy as np

def mean(rows):
    assert np.isfinite(rows.scores).all()
    return rows.scores.mean()

def flip(rows):
    np.subtract(1, rows.labels, out=rows.labels)
    rows.scores[:] = 0.5
    return rows.scores.mean()
"""


def test_own_objectives_are_not_asked_about_scores_that_are_no_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broken genome is the gates' business; the user's function is not to blame."""
    (tmp_path / "strict_objective.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    worker = Worker(load_config(SETTINGS), tmp_path / "checkpoints")
    score_all = EvaluationSet.score_all

    def spoil_second(self: EvaluationSet, *rest: Any) -> Any:
        scores, alone = score_all(self, *rest)
        scores[1] = np.nan
        return scores, alone

    monkeypatch.setattr(EvaluationSet, "score_all", spoil_second)
    stage = worker.config.hyperband.stages[1]
    genomes = tuple(Genome(id=name, lora_cfg=LoRAConfig(r=2, layers=1)) for name in "ab")
    job = Job(
        id="j", generation=0, stage=stage, stage_index=1, genomes=genomes, starts=(Start(),) * 2
    )
    sound, broken = worker.train(job)
    assert 0 < sound.objectives["strict_objective:mean"] < 1
    assert "strict_objective:mean" not in broken.objectives
    stop = gates.check(stage, broken)
    assert stop is not None
    assert stop.gate == "non_finite"


def test_an_own_objective_that_changes_its_arrays_spoils_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the next one's of the same genome nor any of the next genome."""
    (tmp_path / "strict_objective.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "strict_objective", raising=False)
    own = ["strict_objective:flip", "strict_objective:mean"]
    figures = []
    for names in (own, own[1:]):
        settings = SETTINGS | {"objectives": ["task_skill", "calibration", *names]}
        worker = Worker(load_config(settings), tmp_path / "checkpoints")
        stage = worker.config.hyperband.stages[1]
        genomes = tuple(Genome(id=name, lora_cfg=LoRAConfig(r=2, layers=1)) for name in "ab")
        starts = (Start(),) * 2
        results = worker.train(
            Job(id="j", generation=0, stage=stage, stage_index=1, genomes=genomes, starts=starts)
        )
        figures.append([dict(result.objectives) for result in results])
    for found in figures[0]:
        assert found.pop(own[0]) == 0.5
        assert found[own[1]] != 0.5
    assert figures[0] == figures[1]


@pytest.mark.parametrize("text_only", [True, False])
def test_the_proxy_looks_at_text_alone_and_discounts_what_it_finds(
    text_only: bool, pictured: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a stage and after it; what ranks is discounted, not the AUROC that is shown."""
    looks: list[bool] = []
    for name in ("skill", "score_all"):
        measure = getattr(EvaluationSet, name)

        def note(*of: Any, measure: Any = measure) -> Any:
            looks.append(of[-1])
            return measure(*of)

        monkeypatch.setattr(EvaluationSet, name, note)
    for index in (0, 1):
        job = Job(
            id="j",
            generation=0,
            stage=pictured.config.hyperband.stages[index],
            stage_index=index,
            genomes=(Genome(id="a", lora_cfg=LoRAConfig(r=2, layers=1)),),
            starts=(Start(),),
            text_only=text_only,
        )
        (result,) = pictured.train(job)
        factor = PROXY_FACTOR if text_only else 1
        assert result.objectives["task_skill"] == factor * result.details["auroc"]
    assert looks == [not text_only] * 2
    assert PROXY_FACTOR < 1


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    settings = {
        "objectives": ["task_skill"],
        "data": {"max_rows": 60, "max_tokens": 16},
        "training": SETTINGS["training"],
    }
    return Worker(load_config(settings), tmp_path_factory.mktemp("pictured") / "checkpoints")
