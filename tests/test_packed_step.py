"""The benchmark of a packed step: where its results go."""

from __future__ import annotations

import sys
from typing import Any

import packed_step
import pytest
import results


@pytest.mark.parametrize(
    ("own", "expected"), [([], "packed_step"), (["--name", "packed_step_zen4"], "packed_step_zen4")]
)
def test_results_go_under_the_name_given(
    own: list[str], expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(packed_step, "measure", lambda *_: [])
    monkeypatch.setattr(sys, "argv", ["packed_step.py", "--device", "cpu", *own])
    packed_step.main()
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{expected}.json", f"{expected}.md"]
    assert packed_step.result_name(expected, "cuda") == f"{expected}_cuda"
