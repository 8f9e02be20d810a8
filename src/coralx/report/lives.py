"""What became of each genome: its results in stage order and its fate, for every chapter."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from coralx.objectives import loss
from coralx.records import CurvePoint, Genome, TrainingResult
from coralx.report.markup import Markup, element, hover, join
from coralx.report.plots import CORAL, SEA, STONE
from coralx.store import History
from coralx.summary import current_front
from coralx.wording import figure, genes_line, label

Fate = Literal["front", "finished", "outranked", "stopped", "open"]

# In the order of interest; colours are legible on the light and on the dark page.
FATES: dict[Fate, tuple[str, str]] = {
    "front": ("on the front", CORAL),
    "finished": ("finished, dominated", SEA),
    "outranked": ("not promoted", STONE),
    "stopped": ("stopped by a gate", "#8a63b8"),
    "open": ("under way", "#d9a441"),
}


@dataclass(frozen=True)
class Life:
    """One genome's results, lowest stage first (never empty), and how it ended. `space` names the
    genes that its run varies."""

    genome: Genome
    results: tuple[TrainingResult, ...]
    fate: Fate
    space: Collection[str]
    front_stage: str | None = None  # that left what is on the front, where the run says so

    @property
    def last(self) -> TrainingResult:
        return self.results[-1]

    @property
    def shown(self) -> TrainingResult:
        """The result that stands for the genome: the front's, if it is there, else the last."""
        return next((r for r in self.results if r.stage == self.front_stage), self.last)

    @property
    def inherited_from(self) -> tuple[str, ...]:
        """The genomes whose weights this one began with: none, one, or two that were merged."""
        start = self.results[0].start
        if start.kind not in ("inherit", "merge"):
            return ()
        return tuple(name.rpartition("/")[0] or name for name in start.sources)

    def curve(self) -> list[CurvePoint]:
        return [point for result in self.results for point in result.curve]

    def tooltip(self, *more: tuple[str, str]) -> str:
        """Hover text: id, fate, genes, objectives of the result that stands for it."""
        result = self.shown
        lines: list[tuple[str, str] | str] = [
            self.genome.id,
            ("fate", FATES[self.fate][0]),
            ("genes", genes_line(self.genome.genes(), result.lora_cfg.r, self.space)),
            ("stage", result.stage),
        ]
        lines += [(label(name), figure(name, value)) for name, value in result.objectives.items()]
        if result.stopped:
            lines.append(("stopped", result.stopped.reason))
        return hover(*lines, *more)


def read_lives(history: History) -> list[Life]:
    """Every genome that was trained, in order of first appearance."""
    results: dict[str, dict[int, TrainingResult]] = {}
    for result in history.results:
        results.setdefault(result.genome.id, {})[result.stage_index] = result
    front = {r.genome.id: r.stage for r in current_front(history)}
    closed = {generation.index for generation in history.generations}
    final = len(history.config.hyperband.stages) - 1
    lives = []
    for name, by_stage in results.items():
        ordered = tuple(by_stage[index] for index in sorted(by_stage))
        fate = _fate(ordered[-1], name in front, ordered[-1].generation in closed, final)
        genome, space = ordered[-1].genome, history.config.space
        lives.append(Life(genome, ordered, fate, space, front.get(name)))
    return lives


def by_interest(lives: Iterable[Life], objective: str) -> list[Life]:
    """Front first, then by stage reached, then by the objective, best first."""
    order = list(FATES)

    def place(life: Life) -> tuple[float, float, float]:
        value = life.shown.objectives.get(objective)
        return order.index(life.fate), -life.shown.stage_index, loss(objective, value)

    return sorted(lives, key=place)


def legend(lives: Iterable[Life]) -> Markup:
    """The fates that occur, each with its colour."""
    present = {life.fate for life in lives}
    return element(
        "p",
        join(
            element("span", element("i", class_=f"dot {fate}"), name)
            for fate, (name, _) in FATES.items()
            if fate in present
        ),
        class_="legend",
    )


def _fate(last: TrainingResult, on_front: bool, closed: bool, final_stage: int) -> Fate:
    if on_front:
        return "front"
    if last.stopped:
        return "stopped"
    if last.stage_index >= final_stage:
        return "finished"
    return "outranked" if closed else "open"
