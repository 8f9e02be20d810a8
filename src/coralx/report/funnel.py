"""Who was trained in which stage, who went on, who was stopped and why."""

from __future__ import annotations

from collections.abc import Sequence

from coralx.records import TrainingResult, TrainingStage
from coralx.report.lives import FATES, Life, legend
from coralx.report.markup import Markup, element, empty, join, section, table
from coralx.report.plots import card
from coralx.store import History
from coralx.summary import by_generation
from coralx.wording import epochs

MOST_DOTS = 48  # beyond this a cell shows a bar: dots would no longer be countable


def funnel_section(history: History, lives: Sequence[Life]) -> Markup:
    stages = history.config.hyperband.stages
    caption = (
        "Every dot is a genome, in the colour of what became of it. From left to right the budget "
        "per genome grows and fewer genomes are worth it: those that pass the gates and rank high "
        "enough on validation data go on, with the weights they have learned."
    )
    if not lives:
        return section("funnel", "Stage funnel", "", empty("No genome has been trained yet."))
    places = {life.genome.id: place for place, life in enumerate(lives)}
    rows = []
    for index, results in sorted(by_generation(history.results).items()):
        trained = [{places[r.genome.id] for r in results if r.stage == s.name} for s in stages]
        rows.append(_row(index, [[lives[place] for place in sorted(column)] for column in trained]))
    total = _totals(stages, history.results)
    head = element(
        "tr",
        element("th", ""),
        *(element("th", stage.name, element("small", _budget(stage))) for stage in stages),
    )
    body = element("table", element("thead", head), element("tbody", *rows, total), class_="funnel")
    return section(
        "funnel",
        "Stage funnel",
        caption,
        card(legend(lives), element("div", body, class_="scroll", tabindex="0")),
    )


def stopped_section(history: History) -> Markup:
    caption = (
        "A gate stops a genome that is broken or hopeless before it costs more. That is a result, "
        "not a failure: the reason below is what was measured against the limit of the gate."
    )
    rows = [
        (element("code", r.genome.id), r.generation, r.stage, r.stopped.gate, r.stopped.reason)
        for r in history.results
        if r.stopped
    ]
    headings = ("Genome", "Generation", "Stage", "Gate", "Reason")
    if rows:
        shown = card(table(headings, rows, numeric_from=len(headings)))
    else:
        shown = empty("No gate stopped a genome in this run.")
    return section("stopped", "Stopped genomes", caption, shown)


def _budget(stage: TrainingStage) -> str:
    return f"{epochs(stage.epoch_budget)} of {stage.data_percentage:g}% of the rows"


def _row(generation: int, columns: Sequence[Sequence[Life]]) -> Markup:
    """`columns` are the lives that were trained in each stage."""
    most = max(len(column) for column in columns)
    cells = [_cell(column, most) for column in columns]
    return element("tr", element("th", f"Generation {generation}", scope="row"), *cells)


def _cell(lives: Sequence[Life], most: int) -> Markup:
    if not lives:
        return element("td", element("span", "none", class_="none"))
    if most <= MOST_DOTS:
        marks = join(element("i", class_=f"dot {life.fate}", title=_title(life)) for life in lives)
        shown = element("span", marks, class_="dots")
    else:
        shown = element("span", class_="bar", style=f"width:{100 * len(lives) / most:.1f}%")
    return element("td", element("b", f"{len(lives):,}"), shown)


def _title(life: Life) -> str:
    reason = f"; {life.last.stopped.reason}" if life.last.stopped else ""
    return f"{life.genome.id}: {FATES[life.fate][0]}{reason}"


def _totals(stages: Sequence[TrainingStage], results: Sequence[TrainingResult]) -> Markup:
    cells = []
    for stage in stages:
        here = [result for result in results if result.stage == stage.name]
        stopped = sum(result.stopped is not None for result in here)
        note = element("small", f"{stopped:,} stopped here") if stopped else ""
        cells.append(element("td", element("b", f"{len(here):,}"), note))
    return element("tr", element("th", "Total", scope="row"), *cells, class_="total")
