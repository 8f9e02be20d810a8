"""The view of a run: what it says of finished jobs, how it guesses the time left."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field

import pytest
from rich.console import Console

from coralx.cli.progress import Forecast, LiveView, View, follow
from coralx.config import Config, load_config
from coralx.records import (
    Cost,
    Genome,
    Job,
    LoRAConfig,
    Progress,
    Start,
    Stop,
    TrainingResult,
    TrainingStage,
)

STAGES = (
    TrainingStage(name="short", epoch_budget=1, data_percentage=50, survival_rate=0.5),
    TrainingStage(name="long", epoch_budget=2, data_percentage=100, survival_rate=0.5),
)
GENOMES = tuple(Genome(lora_cfg=LoRAConfig(r=r)) for r in (1, 2, 3, 4))


@dataclass
class State:
    """What a view reads of a search."""

    results: list[TrainingResult] = field(default_factory=list)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def _config() -> Config:
    return load_config(
        {
            "evolution": {"population": 4, "generations": 2},
            "data": {"max_rows": 80},
            "hyperband": {"training_stages": [stage.model_dump() for stage in STAGES]},
        }
    )


def _job(index: int = 0, generation: int = 0, genomes: tuple[Genome, ...] = GENOMES) -> Job:
    return Job(
        id=f"g{generation}-{STAGES[index].name}-0",
        generation=generation,
        stage=STAGES[index],
        stage_index=index,
        genomes=genomes,
        starts=tuple(Start() for _ in genomes),
    )


def _result(job: Job, genome: Genome, auroc: float | None, left: bool = False) -> TrainingResult:
    stop = Stop(gate="auroc", value=0.5, limit=0.55, reason="too low")
    return TrainingResult(
        job=job.id,
        genome=genome,
        generation=job.generation,
        stage=job.stage.name,
        stage_index=job.stage_index,
        lora_cfg=genome.lora_cfg,
        details={} if auroc is None else {"auroc": auroc},
        stopped=stop if auroc is None else None,
        left_early=left,
        cost=Cost(steps=5),
    )


def test_a_forecast_counts_genome_steps_of_the_plan() -> None:
    forecast = Forecast(STAGES, 4, 2)
    # A generation: 4 x 0.5 + 2 x 2 = 6 epochs of a genome, a run 12.
    assert forecast.share(0, 0, 0) == 0
    assert forecast.share(0, 0, 2) == pytest.approx(1 / 12)
    assert forecast.share(0, 1, 1) == pytest.approx(4 / 12)
    assert forecast.share(0, 0, 100) == pytest.approx(2 / 12)
    assert forecast.share(1, 1, 2) == 1


def test_nobody_reads_the_rows_to_follow_a_run() -> None:
    view = View(load_config(_config(), {"data": {"train": "nowhere.jsonl"}}), lambda _: None)
    view.begin(State())
    view.observe(Progress(job=_job(), step=5, steps=5, alive=4))
    assert view.share() == pytest.approx(20 / 120)


ATTACK = "\x1b]0;mine\x07\x1b[2J\r\x9b31m\udce9"


@pytest.mark.parametrize("live", [False, True])
def test_what_is_said_does_not_steer_the_terminal(live: bool) -> None:
    """Names and paths from elsewhere stand in messages."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=live, width=100)
    with follow(_config(), console) as view:
        view.say(f"reading {ATTACK}\n\tand more")
        assert not live or ATTACK not in view._phase  # type: ignore[attr-defined]
    assert "]0;mine\ufffd" in file.getvalue()
    for sign in ("\x1b]", "\x1b[2J\r", "\x07", "\x9b", "\udce9"):
        assert sign not in file.getvalue()
    assert "\n        and more" in file.getvalue()


def test_a_finished_job_is_told_once_with_what_came_of_it() -> None:
    lines: list[str] = []
    state, clock = State(), Clock()
    view = View(_config(), lines.append, clock)
    view.say("reading rows")
    view.begin(state)
    job = _job()
    view.observe(Progress(job=job, step=5, steps=5, alive=3))
    state.results += [_result(job, GENOMES[0], 0.7), _result(job, GENOMES[1], None)]
    state.results += [_result(job, GENOMES[2], 0.8, left=True), _result(job, GENOMES[3], 0.6)]
    clock.now = 2.0
    view.observe(Progress(job=_job(1, genomes=GENOMES[:2]), step=1, steps=20, alive=2))
    view.flush()
    assert lines == [
        "reading rows",
        "generation 1/2  short: 4 genomes, 5 steps, best AUROC 0.800, 1 stopped, 1 left early, "
        "2.0 s",
    ]


