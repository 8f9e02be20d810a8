"""How a run is followed while it goes: a live line at a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from coralx.cli.output import clean
from coralx.config import Config
from coralx.records import Job, Progress, TrainingResult, TrainingStage
from coralx.runs.watcher import Watcher
from coralx.search import budget
from coralx.search.asktell import Search
from coralx.wording import ACCENT, duration, plural

LEAST_SHARE = 0.05  # of the work done before the time left is guessed at
LEAST_SECONDS = 3.0
REFRESHES = 4  # a second
BAR_WIDTH = 28


class Forecast:
    """How much of a run is done, as shares of its planned steps: these are the same whatever the
    number of rows, which need not be counted for that.

    The plan takes every genome through its gates and no stage as left early, so that what is left
    is rather over- than underestimated.
    """

    def __init__(
        self, stages: tuple[TrainingStage, ...], population: int, generations: int
    ) -> None:
        plan = budget.plan(stages, population, 1, 1)
        self._generations, self._genomes = generations, [line.genomes for line in plan.stages]
        self._shares = [line.steps / (plan.hyperband_steps or 1) for line in plan.stages]

    def share(self, generation: int, stage_index: int, genomes: float) -> float:
        """Of the run's work, 0..1: all before this stage, and so many genomes of the stage."""
        part = min(1.0, genomes / self._genomes[stage_index]) * self._shares[stage_index]
        return min(1.0, (generation + sum(self._shares[:stage_index]) + part) / self._generations)


