"""Measuring members whose scores are no numbers, or are those of text alone."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from coralx.config import load_config
from coralx.records import Genome, Job, LoRAConfig, Start
from coralx.search import gates
from coralx.train import measuring
from coralx.train.adapters import Weights
from coralx.train.checkpoint import load_checkpoint
from coralx.train.evaluate import EvaluationSet
from coralx.train.measuring import AS_TRAINED, PROXY_FACTOR
from coralx.train.member import Member
from coralx.train.scaling import Scaling
from coralx.train.threshold import ROUNDING, SAME, SERVED, find_threshold, share_alike
from coralx.train.worker import Worker

SETTINGS = {
    "vision_tower": None,
    "objectives": ["task_skill", "strict_objective:mean"],
    "data": {"image_column": None, "max_rows": 40, "max_tokens": 16},
    "training": {"device": "cpu", "threads": 1, "attack_rows": 0},
}
ENOUGH = {"image_column": None, "max_rows": 96, "max_tokens": 16}  # rows to fit a scaling to
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


OWN_P6 = """
import numpy as np
from coralx.train.objectives import calibration

def calibrated(rows):
    return calibration(rows.scores, rows.labels, np.ones((1, len(rows.labels))))[0]
"""


def make_job(worker: Worker, names: str, index: int = 1) -> Job:
    """A genome by each letter."""
    lora = LoRAConfig(r=2, layers=1)
    return Job(
        id="j",
        generation=0,
        stage=worker.config.hyperband.stages[index],
        stage_index=index,
        genomes=tuple(Genome(id=name, lora_cfg=lora, learning_rate=4e-3) for name in names),
        starts=(Start(),) * len(names),
    )


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


def test_each_of_a_pack_has_its_own_scores_without_pictures(
    pictured: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_all = EvaluationSet.score_all

    def blind_second(self: EvaluationSet, *rest: Any) -> Any:
        scores, alone = score_all(self, *rest)
        alone[1] = 0.5
        return scores, alone

    monkeypatch.setattr(EvaluationSet, "score_all", blind_second)
    one, two = pictured.train(make_job(pictured, "ab"))
    assert one.details["auroc/text_alone"] != 0.5
    assert two.details["auroc/text_alone"] == 0.5


def test_what_is_measured_after_a_stage_ends_its_curve(pictured: Worker) -> None:
    for result in pictured.train(make_job(pictured, "ab")):
        assert result.curve[-1].step == result.cost.steps
        assert result.curve[-1].auroc == result.details["auroc"]


def test_the_seconds_of_a_pack_are_shared_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With those of encoding rows, for which the first job pays, and of measuring."""
    worker = Worker(load_config(SETTINGS | {"objectives": ["task_skill"]}), tmp_path)
    rows, measure, taken = worker.bench.validation(100), worker._measurer._measure_all, [0.0]

    def note(*of: Any) -> Any:
        began = time.perf_counter()
        found = measure(*of)
        taken[0] += time.perf_counter() - began
        return found

    monkeypatch.setattr(worker.bench, "validation", lambda _: time.sleep(0.5) or rows)
    monkeypatch.setattr(worker._measurer, "_measure_all", note)
    began = time.perf_counter()
    results = worker.train(make_job(worker, "abcd"))
    wall = time.perf_counter() - began
    assert sum(r.cost.eval_seconds for r in results) >= 0.5 + taken[0] > 0.5
    assert sum(r.cost.train_seconds + r.cost.eval_seconds for r in results) <= wall


def test_final_figures_are_of_test_rows_with_their_pictures(pictured: Worker) -> None:
    (result,) = pictured.train(make_job(pictured, "a"))
    found = pictured.test(result)
    rows, batch = pictured.bench.test(), pictured.config.training.evaluation_batch
    known = load_checkpoint(pictured.bench.checkpoints, str(result.checkpoint))
    member = Member(result.genome, known.lora_cfg, known.weights, known.moments)
    with pictured.bench.backbone.products.exact():
        scores, alone = rows.score_all(pictured.bench.pack([member]), batch, True)
    objectives, details = rows.measure(scores[0], alone[0])
    assert found.objectives["task_skill"].value == objectives["task_skill"][0]
    assert found.details["auroc/text_alone"].value == details["auroc/text_alone"][0]
    threshold = Scaling.of(result.details).apply(details["threshold"])
    assert found.attack_threshold == pytest.approx(float(threshold[0]))
    for figure in (found.objectives["task_skill"], found.details["as_served/recall"]):
        assert figure.low < figure.high


def test_final_figures_are_the_same_under_a_callers_autocast(pictured: Worker) -> None:
    (result,) = pictured.train(make_job(pictured, "a"))
    with torch.autocast("cpu", torch.bfloat16):
        found = pictured.test(result)
    assert found == pictured.test(result)


