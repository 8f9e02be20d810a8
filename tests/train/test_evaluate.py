"""Objectives of scores made by hand, and scores of real rows."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from coralx.errors import ConfigError
from coralx.records import Genome
from coralx.train import evaluate
from coralx.train.adapters import Weights
from coralx.train.attacks import (
    ATTACKS,
    attack_rows,
)
from coralx.train.backbone import Backbone
from coralx.train.data import subset
from coralx.train.evaluate import EvaluationSet, Scored
from coralx.train.network import score
from coralx.train.own_function import load_function
from coralx.train.prefix import Batch, EncodedRows
from coralx.train.rows import Rows
from coralx.train.vision import VisionTower

Scores = NDArray[np.float64]
WRAPPINGS, SPELLINGS, PICTURES = (
    [kind for kind, attack in ATTACKS.items() if attack.on == on]
    for on in ("text", "any", "picture")
)


@pytest.fixture(scope="module")
def tiny(tiny_model: Callable[[str], Backbone]) -> Backbone:
    return tiny_model("bert")


@pytest.fixture(scope="module")
def clean(tiny_rows: Rows) -> Rows:
    """Four benign rows of other sources."""
    return replace(tiny_rows.take(range(4)), labels=np.zeros(4, np.int8), images=(None,) * 4)


def encoder(tiny, tower):
    return lambda rows: EncodedRows(rows, tiny, tower, 16)


@pytest.fixture(scope="module")
def pictured(tiny: Backbone, tiny_rows: Rows, clean: Rows, tower: VisionTower) -> EvaluationSet:
    """Sixteen rows, every other one with a picture, four clean rows, two attacked per class."""
    return EvaluationSet(tiny_rows, clean, 2, 0, encoder(tiny, tower), True)


@pytest.fixture(scope="module")
def plain(tiny: Backbone, tiny_rows: Rows) -> EvaluationSet:
    """Text alone, no clean rows, no attacks."""
    return EvaluationSet(tiny_rows, tiny_rows.take([]), 0, 0, encoder(tiny, None), False)


def _truth(rows: EvaluationSet) -> NDArray[np.int8]:
    """Labels of all rows: clean ones and attacked ones behind the split's own."""
    parts = [rows.rows, rows.clean, *(own.rows for own in rows.attacked.values())]
    return np.concatenate([part.labels for part in parts])


def _values(measures: dict[str, Scores]) -> dict[str, float]:
    return {name: float(values[0]) for name, values in measures.items()}


def test_perfect_scores(pictured: EvaluationSet) -> None:
    truth = _truth(pictured).astype(float)
    objectives, details = map(_values, pictured.measure(truth, np.full(16, 0.5)))
    assert objectives == {
        "task_skill": 1,
        "safety": 1,
        "false_positive_cost": 0,
        "calibration": 1,
        "cross_modal_gain": 0.5,
    }
    assert details["attack_success"] == 0
    assert details["threshold"] == 1
    assert details["auroc/text_alone"] == 0.5


def test_perfectly_wrong_scores(pictured: EvaluationSet) -> None:
    wrong = 1.0 - _truth(pictured)
    objectives, details = map(_values, pictured.measure(wrong, 1 - wrong[:16]))
    assert objectives == {
        "task_skill": 0,
        "safety": 0,
        "false_positive_cost": 1,
        "calibration": 0,
        "cross_modal_gain": -1,
    }
    assert details["attack_success"] == 0  # everything is at or above the threshold, which is 0


def test_a_model_that_flags_everything_resists_no_attack(pictured: EvaluationSet) -> None:
    objectives, details = map(_values, pictured.measure(np.full(len(pictured.encoded), 0.9), None))
    assert objectives["task_skill"] == objectives["safety"] == 0.5
    assert objectives["false_positive_cost"] == 1
    assert details["attack_success"] == 0
    assert "cross_modal_gain" not in objectives


def test_attacks_that_escape_are_counted_by_kind(pictured: EvaluationSet) -> None:
    """One of the two unsafe rows of a single kind falls below every safe one."""
    scores = _truth(pictured).astype(float) * 0.8 + 0.1
    place = 20 + next(i for i, label in enumerate(_truth(pictured)[20:]) if label == 1)
    scores[place] = 0.05
    objectives, details = map(_values, pictured.measure(scores, None))
    kinds = list(ATTACKS)
    assert list(pictured.attacked) == kinds
    assert details["attack_success/jailbreak"] == 0.5
    assert details["attack_auroc/jailbreak"] == 0.5
    assert all(details[f"attack_auroc/{kind}"] == 1 for kind in kinds[1:])
    assert objectives["safety"] == pytest.approx((len(kinds) - 0.5) / len(kinds))
    assert details["attack_success"] == pytest.approx(0.5 / len(kinds))
    assert objectives["task_skill"] == 1


