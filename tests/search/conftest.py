"""Results made up for testing the state machine: no figure here says anything about training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from coralx.config import Config
from coralx.records import Cost, Genome, Job, TrainingResult

SKILL, COST = "task_skill", "false_positive_cost"


def _make_result(genome: str, stage_index: int = 0, **facts: Any) -> TrainingResult:
    """A result by genome id; objectives default to none."""
    named = Genome(id=genome)
    defaults = {
        "job": "j",
        "genome": named,
        "generation": 0,
        "stage": f"S{stage_index}",
        "stage_index": stage_index,
        "lora_cfg": named.lora_cfg,
    }
    return TrainingResult.model_validate({**defaults, **facts})


def _score(*words: object) -> float:
    """A number 0..1 that depends on the words alone."""
    digest = hashlib.sha256(repr(words).encode()).digest()
    return int.from_bytes(digest[:4]) / 2**32


def _answer(job: Job, **facts: Any) -> list[TrainingResult]:
    """A result for each genome of a job: AUROC 0.6..1 and memory, by hash of id and stage."""
    results = []
    for genome, start in zip(job.genomes, job.starts, strict=True):
        skill = 0.6 + 0.4 * _score(genome.id, job.stage.name)
        lora = genome.lora_cfg.model_copy(update={"r": start.grow_to or genome.lora_cfg.r})
        made = {
            "job": job.id,
            "genome": genome,
            "generation": job.generation,
            "stage": job.stage.name,
            "stage_index": job.stage_index,
            "lora_cfg": lora,
            "objectives": {SKILL: skill, COST: _score(genome.id, "cost", job.stage.name)},
            "details": {"grad_norm": 1.0},
            "start": start,
            "checkpoint": f"{genome.id}@{job.stage.name}",
            "cost": Cost(steps=10),
        }
        results.append(TrainingResult.model_validate({**made, **facts}))
    return results


def _settings(**sections: Any) -> Config:
    """The defaults with two objectives; each keyword updates a section."""
    return Config.model_validate({"objectives": (SKILL, COST), **sections})


@pytest.fixture(scope="session")
def make_result() -> Callable[..., TrainingResult]:
    return _make_result


@pytest.fixture(scope="session")
def answer() -> Callable[..., list[TrainingResult]]:
    return _answer


@pytest.fixture(scope="session")
def settings() -> Callable[..., Config]:
    return _settings
