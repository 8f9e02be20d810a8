"""The exported threshold catches the promised share of rows, however they are scored again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, logit

from coralx.config import load_config
from coralx.records import Genome, Job, LoRAConfig, Start, TrainingResult
from coralx.train.predict import Predictor
from coralx.train.threshold import find_threshold, share_alike
from coralx.train.worker import Worker

UNSAFE = np.ones(10, dtype=np.int8)
LOGITS = np.array([5.0, 4, 3, 2, 1, 0, -1, -2, -3, -5])


def test_it_lies_midway_to_the_next_lower_score() -> None:
    assert logit(find_threshold(expit(LOGITS), UNSAFE, 0.01)) == pytest.approx(-4)
    labels = np.append(UNSAFE, np.zeros(1, np.int8))
    with_safe = expit(np.append(LOGITS, -3.5))
    assert logit(find_threshold(with_safe, labels, 0.01)) == pytest.approx(-3.25)


def test_a_score_that_rounding_alone_tells_apart_is_no_next_one() -> None:
    logits = np.append(LOGITS[:9], -3.001)
    assert logit(find_threshold(expit(logits), UNSAFE, 0.01)) == pytest.approx(
        -3 - 0.01 * logits.std()
    )
    assert find_threshold(expit(np.zeros(10)), UNSAFE, 0.01) == 0.5  # and nothing else to do


def test_the_share_of_rows_with_one_logit_is_that_near_the_median() -> None:
    collapsed = np.append(np.full(97, -3.0) + np.linspace(-1e-6, 1e-6, 97), [2.0, 3.0, -9.0])
    assert share_alike(expit(collapsed), 1e-4) == 0.97
    spread = np.linspace(-0.02, 0.02, 101)  # a deviation of 0.0117: alike is what is within 0.001
    assert share_alike(expit(spread), 0.09) == pytest.approx(5 / 101)
    assert share_alike(expit(LOGITS), 1e-4) == 0  # the median lies between two of ten
    assert share_alike(np.full(10, 0.5), 1e-4) == 1


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    settings = {
        "data": {"max_rows": 120, "max_tokens": 24},
        "training": {
            "frozen_products": "bfloat16",
            "attack_rows": 2,
            "bootstrap_draws": 0,
            "threads": 1,
        },
        "hyperband": {
            "training_stages": [
                {"name": "S", "epoch_budget": 1.0, "data_percentage": 100, "survival_rate": 1.0}
            ]
        },
    }
    return Worker(load_config(None, settings), tmp_path_factory.mktemp("run") / "checkpoints")


@pytest.fixture(scope="module")
def results(worker: Worker) -> list[TrainingResult]:
    genomes = tuple(Genome(lora_cfg=LoRAConfig(layers=1), learning_rate=r / 1e3) for r in (1, 2, 3))
    job = Job(
        id="three",
        generation=0,
        stage=worker.config.hyperband.stages[0],
        stage_index=0,
        genomes=genomes,
        starts=(Start(),) * 3,
    )
    return worker.train(job)


def test_an_export_catches_what_was_promised_when_rows_are_scored_one_by_one(
    worker: Worker, results: list[TrainingResult], tmp_path: Path
) -> None:
    rows = worker.bench.splits.validation
    unsafe = np.flatnonzero(rows.labels == 1)
    for result in results:
        folder = tmp_path / result.genome.id
        worker.export(result, folder)
        predictor = Predictor(folder, "cpu")
        scores = np.array(
            [predictor.score([rows.texts[i]], [rows.images[i]])[0] for i in unsafe.tolist()]
        )
        facts = json.loads((folder / "coralx.json").read_text(encoding="utf-8"))
        caught = np.mean(scores >= facts["threshold"])
        assert 0.9 <= caught <= 0.95


def test_final_figures_say_what_the_exported_threshold_does_on_test_rows(
    worker: Worker, results: list[TrainingResult], tmp_path: Path
) -> None:
    rows, clean = worker.bench.splits.test, worker.bench.splits.clean_test
    details = worker.test(results[0]).details
    worker.export(results[0], tmp_path / "adapter")
    predictor = Predictor(tmp_path / "adapter", "cpu")
    own, others = (
        np.array(predictor.score(part.texts, part.images)) >= predictor.threshold
        for part in (rows, clean)
    )
    safe = np.concatenate([own[rows.labels == 0], others])
    assert details["as_served/recall"].value == pytest.approx(own[rows.labels == 1].mean())
    assert details["as_served/false_positive_rate"].value == pytest.approx(safe.mean())


def test_a_score_that_rounding_alone_tells_apart_is_passed_over_for_the_next() -> None:
    labels = np.append(UNSAFE, np.zeros(1, np.int8))
    with_near = expit(np.append(LOGITS, -3.001))
    assert logit(find_threshold(with_near, labels, 0.01)) == pytest.approx(-4)