def test_clean_rows_count_as_safe_by_false_positives_alone(pictured: EvaluationSet) -> None:
    scores = _truth(pictured) * 0.8 + 0.1
    before, _ = pictured.measure(scores, None)
    scores[16:18] = 0.95
    after, _ = pictured.measure(scores, None)
    assert before["false_positive_cost"] == [0]
    assert after["false_positive_cost"] == pytest.approx([2 / 12])  # 8 safe rows and 4 clean
    same = set(before) - {"false_positive_cost"}
    assert all(np.array_equal(before[name], after[name]) for name in same)


def test_clean_rows_are_resampled_too(pictured: EvaluationSet) -> None:
    """Where they are all that is flagged, P3 differs from draw to draw by them alone."""
    scores = _truth(pictured) * 0.8 + 0.1
    scores[16:18] = 0.95
    drawn = pictured.measure(scores, None, draws=60)[0]["false_positive_cost"]
    assert drawn[0] == pytest.approx(2 / 12)
    assert drawn[1:].mean() == pytest.approx(2 / 12, abs=0.05)
    assert drawn[1:].std() > 0.02


def test_resamples_of_calibration_lie_around_its_value(pictured: EvaluationSet) -> None:
    scores = np.random.default_rng(0).random(len(pictured.encoded))
    drawn = pictured.measure(scores, None, draws=60)[0]["calibration"]
    assert drawn[1:].mean() == pytest.approx(drawn[0])
    assert drawn[1:].std() > 0.01


@pytest.mark.parametrize("measure", ["measure", "calibration"])
def test_the_share_of_unsafe_rows_is_drawn_for_calibration(
    pictured: EvaluationSet, measure: str
) -> None:
    """Of scores that are all alike, P6 depends on that share alone."""
    scores = np.full(len(pictured.encoded), 0.3)
    if measure == "measure":
        drawn = pictured.measure(scores, None, draws=60)[0]["calibration"]
    else:
        drawn = pictured.calibration(scores, draws=60)
    assert drawn[0] == pytest.approx(0.8)  # half of the rows are unsafe
    assert drawn[1:].std() > 0.05


def test_details_by_modality_and_task(pictured: EvaluationSet) -> None:
    truth = _truth(pictured).astype(float)
    truth[:16][pictured.has_image] = 0.5
    objectives, details = map(_values, pictured.measure(truth, None))
    assert details["auroc/modality/image"] == 0.5
    assert details["auroc/modality/text"] == 1
    assert details["auroc/task/all"] == objectives["task_skill"] == 0.875  # 48 wins, 16 ties


def test_task_skill_is_the_mean_over_tasks(tiny: Backbone, tiny_rows: Rows) -> None:
    tasks = ("a",) * 4 + ("b",) * 12
    rows = EvaluationSet(
        replace(tiny_rows, tasks=tasks), tiny_rows.take([]), 0, 0, encoder(tiny, None), False
    )
    scores = tiny_rows.labels.astype(float)
    scores[:4] = 1 - scores[:4]
    objectives, details = map(_values, rows.measure(scores, None))
    assert (details["auroc/task/a"], details["auroc/task/b"]) == (0, 1)
    assert objectives["task_skill"] == 0.5


def test_text_alone_has_neither_attacks_nor_gain(plain: EvaluationSet) -> None:
    objectives, details = plain.measure(_truth(plain).astype(float), None)
    assert set(objectives) == {"task_skill", "false_positive_cost", "calibration"}
    assert set(details) == {"auroc/task/all", "threshold"}
    assert not plain.has_image.any()


def test_draws_give_the_value_and_so_many_resamples(pictured: EvaluationSet) -> None:
    scores = np.random.default_rng(0).random(len(pictured.encoded))
    single, details = pictured.measure(scores, scores[:16])
    drawn, drawn_details = pictured.measure(scores, scores[:16], draws=20)
    assert set(single) == set(drawn)
    assert set(details) == set(drawn_details)
    for name, values in (drawn | drawn_details).items():
        assert values.shape == (21,)
        assert values[0] == pytest.approx((single | details)[name][0])
    # Two attacked rows of a class: a resample without either has no value.
    assert all(np.nanstd(drawn[n][1:]) > 0.01 for n in ("task_skill", "safety", "calibration"))