class View(Watcher):
    """Follows a run: reports each finished job once, and how far the job at work is.

    Args:
        emit: prints a line that stays.
        clock: seconds of a clock that never goes back.
    """

    def __init__(
        self,
        config: Config,
        emit: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._emit, self._clock = config, emit, clock
        self._generations = config.evolution.generations
        self._state: Search | None = None
        own = config.evolution
        self._forecast = Forecast(config.hyperband.stages, own.population, own.generations)
        self._progress: Progress | None = None
        self._told = 0  # results of the state that are reported
        self._done = 0  # genomes of the current stage whose jobs are finished
        self._began = self._job_began = clock()
        self._first_share: float | None = None
        self._best: tuple[int, float] = (-1, 0.0)  # stage index, AUROC

    @property
    def best(self) -> float | None:
        """The best AUROC of the highest stage so far: a cheap score never beats a full one."""
        return None if self._best[0] < 0 else self._best[1]

    def emit(self, line: str) -> None:
        """Print a line that stays."""
        self._emit(clean(line))

    def say(self, message: str) -> None:
        self.flush()
        self.emit(message)

    def begin(self, evolution: Search) -> None:
        self._state = evolution
        self._told = len(evolution.results)
        self._began = self._job_began = self._clock()

    def observe(self, progress: Progress) -> None:
        if self._progress is None or progress.job.id != self._progress.job.id:
            self._enter(progress.job, progress.steps)
        self._progress = progress
        self._note_best(progress.job.stage_index, progress.skill)

    def flush(self) -> None:
        """Report the jobs that have ended since the last call."""
        if self._state is None:
            return
        fresh = self._state.results[self._told :]
        self._told += len(fresh)
        jobs: dict[str, list[TrainingResult]] = {}
        for result in fresh:
            jobs.setdefault(result.job, []).append(result)
        for results in jobs.values():
            self.emit(self._describe(results))
        self._job_began = self._clock()

    def time_left(self) -> float | None:
        """Seconds at the pace so far; None as long as there is nothing to tell it from."""
        if self._progress is None or self._first_share is None:
            return None
        share, elapsed = self.share(), self._clock() - self._began
        done = share - self._first_share
        if done < LEAST_SHARE or elapsed < LEAST_SECONDS:
            return None
        return elapsed * (1 - share) / done

    def share(self) -> float:
        """Of the run's planned work, 0..1."""
        if self._progress is None or self._state is None:
            return 0.0
        job = self._progress.job
        trained = self._done + len(job.genomes) * self._progress.step / self._progress.steps
        return self._forecast.share(job.generation, job.stage_index, trained)

    def _enter(self, job: Job, steps: int) -> None:
        self.flush()
        results = self._state.results if self._state else []
        place = (job.generation, job.stage_index)
        self._done = sum((r.generation, r.stage_index) == place for r in results)
        self._progress = Progress(job=job, step=0, steps=steps, alive=len(job.genomes))
        if self._first_share is None:
            for result in results:
                self._note_best(result.stage_index, result.auroc)
            self._first_share = self.share()

    def _describe(self, results: list[TrainingResult]) -> str:
        """One line on a finished job."""
        first = results[0]
        known = (result.auroc for result in results)
        # Of a genome that diverged it is not a number.
        found = [value for value in known if value is not None and math.isfinite(value)]
        for value in found:
            self._note_best(first.stage_index, value)
        steps = max(result.cost.kept_steps for result in results)
        stopped = sum(result.stopped is not None for result in results)
        left = sum(result.left_early for result in results)
        parts = [
            f"{plural(len(results), 'genome')}, {plural(steps, 'step')}",
            f"best AUROC {max(found):.3f}" if found else "",
            f"{stopped} stopped" if stopped else "",
            f"{left} left early" if left else "",
            duration(self._clock() - self._job_began),
        ]
        head = f"generation {first.generation + 1}/{self._generations}  {first.stage}: "
        return head + ", ".join(filter(None, parts)) + self._about()

    def _about(self) -> str:
        left = self.time_left()
        return f"; about {_rough(left)} left" if left else ""

    def _note_best(self, stage_index: int, value: float | None) -> None:
        if value is not None and math.isfinite(value):
            self._best = max(self._best, (stage_index, value))


class LiveView(View):
    """The same, and below its lines one that moves: rich calls `__rich__` to redraw it."""

    def __init__(self, config: Config, console: Console) -> None:
        super().__init__(config, self._print)
        self._console = console
        self._phase = "loading torch and transformers"
        self._spinner = Spinner("dots", style=ACCENT)

    def say(self, message: str) -> None:
        super().say(message)
        self.show(message)

    def show(self, message: str) -> None:
        self._phase, self._progress = clean(message), None

    def __rich__(self) -> RenderableType:
        """Generation, stage, bar and time left; under them genomes, steps and the best AUROC."""
        progress = self._progress
        if progress is None:
            self._spinner.update(text=Text(f" {self._phase}"))
            return self._spinner
        job, stages = progress.job, self._config.hyperband.stages
        line = Table.grid(padding=(0, 2))
        left = self.time_left()
        line.add_row(
            Text(f"generation {job.generation + 1}/{self._generations}", style="bold"),
            Text(f"{job.stage.name} ({job.stage_index + 1}/{len(stages)})", style=f"bold {ACCENT}"),
            ProgressBar(total=1, completed=self.share(), width=BAR_WIDTH, complete_style=ACCENT),
            Text(f"{100 * self.share():.0f}%"),
            Text(f"about {_rough(left)} left" if left else ""),
        )
        best = "" if self.best is None else f" · best AUROC so far {self.best:.3f}"
        measuring = ", measuring" if progress.step == progress.steps else ""
        facts = (
            f"{progress.alive} of {plural(len(job.genomes), 'genome')} alive · "
            f"step {progress.step:,}/{progress.steps:,}{measuring}{best}"
        )
        return Group(line, Text(facts, style="dim"))

    def _print(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)


@contextmanager
def follow(config: Config, console: Console) -> Iterator[View]:
    """A view fit for where the output goes, open while the run goes."""
    if not console.is_terminal:
        view = View(config, lambda line: console.out(line, highlight=False))
        yield view
        view.flush()
        return
    live = LiveView(config, console)
    with Live(
        live,
        console=console,
        refresh_per_second=REFRESHES,
        transient=True,
        redirect_stderr=sys.stderr is not None and sys.stderr.isatty(),  # None: closed
    ):
        yield live
        live.flush()


def _rough(seconds: float) -> str:
    """A guess in one unit: no more digits than it deserves."""
    if seconds < 55:
        return f"{max(5, 5 * round(seconds / 5))} s"
    if seconds < 55 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
