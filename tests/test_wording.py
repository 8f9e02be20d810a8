"""What is said of figures."""

from __future__ import annotations

import pytest

from coralx import objectives
from coralx.objectives import OBJECTIVES
from coralx.wording import bounds, chance, clean, figure, genes_line, label_with_unit


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


def test_a_figure_is_in_the_unit_of_its_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the table alone, so that a further objective in a unit of its own reads like memory."""
    assert figure("memory", 1_234_567_890.0) == "1,234.6"
    assert figure("task_skill", 0.98765) == "0.988"
    assert label_with_unit("memory") == "Memory, MB"
    assert label_with_unit("task_skill") == "Task skill"
    interval = {"low": 1000.0, "high": 2000.0}
    assert bounds("memory", interval) == ""
    delay = OBJECTIVES["memory"]._replace(label="Delay", unit="ms", unit_size=1e-3, drawn=True)
    monkeypatch.setitem(objectives.OBJECTIVES, "delay", delay)
    assert figure("delay", 0.0123) == "12.3"
    assert label_with_unit("delay") == "Delay, ms"
    assert bounds("delay", {"low": 0.001, "high": 0.002}) == "1.0 to 2.0"


def test_what_could_steer_a_terminal_is_replaced_and_lawful_names_stay() -> None:
    for name in ("日本　データ", "Bild\u202f1\u00a0b.png", "👩\u200d💻", "שלום", "a b"):
        assert clean(name) == name
    for sign in ("\x1b", "\x07", "\r", "\x9b", "\u2028", "\udce9", "\u202e", "\u2066"):
        assert clean(f"a{sign}b") == "a\ufffdb"
    assert clean("a\n\tb\r", kept="\n\t") == "a\n\tb\ufffd"