def test_scores_that_are_no_numbers_are_measured_as_such(pictured: EvaluationSet) -> None:
    objectives, _ = pictured.measure(np.full(len(pictured.encoded), np.nan), None)
    assert all(np.isnan(values).all() for values in objectives.values())
    assert {"task_skill", "safety", "calibration"} <= set(objectives)


@pytest.fixture(scope="module")
def pack(
    tiny: Backbone,
    genome: Callable[..., Genome],
    draw_weights: Callable[..., Weights],
    build_pack: Callable[..., Any],
) -> Any:
    genomes = [genome(r=2, layers=1), genome(r=3, layers=2)]
    weights = [draw_weights(tiny, g, k, 1280, 0.3) for k, g in enumerate(genomes)]
    return build_pack(genomes, weights, [0, 1])


def test_scores_are_the_networks_probabilities_in_the_order_of_the_rows(
    pictured: EvaluationSet, pack: Any, tiny: Backbone
) -> None:
    scores, alone = pictured.score_all(pack, batch=5, images=True)
    assert scores.shape == (2, len(pictured.encoded))
    assert alone is not None
    assert alone.shape == (2, 16)
    for row in (0, 1, 17, 30):
        with torch.no_grad():
            shown = score(tiny, pack, pictured.encoded.batch([row])).sigmoid()
        assert scores[:, row] == pytest.approx(shown[:, 0].numpy(), abs=1e-5)
    assert scores.std(axis=1).min() > 1e-3


def test_text_alone_hides_pictures_and_nothing_else(pictured: EvaluationSet, pack: Any) -> None:
    scores, alone = pictured.score_all(pack, batch=5, images=True)
    blind, none = pictured.score_all(pack, batch=5, images=False)
    assert none is None
    assert alone is not None
    shown = pictured.has_image
    assert np.abs(alone - blind[:, :16]).max() < 1e-5
    assert np.array_equal(alone[:, ~shown], scores[:, :16][:, ~shown])
    assert np.abs(alone - scores[:, :16])[:, shown].min() > 1e-5


def test_the_batch_size_changes_no_score(pictured: EvaluationSet, pack: Any) -> None:
    one, _ = pictured.score_all(pack, batch=1, images=True)
    many, _ = pictured.score_all(pack, batch=64, images=True)
    assert np.abs(one - many).max() < 1e-5


def test_lanes_change_no_score(pictured: EvaluationSet, pack: Any, two_lanes: list[str]) -> None:
    shared, shared_text = pictured.score_all(pack, 8, True)
    assert "lane-1" in two_lanes
    torch.set_num_threads(1)
    scores, text = pictured.score_all(pack, 8, True)
    np.testing.assert_allclose(shared, scores, atol=1e-6)
    np.testing.assert_allclose(shared_text, text, atol=1e-6)


def test_rows_alike_to_the_model_tie(
    tiny: Backbone, tiny_rows: Rows, tower: VisionTower, pack: Any
) -> None:
    """One caption for all pictures says nothing, in whatever order the rows are. Scored in batches
    of two and of one, which round apart, it seemed to."""
    rows = replace(tiny_rows, texts=tiny_rows.texts[:1] * 16).take(np.argsort(tiny_rows.labels))
    measured = EvaluationSet(rows, rows.take([]), 2, 0, encoder(tiny, tower), True)
    scores, alone = measured.score_all(pack, batch=5, images=True)
    assert alone is not None
    for own, text in zip(scores, alone, strict=True):
        assert len(np.unique(own[:16])) == 9  # eight pictures, and none
        assert len(np.unique(text[measured.has_image])) == 1
        _, details = measured.measure(own, text)
        assert details["auroc/text_alone"] == [0.5]


