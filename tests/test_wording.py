"""What is said of figures."""

from __future__ import annotations

import pytest

from coralx.wording import chance, genes_line


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


def test_only_genes_of_coralx_have_signs() -> None:
    genes = {"use_rslora": True, "use_pace": True, "learning_rate": 0.001}
    assert genes_line(genes) == "rslora · use_pace · lr 0.001"
