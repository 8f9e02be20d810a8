"""Measuring members whose scores are no numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coralx.config import load_config
from coralx.records import Genome, Job, LoRAConfig, Start
from coralx.search import gates
from coralx.train.evaluate import EvaluationSet
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