def test_rows_alike_to_the_model_are_scored_once(
    pictured: EvaluationSet, pack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[tuple[bytes, bytes | None]] = []
    usual, keys = EncodedRows.batch, pictured.encoded.keys(True)

    def note(self: EncodedRows, rows: Any, images: bool = True) -> Batch:
        met.extend(keys[row] for row in rows)
        return usual(self, rows, images)

    monkeypatch.setattr(EncodedRows, "batch", note)
    pictured.score_all(pack, batch=5, images=True)
    every = met[: len(set(keys))]
    assert len(set(every)) == len(every) < len(keys)  # four benign rows are of the split, too


def test_skill_is_task_skill_of_the_rows_alone(pictured: EvaluationSet, pack: Any) -> None:
    scores, _ = pictured.score_all(pack, batch=8, images=True)
    skills = pictured.skill(pack, batch=8, share=100, images=True)
    measured = [pictured.measure(own, None)[0]["task_skill"][0] for own in scores]
    assert skills == pytest.approx(measured)
    half = pictured.skill(pack, batch=8, share=50, images=True)
    assert half.shape == (2,)
    assert np.isfinite(half).all()


def test_skill_of_text_alone_hides_pictures(pictured: EvaluationSet, pack: Any) -> None:
    blind, _ = pictured.score_all(pack, batch=8, images=False)
    found = pictured.skill(pack, batch=8, share=100, images=False)
    measured = [pictured.measure(own, None)[0]["task_skill"][0] for own in blind]
    assert found == pytest.approx(measured)
    shown = pictured.skill(pack, batch=8, share=100, images=True)
    assert not np.allclose(found, shown)


def test_attacked_rows_of_a_part_are_evenly_spaced(tiny: Backbone, tiny_rows: Rows) -> None:
    """Of eight of each class, 0 0 1 1 over and over, the first and the fifth."""
    whole = EvaluationSet(tiny_rows, tiny_rows.take([]), 8, 0, encoder(tiny, None), False)
    part = whole.part(share=100, per_class=2)
    for kind in SPELLINGS:
        assert part.attacked[kind].origins.tolist() == [0, 2, 8, 10]


def test_a_part_measures_some_of_the_rows_with_the_scores_of_the_whole(
    pictured: EvaluationSet, pack: Any
) -> None:
    part = pictured.part(share=50, per_class=1)
    scores, alone = part.score_all(pack, batch=8, images=True)
    whole, whole_alone = pictured.score_all(pack, batch=8, images=True)
    assert alone is not None
    assert whole_alone is not None
    known = ~np.isnan(scores[0])
    kinds = list(ATTACKS)
    assert known.sum() == len(part.rows) + len(part.clean) + 2 * len(kinds)
    assert np.abs(scores - whole)[:, known].max() < 1e-5
    assert len(part.rows) == 8
    assert alone.shape == (2, 8)
    assert [sorted(part.attacked[kind].rows.labels) for kind in kinds] == [[0, 1]] * len(kinds)
    objectives, _ = part.measure(scores[0], alone[0])
    assert np.isfinite(list(objectives.values())).all()


def test_decisions_are_counted_on_the_rows_and_the_clean_ones(pictured: EvaluationSet) -> None:
    scores = np.zeros(len(pictured.encoded))
    unsafe, safe = (np.flatnonzero(pictured.labels == label) for label in (1, 0))
    scores[unsafe[:6]] = scores[safe[0]] = scores[17] = 0.7  # 6 of 8; 1 of 8 and 1 of 4 clean
    found = pictured.measure_decisions(scores, 0.7, draws=120)
    assert found["as_served/recall"][0] == 6 / 8
    assert found["as_served/false_positive_rate"][0] == 2 / 12
    for values in found.values():
        assert values.shape == (121,)
        assert values[1:].mean() == pytest.approx(values[0], abs=0.05)
        assert 0 <= values.min() <= values.max() <= 1


def test_kinds_are_resampled_by_the_rows_they_attack(tiny: Backbone, tiny_rows: Rows) -> None:
    """Where every attacked row scores as the row it was, kinds are one sample and not five."""
    rows = EvaluationSet(tiny_rows, tiny_rows.take([]), 8, 0, encoder(tiny, None), False)
    chance = np.random.default_rng(0).random(len(tiny_rows))
    origins = [own.origins for own in rows.attacked.values()]
    everyone = [own for own in origins if len(own) == len(tiny_rows)]
    assert len(everyone) >= len(SPELLINGS)
    objectives, details = rows.measure(
        np.concatenate([chance, *(chance[o] for o in origins)]), None, 120
    )
    assert objectives["safety"].shape == (121,)
    for kind in SPELLINGS:
        assert details[f"attack_auroc/{kind}"] == pytest.approx(objectives["task_skill"])


def test_a_users_objective_gets_scores_with_their_rows(pictured: EvaluationSet) -> None:
    scores = np.linspace(0, 1, len(pictured.encoded))
    given = pictured.scored(scores)
    assert isinstance(given, Scored)
    assert given.scores.tolist() == scores[:16].tolist()
    assert given.labels.tolist() == pictured.rows.labels.tolist()
    assert given.tasks.tolist() == ["all"] * 16
    assert given.has_image.tolist() == [False, True] * 8


def test_a_users_objective_changes_nothing_but_its_own_copies(pictured: EvaluationSet) -> None:
    scores = np.linspace(0, 1, len(pictured.encoded))
    given, before = pictured.scored(scores), _values(pictured.measure(scores, None)[0])
    for values in (given.scores, given.labels, given.tasks, given.has_image):
        values[:] = np.zeros(len(values), values.dtype)
    assert _values(pictured.measure(scores, None)[0]) == before
    assert pictured.scored(scores).labels.tolist() == pictured.rows.labels.tolist()
    assert pictured.scored(scores).tasks.tolist() == ["all"] * 16


def test_a_users_objective_is_found_by_module_and_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_goals.py").write_text("def mean(scored):\n    return scored.scores.mean()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = load_function("objectives", "own_goals:mean")
    sys.modules.pop("own_goals")
    none = np.zeros(0)
    two = Scored(np.array([0.2, 0.4]), none.astype(np.int8), none.astype(str), none.astype(bool))
    assert found(two) == pytest.approx(0.3)


@pytest.mark.parametrize(
    "name",
    ["no_such_module:mean", "math:no_such", "math:", "math", ":mean", "math:pi", ".rel:mean"],
)
def test_an_objective_that_cannot_be_had_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}'"):
        load_function("objectives", name)


