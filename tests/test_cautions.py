"""What is said of figures that few rows bear, in all or in part, and of those of chance."""

from __future__ import annotations

from typing import Any

import pytest

from coralx.cautions import LEAST_ROWS, chance, misread, one_sided, scarce
from coralx.steps import LEAST_SCALED

WHOLE = {"validation": {"unsafe": 200, "safe": 200}, "test": {"unsafe": 200, "safe": 200}}
BOTH = ("task_skill", "safety", "cross_modal_gain")


def count(unsafe: int, safe: int) -> dict[str, int]:
    return {"unsafe": unsafe, "safe": safe}


def facts(**parts: Any) -> dict[str, Any]:
    """Of a run whose splits have rows enough, but for what is given."""
    return {
        "classes": WHOLE,
        "task_classes": {},
        "picture_classes": {},
        "stage_classes": {},
    } | parts


MORE = "give it more (data.test, data.max_rows)"
RULE = "figures of fewer than about 30 rows of a class are mostly chance"


@pytest.mark.parametrize(
    ("unsafe", "few", "uncalibrated"),
    [(LEAST_SCALED - 1, True, True), (LEAST_SCALED, True, False), (LEAST_ROWS, False, False)],
)
def test_few_rows_of_a_class_say_what_they_are_too_few_for(
    unsafe: int, few: bool, uncalibrated: bool
) -> None:
    said = "".join(scarce(facts(classes={"validation": count(unsafe, 400)}), BOTH))
    assert (f"validation has {unsafe} unsafe rows; {RULE}" in said) == few
    assert (f"{RULE}, and below 10 probabilities are left uncalibrated; give" in said) == (
        uncalibrated
    )


def test_test_rows_calibrate_nothing() -> None:
    (said,) = scarce(facts(classes={"test": count(2, 3)}), BOTH)
    assert said == f"test has 2 unsafe and 3 safe rows; {RULE}; {MORE}"


def test_what_a_split_has_few_rows_for_is_told_in_one_warning() -> None:
    known = facts(
        task_classes={"validation": {"a": count(40, 29), "b": count(160, 171)}},
        picture_classes={"validation": count(7, 31), "test": count(31, 31)},
        stage_classes={"S0": count(8, 50)},
    )
    assert scarce(known, BOTH) == [
        "validation has 29 safe rows of task 'a', 7 unsafe rows with a picture (for "
        f"cross_modal_gain and safety), 8 unsafe rows for S0 to choose by; {RULE}; give it "
        "more (data.validation, data.max_rows)"
    ]


def test_tasks_that_lack_a_class_are_named_the_first_three() -> None:
    lacking = {"insults": ["safe"], "b": ["unsafe", "safe"], "c": ["unsafe"], "d": ["safe"]}
    assert one_sided({"validation": {}, "test": lacking}) == [
        "task_skill on test rows leaves out tasks without both classes: 'insults' (no safe row), "
        "'b' (no unsafe and no safe row), 'c' (no unsafe row), 1 more; give rows of both as "
        "data.test"
    ]


def test_stages_that_choose_by_few_rows_are_named_together() -> None:
    stages = {"S0": count(8, 90), "S1": count(8, 90), "S2": count(16, 180), "S3": count(30, 30)}
    (said,) = scarce(facts(stage_classes=stages), BOTH)
    assert (
        "validation has 8 unsafe rows for S0 and S1 to choose by, 16 unsafe rows for S2 to choose "
        "by; " in said
    )
    few = facts(classes={"validation": count(29, 200)}, stage_classes=stages)
    assert "choose by" not in scarce(few, BOTH)[0], "told of the whole split"


def test_tasks_of_few_rows_that_count_in_skill_are_named() -> None:
    tasks = {"spam": count(60, 60), "threat": count(1, 40), "b": count(60, 0)}
    (said,) = scarce(facts(task_classes={"test": tasks}), BOTH)
    assert said == f"test has 1 unsafe row of task 'threat'; {RULE}; {MORE}"


