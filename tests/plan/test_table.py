"""What the plan's table says in words."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from coralx.config import load_config
from coralx.plan.cost import plan_run
from coralx.plan.table import render_plan


@pytest.mark.parametrize(("epochs", "said"), [(1, "1 epoch"), (2, "2 epochs"), (0.5, "0.5 epochs")])
def test_epochs_are_counted_in_plain_english(epochs: float, said: str) -> None:
    plan = plan_run(load_config({"hyperband": {"naive_epochs": epochs}}), 1000)
    file = io.StringIO()
    render_plan(plan, Console(file=file, width=80))
    assert f"Naive full training, {said} each:" in " ".join(file.getvalue().split())


def test_the_peak_is_that_of_evaluation_where_it_is_the_larger() -> None:
    def peak(rows: int) -> int:
        return plan_run(load_config({"training": {"evaluation_batch": rows}}), 1000)["memory"]

    assert peak(1) == peak(8) < peak(32) < peak(64)
