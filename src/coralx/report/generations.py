"""Whether the search got better: objectives, hypervolume and what kept it open, by generation."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from coralx.objectives import describe, in_units, minimised
from coralx.records import Generation, TrainingResult
from coralx.report.markup import Markup, element, empty, hover, plot_text, section, table
from coralx.report.plots import CORAL, SEA, STONE, Trace, card, heading, key, plot
from coralx.store import History
from coralx.summary import Summary, by_generation, front_results
from coralx.wording import better, figure, label_with_unit, share

Values = dict[int, float]  # by generation
Shares = dict[int, float | None]


@dataclass(frozen=True)
class Course:
    """One objective over the generations; a generation without a value is left out."""

    name: str
    front: Values
    best: Values
    median: Values


def generations_section(history: History, summary: Summary) -> Markup:
    """One small figure per objective, and the hypervolume of the front."""
    title = "Objectives per generation"
    if not history.generations:
        nothing = empty("No generation has been closed yet.")
        return section("generations", title, "", nothing)
    stage = common_stage(history)
    caption = (
        "Does the search get better? Measured on validation data. Best and median compare results "
        f"of one stage alone: {stage} is the highest that every generation reached, with more than "
        "one genome where possible. The hypervolume grows as the front moves outward in any "
        "objective; in your own, as far as generation 0 went. On the first front is who could "
        "survive, parent or newly trained, and is beaten by nobody; a later stage beats an "
        "earlier. Where nearly all are non-dominated in "
        f"{stage}, rank tells nobody apart and {history.config.evolution.tie_break} decides who "
        "goes on."
    )
    rows = [row for row in read_courses(history, stage) if row.front or row.best]
    draw = _table if len(history.generations) == 1 else _figures
    shares = {i["index"]: i["non_dominated"].get(stage) for i in summary["generations"]}
    drawn = draw(history.generations, rows, stage, shares)
    return section("generations", title, caption, card(drawn))


def common_stage(history: History) -> str:
    """The highest stage that each generation reached with two measured genomes, else with one."""
    counts: defaultdict[tuple[int, str], Counter[int]] = defaultdict(Counter)
    for result in history.results:
        if result.objectives:
            counts[result.stage_index, result.stage][result.generation] += 1
    wanted = {generation.index for generation in history.generations}
    for least in (2, 1):
        fit = [stage for stage, n in counts.items() if all(n[i] >= least for i in wanted)]
        if fit:
            return max(fit)[1]
    return max(counts)[1] if counts else history.config.hyperband.stages[-1].name


def read_courses(history: History, stage: str) -> list[Course]:
    """For each objective, the best on the front, and best and median of the results of `stage`,
    per generation."""
    of_stage = by_generation(result for result in history.results if result.stage == stage)
    fronts = front_results(history, history.generations)
    rows = [Course(name, {}, {}, {}) for name in history.config.objectives]
    for generation, members in zip(history.generations, fronts, strict=True):
        for row in rows:
            best: Callable[[Iterable[float]], float] = min if minimised(row.name) else max
            if front := _measured(members, row.name):
                row.front[generation.index] = best(front)
            if values := _measured(of_stage[generation.index], row.name):
                row.best[generation.index] = best(values)
                row.median[generation.index] = statistics.median(values)
    return rows


def _measured(results: Iterable[TrainingResult], name: str) -> list[float]:
    values = (result.objectives.get(name, math.nan) for result in results)
    return [value for value in values if math.isfinite(value)]


def _table(
    generations: Sequence[Generation], rows: Sequence[Course], stage: str, shares: Shares
) -> Markup:
    """For one generation, which has no course to draw."""
    only = generations[0]
    index = only.index
    cells = [
        (
            label_with_unit(row.name),
            *(figure(row.name, values.get(index)) for values in (row.front, row.best, row.median)),
        )
        for row in rows
    ]
    cells.append(("Hypervolume", figure("", only.hypervolume), "", ""))
    cells.append(("Diversity of genes, 0 to 1", "", "", figure("", only.diversity)))
    cells.append(("Share on the first front", share(only.first_front_share), "", ""))
    cells.append(("Share non-dominated", "", share(shares[index]), ""))
    headings = ("One generation", "Best on the front", f"Best in {stage}", f"Median in {stage}")
    return table(headings, cells)


def _figures(
    generations: Sequence[Generation], rows: Sequence[Course], stage: str, shares: Shares
) -> Markup:
    meanings = key(
        [
            (CORAL, "best on the front at the end of the generation"),
            (SEA, f"best in {stage}"),
            (STONE, f"median in {stage}"),
        ]
    )
    panels = [_objective(row, stage) for row in rows]
    volumes = {generation.index: generation.hypervolume for generation in generations}
    spreads = {generation.index: generation.diversity for generation in generations}
    panels.append(_small("Hypervolume", better("max"), [_line("hypervolume", volumes, CORAL)]))
    panels.append(_small("Diversity of genes", "0 to 1", [_line("diversity", spreads, SEA)]))
    firsts = {generation.index: generation.first_front_share for generation in generations}
    inside = {index: value for index, value in shares.items() if value is not None}
    lines = [_line("of all", firsts, CORAL), _line(f"non-dominated in {stage}", inside, SEA)]
    panels.append(_small("Share on the first front", "0 to 1", lines))
    return element("div", meanings, element("div", *panels, class_="multiples"))


def _objective(row: Course, stage: str) -> Markup:
    traces = [
        _line(f"median in {stage}", row.median, STONE, row.name),
        _line(f"best in {stage}", row.best, SEA, row.name),
        _line("best on the front", row.front, CORAL, row.name),
    ]
    return _small(label_with_unit(row.name), better(describe(row.name).direction), traces)


def _line(name: str, values: Values, colour: str, objective: str = "") -> Trace:
    shown = {index: in_units(objective, value) for index, value in values.items()}
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "x": list(shown),
        "y": list(shown.values()),
        "hovertext": [
            hover(f"generation {index}", (name, figure("", value)))
            for index, value in shown.items()
        ],
        "hoverinfo": "text",
        "line": {"color": colour, "width": 2},
        "marker": {"size": 7 if len(shown) < 30 else 4},
        "cliponaxis": False,
    }


def _small(title: str, note: str, traces: list[Trace]) -> Markup:
    layout = {
        "title": heading(f"{plot_text(title)}<br><sup>{note}</sup>"),
        "margin": {"t": 56, "r": 16},
        "xaxis": {"dtick": _tick(traces), "title": {"text": "generation"}},
        "yaxis": {"nticks": 5},
    }
    return plot(traces, layout, height=240, describe=f"{title} by generation")


def _tick(traces: Sequence[Trace]) -> int:
    """Whole generations on the axis, about six of them."""
    last = max((max(trace["x"]) for trace in traces if trace["x"]), default=0)
    return max(1, int(last) // 6)