def test_the_smallest_three_tasks_are_named() -> None:
    tasks = {f"t{n}": count(n, 40) for n in (9, 3, 4, 1, 40)} | {"both": count(20, 2)}
    (said,) = scarce(facts(task_classes={"test": tasks}), BOTH)
    assert (
        "test has 1 unsafe row of task 't1', 20 unsafe and 2 safe rows of task 'both', 3 unsafe "
        "rows of task 't3', few of 2 more tasks; " in said
    )


@pytest.mark.parametrize(
    ("unsafe", "told"), [(LEAST_ROWS - 1, True), (LEAST_ROWS, False), (0, False)]
)
@pytest.mark.parametrize("part", ["task_classes", "picture_classes"])
def test_few_rows_of_a_part_are_told_once(part: str, unsafe: int, told: bool) -> None:
    """Not again where the split has no others of the class, nor where nothing is measured."""
    few, many = count(unsafe, 90), count(90, 90)
    own: Any = {"a": few, "b": many} if part == "task_classes" else few
    assert bool(scarce(facts(**{part: {"validation": own}}), BOTH)) == told
    own = {"a": few, "b": count(0, 90)} if part == "task_classes" else few
    whole = {"validation": count(unsafe, 200)}
    with_part, without = facts(classes=whole, **{part: {"validation": own}}), facts(classes=whole)
    assert scarce(with_part, BOTH) == scarce(without, BOTH)


def test_few_pictures_are_told_with_the_objectives_that_hang_on_them() -> None:
    known = facts(picture_classes={"validation": count(7, 31), "test": count(31, 31)})
    assert "with a picture (for safety); " in scarce(known, ("safety",))[0]
    assert scarce(known, ("task_skill",)) == []


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
        "4 of 10 validation rows are training rows as the model reads them: what differs is cut "
        "off, or nothing that it looks at; what they show is not new",
        "5 of 20 test rows are training rows as the model reads them: what differs is cut off, or "
        "nothing that it looks at; what they show is not new",
    ]


@pytest.mark.parametrize(
    ("value", "low", "told"),
    [
        (0.6, 0.501, ""),
        (0.6, 0.5, "not shown to be better than chance: test AUROC 0.600 (0.500 to 0.900)"),
        (0.5, 0.4, "no better than chance: test AUROC 0.500"),
        (0.6, None, ""),
        (None, None, "no better than chance: validation AUROC 0.400"),
    ],
)
def test_chance_is_told_where_the_interval_holds_it(
    value: float | None, low: float | None, told: str
) -> None:
    test = {"task_skill": {"value": value, "low": low, "high": 0.9}}
    assert chance({"test": test, "objectives": {"task_skill": 0.4}, "details": {}}) == told


def test_chance_is_told_of_the_auroc_not_of_a_proxy_of_it() -> None:
    member = {"test": {}, "objectives": {"task_skill": 0.9 * 0.55}, "details": {"auroc": 0.55}}
    assert chance(member) == ""


@pytest.mark.parametrize("value", [0.45, 0.55])
def test_an_adapter_that_says_the_same_of_most_rows_is_said_to(value: float) -> None:
    """Beside the flag of chance alone; a few rows alike say nothing."""
    test = {"task_skill": {"value": value, "low": 0.4, "high": 0.7}}
    member = {"test": test, "objectives": {"task_skill": value}}
    told = chance({**member, "details": {"same_logit": 0.972}})
    assert told.endswith("; says the same of 97% of validation rows")
    assert "same of 50%" in chance({**member, "details": {"same_logit": 0.5}})
    assert "same" not in chance({**member, "details": {"same_logit": 0.49}})
    test["task_skill"] = {"value": 0.9, "low": 0.8, "high": 1.0}
    assert chance({**member, "details": {"same_logit": 0.972}}) == ""