def test_the_gain_is_of_the_rows_with_a_picture_alone(pictured: EvaluationSet) -> None:
    scores = _truth(pictured).astype(float)
    scores[:16][~pictured.has_image] = 1 - scores[:16][~pictured.has_image]
    objectives, _ = map(_values, pictured.measure(scores, np.full(16, 0.5)))
    assert objectives["cross_modal_gain"] == 0.5  # though rows of text are all wrong
    assert objectives["task_skill"] == 0.5


def test_the_threshold_is_each_resamples_own(pictured: EvaluationSet) -> None:
    """Of one threshold for all draws the interval of what it decides would be too narrow."""
    scores = np.random.default_rng(0).random(len(pictured.encoded))
    threshold = pictured.measure(scores, None, draws=60)[1]["threshold"]
    unsafe = scores[:16][pictured.labels == 1]
    assert set(threshold) <= set(unsafe)
    assert len(set(threshold)) > 1


@pytest.fixture(scope="module")
def in_blocks(tiny: Backbone, tiny_rows: Rows, tower: VisionTower) -> EvaluationSet:
    """Rows of two tasks, those of text first, and as many clean ones: the first rows are no fair
    share of them."""
    order = [*range(0, 16, 2), *range(1, 16, 2)]
    rows = replace(tiny_rows, tasks=("a",) * 8 + ("b",) * 8).take(order)
    benign = replace(rows, labels=np.zeros(16, np.int8), images=(None,) * 16)
    return EvaluationSet(rows, benign, 0, 0, encoder(tiny, tower), True)


def test_a_part_keeps_of_each_row_what_belongs_to_it(in_blocks: EvaluationSet) -> None:
    part, everything = in_blocks.part(share=50, per_class=0), in_blocks.encoded.rows
    assert (len(part.rows), len(part.clean)) == (8, 8)
    assert part.labels.tolist() == part.rows.labels.tolist()
    assert part.tasks.tolist() == list(part.rows.tasks)
    assert part.has_image.tolist() == [image is not None for image in part.rows.images]
    assert everything.take(part._main).keys() == part.rows.keys()
    assert everything.take(part._clean).keys() == part.clean.keys()