def test_a_merged_child_is_compared_with_its_better_parent(
    pictured: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [str(r.checkpoint) for r in pictured.train(make_job(pictured, "ab"))]
    child = pictured.bench.member(Genome(id="c", lora_cfg=LoRAConfig(r=2, layers=1)), Start())
    for skills in ([0.6, 0.8, 0.7], [0.8, 0.6, 0.7]):  # of the parents, then of the child
        rounds = iter(skills)

        def score(_: Any, _pack: Any, _batch: int, share: float, _images: bool) -> Any:
            assert share == 100
            time.sleep(0.05)
            return [next(rounds)]  # noqa: B023

        before = child.eval_seconds
        monkeypatch.setattr(EvaluationSet, "skill", score)
        monkeypatch.setattr(pictured._measurer, "_parents", {})
        start = Start(kind="merge", checkpoint=names[0], second=names[1])
        found = pictured._measurer.compare_merged(child, start)
        assert found == {"auroc_at_start": 0.7, "auroc_of_better_parent": 0.8}
        assert child.eval_seconds - before >= 3 * 0.05


def test_a_genome_is_tested_as_it_was_trained(pictured: Worker) -> None:
    """A hook may have given it another adapter than its genes say."""
    (result,) = pictured.train(make_job(pictured, "a"))
    lora = result.genome.lora_cfg.model_copy(update={"alpha": 64, "layers": 3})
    genes = result.genome.model_copy(update={"lora_cfg": lora, "id": result.genome.id})
    asked = result.model_copy(update={"genome": genes})
    assert pictured.test(asked) == pictured.test(result)


def test_p6_after_a_stage_is_of_rows_scaled_as_others_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where those happen to come out perfect, it is 1."""
    told: list[Any] = []

    def note(scores: Any, labels: Any, shift: bool, seed: int) -> Any:
        told.append((shift, seed))
        return labels.astype(float)

    monkeypatch.setattr(measuring, "scale_held_out", note)
    settings = SETTINGS | {"objectives": ["task_skill", "calibration"], "evolution": {"seed": 5}}
    worker = Worker(load_config(settings), tmp_path)
    (result,) = worker.train(make_job(worker, "a"))
    assert result.objectives["calibration"] == 1
    assert result.details[AS_TRAINED] < 1
    assert told == [(True, 5)]  # an encoder's classification layer has a bias


@pytest.mark.parametrize("products", ["float32", "bfloat16"])
def test_the_served_threshold_bears_the_rounding_of_the_products(
    products: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[float] = []
    found: list[float] = []

    def note(scores: Any, labels: Any, rounding: float) -> float:
        told.append(rounding)
        found.append(find_threshold(scores, labels, rounding))
        return found[-1]

    def note_alike(scores: Any, rounding: float) -> float:
        told.append(rounding)
        return share_alike(scores, rounding)

    monkeypatch.setattr(measuring, "find_threshold", note)
    monkeypatch.setattr(measuring, "share_alike", note_alike)
    settings = SETTINGS | {"objectives": ["task_skill"], "data": ENOUGH}
    settings["training"] = SETTINGS["training"] | {"frozen_products": products}
    worker = Worker(load_config(settings), tmp_path)
    (result,) = worker.train(make_job(worker, "a"))
    assert told == [ROUNDING[products]] * 2
    assert result.details[SAME] < 0.5
    scaling = Scaling.of(result.details)
    assert scaling != Scaling()
    assert result.details[SERVED] == pytest.approx(scaling.apply(np.array(found))[0])


def test_nothing_is_scaled_where_that_is_not_wanted(tmp_path: Path) -> None:
    settings = SETTINGS | {"objectives": ["task_skill", "calibration"], "data": ENOUGH}
    settings["training"] = SETTINGS["training"] | {"calibrate": False}
    worker = Worker(load_config(settings), tmp_path)
    (result,) = worker.train(make_job(worker, "a"))
    assert Scaling.of(result.details) == Scaling()
    assert AS_TRAINED not in result.details


def test_logits_of_a_layer_without_bias_are_scaled_without_shift(
    pictured: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a decoder's: an export could not hold it."""
    shifts: list[bool] = []
    for name in ("fit_scaling", "scale_held_out"):
        usual = getattr(measuring, name)

        def note(scores: Any, labels: Any, shift: bool, *of: Any, usual: Any = usual) -> Any:
            shifts.append(shift)
            return usual(scores, labels, shift, *of)

        monkeypatch.setattr(measuring, name, note)
    (result,) = pictured.train(make_job(pictured, "a"))
    known = load_checkpoint(pictured.bench.checkpoints, str(result.checkpoint))
    extra = {name: v for name, v in known.weights.extra.items() if name != "head.bias"}
    weights = Weights(known.weights.lora, extra)
    member = Member(result.genome, known.lora_cfg, weights, known.moments)
    pictured._measurer._measure_all([member], pictured.bench.validation(100), True)
    assert shifts == [True, True, False, False]


def test_an_own_objective_is_of_scaled_probabilities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a stage and in the final figures, as P6 of the same rows would be."""
    (tmp_path / "own_calibration.py").write_text(OWN_P6, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    own = "own_calibration:calibrated"
    settings = SETTINGS | {"objectives": ["task_skill", "calibration", own]}
    settings["data"] = ENOUGH
    settings["hyperband"] = {"enable_hyperband": False}
    worker = Worker(load_config(settings), tmp_path / "checkpoints")
    (result,) = worker.train(make_job(worker, "a", 0))
    assert Scaling.of(result.details) != Scaling()
    assert result.objectives[own] != pytest.approx(result.details[AS_TRAINED])
    told: list[Any] = []
    for name in ("measure", "measure_decisions"):
        usual = getattr(EvaluationSet, name)

        def note(rows: Any, scores: Any, *of: Any, usual: Any = usual) -> Any:
            told.append(scores)
            return usual(rows, scores, *of)

        monkeypatch.setattr(EvaluationSet, name, note)
    tested = worker.test(result)
    assert np.array_equal(*told), "decisions are taken on what is measured"
    assert tested.objectives[own].value == pytest.approx(tested.objectives["calibration"].value)
    assert tested.objectives[own].value != pytest.approx(tested.details[AS_TRAINED].value)


@pytest.fixture(scope="module")
def pictured(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    settings = {
        "objectives": ["task_skill"],
        "data": {"max_rows": 60, "max_tokens": 16},
        "training": SETTINGS["training"],
    }
    return Worker(load_config(settings), tmp_path_factory.mktemp("pictured") / "checkpoints")