def test_the_time_left_follows_from_the_pace() -> None:
    state, clock = State(), Clock()
    view = View(_config(), lambda _: None, clock)
    assert view.time_left() is None
    view.begin(state)
    job = _job()
    view.observe(Progress(job=job, step=0, steps=5, alive=4))
    assert view.time_left() is None
    clock.now = 10.0
    view.observe(Progress(job=job, step=5, steps=5, alive=4))
    # 80 rows in batches of 8: 5 steps short, 20 long; 20 of 2 x 60 genome-steps in 10 s.
    assert view.share() == pytest.approx(20 / 120)
    assert view.time_left() == pytest.approx(50.0)


def test_a_resumed_run_is_paced_by_what_it_trains_itself() -> None:
    job = _job()
    state, clock = State(results=[_result(job, genome, 0.7) for genome in GENOMES]), Clock(100.0)
    lines: list[str] = []
    view = View(_config(), lines.append, clock)
    view.begin(state)
    later = _job(1, genomes=GENOMES[:2])
    view.observe(Progress(job=later, step=0, steps=20, alive=2))
    assert view.share() == pytest.approx(20 / 120)
    assert view.best == 0.7
    clock.now = 110.0
    view.observe(Progress(job=later, step=10, steps=20, alive=2))
    assert view.time_left() == pytest.approx(40.0)  # 20 genome-steps in 10 s, 80 to go
    assert lines == []


def test_the_best_auroc_is_that_of_the_highest_stage() -> None:
    view = View(_config(), lambda _: None)
    view.begin(State())
    assert view.best is None
    for index, skill in ((0, 0.9), (1, 0.8), (0, 0.95), (1, 0.7)):
        view.observe(Progress(job=_job(index), step=1, steps=5, alive=4, skill=skill))
    assert view.best == 0.8


@pytest.mark.parametrize("order", [1, -1])
def test_the_best_auroc_is_a_number_where_a_genome_diverged(order: int) -> None:
    lines: list[str] = []
    state = State()
    view = View(_config(), lines.append)
    view.begin(state)
    job = _job(genomes=GENOMES[:2])
    skills = (math.nan, 0.7)[::order]
    for skill in skills:
        view.observe(Progress(job=job, step=1, steps=5, alive=2, skill=skill))
    assert view.best == 0.7
    state.results += [_result(job, *pair) for pair in zip(GENOMES, skills, strict=False)]
    view.flush()
    assert "best AUROC 0.700" in lines[0]
    lone = _job(1, genomes=GENOMES[:1])
    state.results.append(_result(lone, GENOMES[0], math.nan))
    view.flush()
    assert "AUROC" not in lines[1]
    assert view.best == 0.7


def test_the_live_line_shows_where_the_run_is() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    view = LiveView(_config(), console)
    view.begin(State())
    view.observe(Progress(job=_job(1, 1), step=7, steps=20, alive=3, skill=0.75))
    with console.capture() as capture:
        console.print(view)
    shown = capture.get()
    for fact in ("generation 2/2", "long (2/2)", "3 of 4 genomes alive", "step 7/20", "0.750", "%"):
        assert fact in shown


def test_no_terminal_gets_plain_lines_alone() -> None:
    file = io.StringIO()
    with follow(_config(), Console(file=file)) as view:
        view.say("loading [bold] things")
    assert file.getvalue() == "loading [bold] things\n"


def test_a_terminal_gets_phases_and_a_line_that_goes_away() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100)
    with follow(_config(), console) as view:
        view.say("loading base model [x]")
        view.begin(State())
        view.observe(Progress(job=_job(), step=1, steps=5, alive=4))
    assert "loading base model [x]" in file.getvalue()
    assert "\x1b[?25h" in file.getvalue()  # the cursor is back


def test_a_terminal_is_served_where_stderr_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    file = io.StringIO()
    with follow(_config(), Console(file=file, force_terminal=True, width=100)) as view:
        view.say("loading")
    assert "loading" in file.getvalue()
