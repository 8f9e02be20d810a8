"""A user's own objective that fails: told before training where it can be, and nothing is lost."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest
from typer.testing import CliRunner

from coralx.cli import app
from coralx.store import read_history

MODULES = {
    "no such module": ("", "nowhere_at_all:f", "No module named 'nowhere_at_all'"),
    "no such function": ("", "own_{}:f", "has no attribute 'f'"),
    "no function": ("f = 3", "own_{}:f", "must be a function, got 3"),
    "raises": ("1 / 0", "own_{}:f", "division by zero"),
    "exits": ("raise SystemExit('bye')", "own_{}:f", "bye"),
    "is no Python": ("def f(:", "own_{}:f", "invalid syntax"),
}
BODIES = {
    "raises": ("return rows.scores[1000]", "IndexError: index 1000 is out of bounds"),
    "exits": ("raise SystemExit(3)", "SystemExit: 3"),
    "NaN": ("return float('nan')", "must be a finite number, got nan"),
    "infinity": ("return rows.scores.sum() * float('inf')", "must be a finite number, got inf"),
    "a text": ("return '0.3'", "TypeError: must be a number, got '0.3'"),
    "nothing": ("return None", "TypeError: float() argument must be a string or a real number"),
    "an array": ("return rows.scores", "TypeError: only "),
}
MENDED = "def f(rows): return rows.scores.mean()"


def write_module(job: Any, text: str) -> str:
    """A module beside the job, of a name that no test before has imported."""
    module = f"own_{job.folder.name}"
    (job.folder / f"{module}.py").write_text(text, encoding="utf-8")
    return module


@pytest.fixture(autouse=True)
def _importable(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(job.folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # the mended one is as old, in seconds


@pytest.mark.parametrize("name", MODULES)
def test_one_that_cannot_be_imported_is_refused_before_anything_is_loaded(
    job: Any, name: str
) -> None:
    text, objective, said = MODULES[name]
    objective = objective.replace("own_{}", write_module(job, text))
    job.settings["objectives"] = ["task_skill", objective]
    message = job.refuse("objectives: 1 problem(s)", repr(objective), said)
    assert "loading" not in message


@pytest.mark.parametrize("name", BODIES)
def test_one_that_fails_stops_the_run_which_goes_on_once_it_is_mended(
    job: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, said = BODIES[name]
    module = write_module(job, f"def f(rows): {body}")
    job.settings["objectives"] = ["task_skill", f"{module}:f"]
    result = job.run()
    assert result.exit_code == 2, result.exception
    history = read_history(job.out)
    first = history.jobs[0].genomes[0].id
    assert f"coralx: objectives: '{module}:f' failed for genome {first}: {said}" in result.stderr
    assert "Traceback" not in result.stderr
    assert history.results == []
    write_module(job, MENDED)
    monkeypatch.delitem(sys.modules, module)
    importlib.invalidate_caches()
    result = CliRunner().invoke(app, ["resume", str(job.out)])
    assert result.exit_code == 0, result.stderr
    assert f"{module}:f" in read_history(job.out).results[0].objectives
