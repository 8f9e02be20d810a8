"""Scaled probabilities: what is fitted, what stays as it was, and that an export holds it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from coralx.config import load_config
from coralx.records import Genome, Job, LoRAConfig, Start, TrainingResult
from coralx.steps import LEAST_SCALED
from coralx.train import scaling
from coralx.train.measuring import AS_TRAINED
from coralx.train.objectives import Floats, calibration
from coralx.train.predict import Predictor
from coralx.train.scaling import LEAST, MOST, Scaling, fit_scaling, scale_held_out
from coralx.train.threshold import SERVED
from coralx.train.worker import Worker

CONFIG: dict[str, Any] = {
    "vision_tower": None,
    "objectives": ["task_skill", "safety", "false_positive_cost", "memory", "calibration"],
    "data": {"image_column": None, "max_rows": 96, "max_tokens": 16},
    "hyperband": {"enable_hyperband": False},
    "training": {"attack_rows": 4, "bootstrap_draws": 8, "patience": None, "threads": 1},
}
GENOME = Genome(id="a", lora_cfg=LoRAConfig(r=2, layers=1), learning_rate=4e-3)


def _draw(count: int, scale: float, shift: float, seed: int = 0) -> tuple[Floats, Any]:
    """Over- or under-confident probabilities (N,) of labels (N,) that `scale` and `shift` mend."""
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 2, count)
    labels = (rng.random(count) < expit(true)).astype(np.int8)
    return expit((true - shift) / scale), labels


@pytest.mark.parametrize(("scale", "shift"), [(0.4, 0.8), (1.0, 0.0), (5.0, -1.5)])
def test_the_scaling_that_was_spoilt_is_found(scale: float, shift: float) -> None:
    scores, labels = _draw(40_000, scale, shift)
    found = fit_scaling(scores, labels, shift=True)
    assert found.scale == pytest.approx(scale, rel=0.05)
    assert found.shift == pytest.approx(shift, abs=0.05)
    one = np.ones((1, len(labels)))
    assert calibration(found.apply(scores), labels, one)[0] > 0.99


def test_without_a_bias_there_is_no_shift() -> None:
    found = fit_scaling(*_draw(1000, 0.4, 0.8), shift=False)
    assert found.shift == 0
    assert found.scale != 1


@pytest.mark.parametrize("most", [300, 12], ids=["balanced", "few unsafe"])
def test_the_fit_is_the_likeliest(most: int) -> None:
    scores, labels = _draw(300, 0.5, 1.0)
    kept = np.sort([*np.flatnonzero(labels == 0), *np.flatnonzero(labels == 1)[:most]])
    scores, labels = scores[kept], labels[kept]
    unsafe, safe = (labels == 1).sum(), (labels == 0).sum()
    target = np.where(labels == 1, (unsafe + 1) / (unsafe + 2), 1 / (safe + 2))

    def loss(own: Scaling) -> float:
        scaled = own.apply(scores)
        return float(-np.mean(target * np.log(scaled) + (1 - target) * np.log(1 - scaled)))

    found = fit_scaling(scores, labels, shift=True)
    for by in (-0.02, 0.02):
        assert loss(found) < loss(Scaling(found.scale * (1 + by), found.shift))
        assert loss(found) < loss(Scaling(found.scale, found.shift + by))


@pytest.mark.parametrize(
    ("scores", "labels"),
    [
        ([0.2, 0.7, 0.9], [1, 1, 1]),
        ([0.2, 0.7, 0.9], [0, 0, 0]),
        ([0.4, 0.4, 0.4, 0.4], [0, 1, 0, 1]),
        ([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1]),
        ([], []),
    ],
    ids=["unsafe alone", "safe alone", "all equal", "reversed", "none"],
)
def test_where_nothing_can_be_fitted_scores_stay(scores: list[float], labels: list[int]) -> None:
    values, own = np.tile(scores, 10), np.tile(np.array(labels, dtype=np.int8), 10)
    assert fit_scaling(values, own, shift=True) == Scaling()
    assert Scaling().apply(values) is values


@pytest.mark.filterwarnings("error")
@given(
    st.lists(st.tuples(st.floats(-800, 800), st.booleans()), min_size=2, max_size=80),
    st.booleans(),
)
def test_whatever_the_scores_the_order_stays(rows: list[tuple[float, bool]], shift: bool) -> None:
    scores = expit(np.array([z for z, _ in rows]))
    labels = np.array([y for _, y in rows], dtype=np.int8)
    found = fit_scaling(scores, labels, shift)
    assert LEAST <= found.scale <= MOST
    assert np.isfinite(found.shift)
    scaled = found.apply(scores)
    assert ((scaled >= 0) & (scaled <= 1)).all()
    assert (np.diff(scaled[np.argsort(scores, kind="stable")]) >= 0).all()
    assert np.isfinite(scale_held_out(scores, labels, shift, 0)).all()


@pytest.mark.filterwarnings("error")
def test_whatever_the_scaling_probabilities_stay_in_their_bounds() -> None:
    scores = np.array([0.0, 1e-300, 0.5, 1 - 1e-16, 1.0, np.nan])
    scaled = Scaling(MOST, -50.0).apply(scores)
    assert scaled[:5].tolist() == sorted(scaled[:5].tolist())
    assert ((scaled[:5] >= 0) & (scaled[:5] <= 1)).all()
    assert np.isnan(scaled[5])


def test_classes_told_apart_without_error_keep_a_finite_scale() -> None:
    scores = np.array([1e-9, 1e-8, 1 - 1e-8, 1.0])
    labels = np.array([0, 0, 1, 1], dtype=np.int8)
    scaled = fit_scaling(np.tile(scores, 5), np.tile(labels, 5), True).apply(scores)
    # Platt's targets for ten rows of each class are 1/12 and 11/12.
    np.testing.assert_allclose(scaled, [1 / 12, 1 / 12, 11 / 12, 11 / 12], atol=0.1)


@pytest.mark.parametrize("few", [LEAST_SCALED - 1, LEAST_SCALED])
def test_a_handful_of_a_class_is_fitted_no_scaling(few: int) -> None:
    scores, labels = _draw(400, 0.4, 0.8)
    kept = np.sort(np.r_[np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)[:few]])
    scores, labels = scores[kept], labels[kept]
    assert (fit_scaling(scores, labels, True) == Scaling()) == (few < LEAST_SCALED)
    assert (scale_held_out(scores, labels, True, 0) is scores) == (few < LEAST_SCALED)


def test_a_row_is_scaled_as_the_others_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[Floats] = []

    def note(scores: Floats, labels: Any, shift: bool) -> Scaling:
        fits.append(scores)
        return Scaling(2.0, float(len(fits)))

    monkeypatch.setattr(scaling, "_fit", note)
    scores, labels = _draw(53, 1.0, 0.0)
    scaled = scale_held_out(scores, labels, True, seed=3)
    shifts = logit(scaled) - 2 * logit(scores)
    assert len(fits) == 5
    for score, shift in zip(scores, shifts, strict=True):
        fitted_to = fits[round(shift) - 1]
        assert len(fitted_to) >= 42
        assert score not in fitted_to


def test_too_few_rows_for_folds_stay_as_they_are() -> None:
    scores = np.array([0.2, 0.7, 0.9])
    assert scale_held_out(scores, np.array([0, 0, 1], dtype=np.int8), True, 0) is scores


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    return Worker(load_config(CONFIG), tmp_path_factory.mktemp("checkpoints"))


def _train(worker: Worker, calibrate: bool) -> TrainingResult:
    stage = worker.config.hyperband.stages[0]
    job = Job(
        id=f"scaled-{calibrate}",
        generation=0,
        stage=stage,
        stage_index=0,
        genomes=(GENOME,),
        starts=(Start(),),
    )
    (result,) = worker.train(job)
    return result


@pytest.fixture(scope="module")
def scaled(worker: Worker) -> TrainingResult:
    return _train(worker, True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    settings = {**CONFIG, "training": {**CONFIG["training"], "calibrate": False}}
    return _train(Worker(load_config(settings), tmp_path_factory.mktemp("plain")), False)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("width", [1e-15, 1e-9, 1e-6])
def test_scores_all_but_alike_are_left_alone_without_a_warning(width: float) -> None:
    scores, labels = np.full(40, 0.3), np.array([0, 1] * 20, dtype=np.int8)
    scores[3] += width
    for shift in (True, False):
        assert fit_scaling(scores, labels, shift) == Scaling()


def test_calibration_is_all_that_scaling_changes(
    scaled: TrainingResult, plain: TrainingResult
) -> None:
    others = [name for name in plain.objectives if name != "calibration"]
    assert len(others) == 4
    for name in others:
        assert scaled.objectives[name] == pytest.approx(plain.objectives[name], abs=1e-12)
    assert scaled.details[AS_TRAINED] == plain.objectives["calibration"]
    assert scaled.objectives["calibration"] != plain.objectives["calibration"]
    assert "logit_scale" not in plain.details
    threshold = Scaling.of(scaled.details).apply(np.array([plain.details["threshold"]]))
    assert scaled.details["threshold"] == pytest.approx(float(threshold[0]))


def test_final_figures_are_of_scaled_probabilities(worker: Worker, scaled: TrainingResult) -> None:
    found = worker.test(scaled)
    as_trained = worker.test(scaled.model_copy(update={"details": {SERVED: 0.5}}))
    assert found.details[AS_TRAINED] == as_trained.objectives["calibration"]
    assert found.objectives["calibration"] != as_trained.objectives["calibration"]
    assert AS_TRAINED not in as_trained.details
    assert found.objectives["task_skill"] == as_trained.objectives["task_skill"]


def test_an_export_gives_scaled_probabilities(
    worker: Worker, scaled: TrainingResult, tmp_path: Path
) -> None:
    worker.export(scaled, tmp_path / "scaled")
    worker.export(scaled.model_copy(update={"details": {SERVED: 0.5}}), tmp_path / "as_trained")
    texts = list(worker.bench.splits.validation.texts[:8])
    ours, raw = (
        np.array(Predictor(tmp_path / name, "cpu").score(texts, [None] * 8))
        for name in ("scaled", "as_trained")
    )
    known = Scaling.of(scaled.details)
    assert known != Scaling()
    np.testing.assert_allclose(logit(ours), logit(known.apply(raw)), atol=1e-4)
    facts = json.loads((tmp_path / "scaled" / "coralx.json").read_text())
    assert facts["threshold"] == scaled.details[SERVED]


def test_a_layer_without_bias_folds_its_scale_alone() -> None:
    head = {"head.weight": torch.tensor([[1.0, 2.0]]), "projector.bias": torch.ones(2)}
    folded = Scaling(0.5).fold(head)
    assert folded["head.weight"].tolist() == [[0.5, 1.0]]
    assert folded["projector.bias"] is head["projector.bias"]
    assert "head.bias" not in folded


def test_the_surest_scores_keep_their_order_and_distance() -> None:
    scores = np.array([1e-13, 1e-10, 1e-7, 1 - 1e-7, 1 - 1e-10])
    scaled = Scaling(0.5, 0.0).apply(scores)
    assert scaled == pytest.approx(expit(0.5 * logit(scores)), rel=1e-4)
    assert (np.diff(scaled) > 0).all()


def test_the_seed_decides_which_rows_are_held_out_together() -> None:
    scores, labels = _draw(200, 0.4, 0.8)
    one, again, other = (scale_held_out(scores, labels, True, seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
