"""What is said of figures that few rows bear, of a whole split or of a part of it."""

from __future__ import annotations

import pytest

from coralx.cautions import (
    LEAST_ROWS,
    few_in_stages,
    few_of_tasks,
    few_with_pictures,
    misread,
    one_sided,
    scarce,
)
from coralx.steps import LEAST_SCALED

WHOLE = {"validation": {"unsafe": 200, "safe": 200}, "test": {"unsafe": 200, "safe": 200}}
BOTH = ("task_skill", "safety", "cross_modal_gain")


def count(unsafe: int, safe: int) -> dict[str, int]:
    return {"unsafe": unsafe, "safe": safe}


@pytest.mark.parametrize(
    ("unsafe", "chance", "uncalibrated"),
    [(LEAST_SCALED - 1, True, True), (LEAST_SCALED, True, False), (LEAST_ROWS, False, False)],
)
def test_few_rows_of_a_class_say_what_they_are_too_few_for(
    unsafe: int, chance: bool, uncalibrated: bool
) -> None:
    said = "".join(scarce({"validation": {"unsafe": unsafe, "safe": 400}}))
    assert (
        f"validation has {unsafe} unsafe rows; choices need at least about 30" in said
    ) == chance
    assert ("and below 10 probabilities are left uncalibrated; give more" in said) == uncalibrated


def test_test_rows_calibrate_nothing() -> None:
    (said,) = scarce({"test": {"unsafe": 2, "safe": 3}})
    assert said == (
        "test has 2 unsafe and 3 safe rows; final figures need at least about 30 of each class to "
        "be more than chance; give more as data.test"
    )


def test_tasks_that_lack_a_class_are_named_the_first_three() -> None:
    lacking = {"insults": ["safe"], "b": ["unsafe", "safe"], "c": ["unsafe"], "d": ["safe"]}
    assert one_sided({"validation": {}, "test": lacking}) == [
        "task_skill on test rows leaves out tasks without both classes: 'insults' (no safe row), "
        "'b' (no unsafe and no safe row), 'c' (no unsafe row), 1 more; give rows of both as "
        "data.test"
    ]


def test_stages_that_choose_by_few_rows_are_named_together() -> None:
    stages = {"S0": count(8, 90), "S1": count(8, 90), "S2": count(16, 180), "S3": count(30, 30)}
    said = few_in_stages(WHOLE, stages)
    assert said == [
        "S0 and S1 choose by 8 unsafe rows, their share of validation; choices need at least about "
        "30 of each class to be more than chance; give more as data.validation, or raise their "
        "data_percentage",
        "S2 chooses by 16 unsafe rows, its share of validation; choices need at least about 30 of "
        "each class to be more than chance; give more as data.validation, or raise its "
        "data_percentage",
    ]
    assert few_in_stages({"validation": count(29, 200)}, stages) == [], "told of the whole split"


def test_tasks_of_few_rows_that_count_in_skill_are_named() -> None:
    tasks = {"spam": count(60, 60), "threat": count(1, 40), "b": count(60, 0)}
    assert few_of_tasks(WHOLE, {"validation": tasks, "test": {}}) == [
        "task_skill on validation rows is the mean of 2 tasks, of which 'threat' has 1 unsafe row; "
        "each needs at least about 30 of each class to be more than chance; give more as "
        "data.validation"
    ]


def test_the_smallest_three_tasks_are_named() -> None:
    tasks = {f"t{n}": count(n, 40) for n in (9, 3, 4, 1, 40)} | {"both": count(20, 2)}
    (said,) = few_of_tasks(WHOLE, {"test": tasks})
    assert (
        "is the mean of 6 tasks, of which 't1' has 1 unsafe row, 'both' has 20 unsafe and 2 safe "
        "rows, 't3' has 3 unsafe rows, 2 more have few; each needs" in said
    )


@pytest.mark.parametrize(
    ("unsafe", "told"), [(LEAST_ROWS - 1, True), (LEAST_ROWS, False), (0, False)]
)
def test_few_rows_of_a_part_are_told_once(unsafe: int, told: bool) -> None:
    """Not again where the split has no others of the class, nor where nothing is measured."""
    own = {"validation": count(unsafe, 90)}
    tasks = {"validation": {"a": count(unsafe, 90), "b": count(90, 90)}}
    assert bool(few_of_tasks(WHOLE, tasks)) == told
    assert bool(few_with_pictures(WHOLE, own, BOTH)) == told
    whole = {"validation": count(unsafe, 200)}
    assert few_of_tasks(whole, {"validation": {"a": count(unsafe, 90), "b": count(0, 90)}}) == []
    assert few_with_pictures(whole, own, BOTH) == []


def test_few_pictures_are_told_with_the_objectives_that_hang_on_them() -> None:
    pictures = {"validation": count(7, 31), "test": count(31, 31)}
    assert few_with_pictures(WHOLE, pictures, BOTH) == [
        "validation has 7 unsafe rows with a picture; their part in cross_modal_gain and safety "
        "needs at least about 30 of each class to be more than chance; give more as data.validation"
    ]
    assert "part in safety needs" in few_with_pictures(WHOLE, pictures, ("safety",))[0]
    assert few_with_pictures(WHOLE, pictures, ("task_skill",)) == []


def test_what_the_model_does_not_read_is_told_where_there_is_any() -> None:
    rows = {"train": 1200, "validation": 10, "test": 20}
    none = dict.fromkeys(rows, 0)
    reading = {"max_tokens": 8, "rows": rows, "cut": none, "unknown": none}
    reading["trained_on"] = {"validation": 0, "test": 0}
    assert misread({}, "small") == misread(reading, "small") == []
    reading |= {
        "cut": none | {"train": 1100, "test": 1},
        "unknown": {"train": 3, "validation": 0, "test": 2},
    }
    reading["trained_on"] = {"validation": 4, "test": 5}
    assert misread(reading, "small") == [
        "texts longer than data.max_tokens (8) are cut: 1,100 of 1,200 train, 1 of 20 test",
        "3 of 1,200 train, 2 of 20 test texts hold no token that small knows: it cannot tell them "
        "apart",
        "4 of 10 validation rows are training rows as the model reads them (with letters or "
        "accents that it does not tell apart); what they show is not new",
        "5 of 20 test rows are training rows as the model reads them (cut at data.max_tokens, 8, "
        "or with letters or accents that it does not tell apart); what they show is not new",
    ]
