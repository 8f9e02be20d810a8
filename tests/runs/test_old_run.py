"""A journal of coralx 0.1.0, stored as it was written: a run of three genomes, two generations and
two stages, of text alone. Every later version must read it, go on with it and report it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coralx.cli import app
from coralx.loop import run
from coralx.models import read_shape
from coralx.records import Genome, Job, TrainingResult
from coralx.search.asktell import Search
from coralx.search.evolution import new_search
from coralx.store import JOURNAL, History, NoStore, read_history
from coralx.summary import summarize

OLD = Path(__file__).parent / "old_run"


@pytest.fixture(scope="module")
def history() -> History:
    return read_history(OLD)


class Recorded:
    """An executor that answers from the journal."""

    slots = 1

    def __init__(self, history: History) -> None:
        self._history = history
        self.jobs: list[Job] = []

    def submit(self, job: Job) -> bool:
        self.jobs.append(job)
        return True

    def completed(self) -> list[list[TrainingResult]]:
        return [[r for r in self._history.results if r.job == self.jobs[-1].id]]


def _search(history: History) -> Search:
    return new_search(history.config, shape=read_shape(history.config.base_model, 4))


def test_all_of_it_is_read(history: History) -> None:
    assert (len(history.jobs), len(history.results), len(history.generations)) == (4, 10, 2)
    assert history.finished
    assert {test.genome for test in history.tests} == set(history.generations[-1].front)
    assert summarize(history)["finished"]


def test_its_genomes_have_the_ids_of_their_genes(history: History) -> None:
    genomes = [result.genome for result in history.results]
    assert any(genome.parents for genome in genomes)
    assert [Genome(**dict(genome) | {"id": ""}).id for genome in genomes] == [g.id for g in genomes]


def test_replayed_it_ends_where_it_did(history: History) -> None:
    search, executor = _search(history), Recorded(history)
    front = run(search, executor, NoStore(), history)
    assert executor.jobs == [], "nothing is trained again"
    assert search.results == history.results
    for closed, recorded in zip(search.closed, history.generations, strict=True):
        assert (closed.population, closed.front) == (recorded.population, recorded.front)
        assert closed.hypervolume == pytest.approx(recorded.hypervolume)
    assert tuple(result.genome.id for result in front) == history.generations[-1].front


@pytest.mark.parametrize("told", range(4))
def test_stopped_anywhere_it_goes_on_with_the_same_jobs(history: History, told: int) -> None:
    names = [job.id for job in history.jobs[:told]]
    results = [result for result in history.results if result.job in names]
    part = replace(history, order=[*history.jobs[:told], *results], generations=[])
    executor = Recorded(history)
    run(_search(history), executor, NoStore(), part)
    assert executor.jobs == history.jobs[told:]


def test_it_is_reported(history: History, tmp_path: Path) -> None:
    shutil.copy(OLD / JOURNAL, tmp_path)
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert [member["genome"] for member in summary["front"]]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for genome in history.generations[-1].front:
        assert genome in done.output
        assert genome in page
