"""What is said of figures."""

from __future__ import annotations

import pytest

from coralx import objectives
from coralx.objectives import OBJECTIVES
from coralx.wording import bounds, clean, figure, genes_line, label_with_unit


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
