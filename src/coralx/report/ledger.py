"""Where steps and seconds went, against training every genome fully."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coralx.records import TrainingResult
from coralx.report.markup import Markup, element, empty, hover, join, section, table
from coralx.report.plots import SEA, STONE, Trace, card, heading, key, plot
from coralx.store import History
from coralx.summary import Summary
from coralx.wording import (
    count,
    duration,
    efficiency_ratio,
    epochs,
    measured_part,
    plural,
    spent_cells,
)

# From pale to strong: later stages spend more on fewer genomes.
SHADES = ("#fcc9bb", "#f9a48e", "#f2654d", "#b93f2a", "#7d2a1c")
EVALUATION, REST = SEA, "#d9a441"
COMPARED = "{} steps of naive full training / {} steps trained"
HEADINGS = (
    "Stage",
    "Genomes",
    "Stopped",
    "Steps",
    "Tokens",
    "TFLOP",
    "Seconds",
    "Peak memory of the {}, MB",
    "Machine busy",
)


def ledger_section(history: History, summary: Summary) -> Markup:
    spent = summary["efficiency"]
    words = (
        "What was spent, measured while it was spent. The comparison is exact in steps: naive "
        f"training gives each of the {plural(summary['genomes'], 'genome')} "
        f"{epochs(history.config.hyperband.full_epochs)} of all rows. In seconds, naive is an "
        "estimate: its steps at the seconds per step of this run. "
    )
    caption = join(
        [words, element("code", "benchmarks/naive_vs_coralx.py"), " measures it instead."]
    )
    if not spent["steps"]:
        nothing = empty("No step has been trained yet.")
        return section("efficiency", "Where the effort went", "", nothing)
    headings = [heading.format(measured_part(summary)) for heading in HEADINGS]
    saved = spent["saved_by_leaving_early"]
    ratio, note = efficiency_ratio(summary)
    lead = element(
        "p",
        element("b", ratio),
        f" ({note}): " if note else " = ",
        f"{COMPARED.format(count(spent['naive_steps']), count(spent['steps']))}. ",
        f"{count(saved)} planned steps were not needed, for genomes that had stopped improving."
        if saved
        else "",
        class_="lead",
    )
    bars = element("div", _steps(spent), _seconds(history.results, summary), class_="pair")
    parts = card(lead, _key(spent), bars), card(table(headings, _rows(spent)))
    return section("efficiency", "Where the effort went", caption, *parts)


def _rows(spent: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    rows = [_row(stage["name"], stage) for stage in spent["stages"]]
    return [*rows, tuple(element("b", cell) for cell in _row("All stages", spent))]


def _row(name: str, line: Mapping[str, Any]) -> tuple[str, ...]:
    return (name, count(line["genomes"]), count(line["stopped"]), *spent_cells(line))


def _steps(spent: Mapping[str, Any]) -> Markup:
    naive = _bar("naive full training", "naive", spent["naive_steps"], count, STONE)
    actual = [
        _bar(stage["name"], "this run", stage["steps"], count, _shade(place, spent["stages"]))
        for place, stage in enumerate(spent["stages"])
    ]
    return _bars("Steps", [naive, *actual], "Steps of naive training and of this run, by stage")


def _seconds(results: Sequence[TrainingResult], summary: Summary) -> Markup:
    spent = summary["efficiency"]
    train = sum(result.cost.train_seconds for result in results)
    evaluate = sum(result.cost.eval_seconds for result in results)
    estimate = train / spent["steps"] * spent["naive_steps"]
    naive = _bar("naive, training alone (estimate)", "naive", estimate, duration, STONE)
    naive["marker"]["pattern"] = {"shape": "/", "size": 6, "solidity": 0.25}
    parts = []
    for place, stage in enumerate(spent["stages"]):
        seconds = sum(r.cost.train_seconds for r in results if r.stage == stage["name"])
        shade = _shade(place, spent["stages"])
        parts.append(_bar(f"{stage['name']}, training", "this run", seconds, duration, shade))
    parts.append(_bar("evaluation", "this run", evaluate, duration, EVALUATION))
    rest = (summary["wall_seconds"] or 0.0) - train - evaluate
    if rest > 0:  # genomes trained side by side can sum to more than the clock shows
        parts.append(_bar("everything else", "this run", rest, duration, REST))
    return _bars("Seconds", [naive, *parts], "Seconds of naive training and of this run, by part")


def _key(spent: Mapping[str, Any]) -> Markup:
    stages = spent["stages"]
    shades = [(_shade(place, stages), stage["name"]) for place, stage in enumerate(stages)]
    rest = [(EVALUATION, "evaluation"), (REST, "everything else")]
    return key([(STONE, "naive full training (seconds: an estimate)"), *shades, *rest])


def _shade(place: int, stages: Sequence[Any]) -> str:
    """The last stage is the strongest; more stages than shades share the palest."""
    from_end = len(stages) - 1 - place
    strongest = min(len(SHADES), max(4, len(stages))) - 1
    return SHADES[max(0, strongest - from_end)]


def _bar(name: str, row: str, value: float, write: Any, colour: str) -> Trace:
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": [row],
        "x": [value],
        "marker": {"color": colour, "line": {"width": 1, "color": "rgba(255,255,255,.6)"}},
        "hovertext": [hover(name, (row, write(value)))],
        "hoverinfo": "text",
    }


def _bars(title: str, traces: list[Trace], describe: str) -> Markup:
    layout = {
        "barmode": "stack",
        "title": heading(title),
        "margin": {"t": 40, "r": 16},
        "yaxis": {"categoryarray": ["this run", "naive"], "categoryorder": "array"},
        "xaxis": {"rangemode": "tozero", "nticks": 6},
    }
    return plot(traces, layout, height=230, describe=describe)