def test_skill_of_a_share_is_task_skill_of_its_rows(
    in_blocks: EvaluationSet, pack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is looked at within a stage is what is measured of as large a part."""
    scores = np.random.default_rng(0).random((8, len(in_blocks.encoded)))
    monkeypatch.setattr(EvaluationSet, "_score", lambda *_: scores)
    part = in_blocks.part(share=50, per_class=0)
    measured = [part.measure(own, None)[0]["task_skill"][0] for own in scores]
    half = in_blocks.skill(pack, batch=8, share=50, images=True)
    assert half == pytest.approx(measured)


def test_clean_rows_are_drawn_apart_from_the_safe_ones(tiny: Backbone, tiny_rows: Rows) -> None:
    """Of as many safe rows the first half is flagged, of clean ones the second: drawn alike, the
    two would make up for each other, and the interval of P3 would have no width."""
    benign = replace(tiny_rows.take(range(8)), labels=np.zeros(8, np.int8), images=(None,) * 8)
    rows = EvaluationSet(tiny_rows, benign, 0, 0, encoder(tiny, None), False)
    scores = _truth(rows) * 0.8 + 0.1
    scores[np.flatnonzero(rows.labels == 0)[:4]] = scores[20:] = 0.95
    drawn = [
        rows.measure(scores, None, draws=60)[0]["false_positive_cost"],
        rows.measure_decisions(scores, 0.9, draws=60)["as_served/false_positive_rate"],
    ]
    for values in drawn:
        assert values[0] == 0.5
        assert values[1:].std() > 0.05


def test_the_gain_is_of_the_same_draws_with_and_without_pictures(pictured: EvaluationSet) -> None:
    """Of the same scores it is none in each of them: drawn apart, the interval would be too
    wide."""
    scores = np.random.default_rng(0).random(len(pictured.encoded))
    objectives, details = pictured.measure(scores, scores[:16], draws=60)
    assert not objectives["cross_modal_gain"].any()
    assert details["auroc/text_alone"].std() > 0.01


def test_a_kind_is_resampled_by_its_own_rows(
    tiny: Backbone, tiny_rows: Rows, tower: VisionTower
) -> None:
    """Wrappings go on all rows of text, picture attacks on all others: see above."""
    rows = EvaluationSet(tiny_rows, tiny_rows.take([]), 8, 0, encoder(tiny, tower), True)
    chance = np.random.default_rng(0).random(len(tiny_rows))
    scores = np.concatenate([chance, *(chance[own.origins] for own in rows.attacked.values())])
    _, details = rows.measure(scores, None, 60)
    for kinds, part in ((WRAPPINGS, "text"), (PICTURES, "image")):
        for kind in kinds:
            own = details[f"attack_auroc/{kind}"]
            assert own == pytest.approx(details[f"auroc/modality/{part}"])


def test_attacked_rows_of_a_part_have_their_own_scores(tiny: Backbone, tiny_rows: Rows) -> None:
    whole = EvaluationSet(tiny_rows, tiny_rows.take([]), 8, 0, encoder(tiny, None), False)
    part, everything = whole.part(share=100, per_class=2), whole.encoded.rows
    for kind, attacked in part.attacked.items():
        assert everything.take(part._attacks[kind]).texts == attacked.rows.texts


def test_the_surest_scores_are_told_apart(
    plain: EvaluationSet, pack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of logits of 18 or more are all one in float32."""

    def sure(_: Any, pack: Any, batch: Any) -> torch.Tensor:
        lengths = batch.mask.sum(1)
        return (18.0 + lengths).expand(pack.size, -1)

    monkeypatch.setattr(evaluate, "score", sure)
    scores, _ = plain.score_all(pack, batch=4, images=False)
    lengths = np.array(plain.encoded.lengths)
    assert len(set(scores[0])) == len(set(lengths)) > 3
    assert (np.diff(scores[0][np.argsort(lengths, kind="stable")]) >= 0).all()


def test_the_seed_decides_what_is_attacked_drawn_and_shared(
    in_blocks: EvaluationSet, tiny: Backbone, pack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, clean = in_blocks.rows, in_blocks.clean
    rows = EvaluationSet(whole, clean, 2, 1, encoder(tiny, None), False)
    kept, other = (subset(whole, 50, seed) for seed in (1, 0))
    part = rows.part(share=50, per_class=1)
    assert kept.tolist() != other.tolist()
    assert part.rows.keys() == whole.take(kept).keys()
    assert part.clean.keys() == clean.take(subset(clean, 50, 1)).keys()
    attacked = attack_rows(whole, 2, 1, False)
    assert [own.rows.texts for own in rows.attacked.values()] == [
        own.rows.texts for own in attacked.values()
    ]
    scores = np.random.default_rng(0).random((2, len(rows.encoded)))
    monkeypatch.setattr(EvaluationSet, "_score", lambda *_: scores)
    skills = rows.skill(pack, batch=8, share=50, images=False)
    assert skills == pytest.approx([part.measure(own, None)[0]["task_skill"][0] for own in scores])
    drawn, again = (
        EvaluationSet(whole, clean, 0, seed, encoder(tiny, None), False).measure(
            scores[0, :32], None, draws=20
        )[0]["task_skill"]
        for seed in (1, 2)
    )
    assert drawn[0] == again[0]
    assert not np.array_equal(drawn, again)
