"""The Pareto front: what its members trade, how sure that is, where they are strong and weak."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from coralx.cautions import cautions, chance
from coralx.objectives import describe, in_units
from coralx.report.lives import Life
from coralx.report.markup import Markup, element, empty, join, plot_text, section, table
from coralx.report.plots import CORAL, SEA, STONE, Trace, card, chooser, controls, plot, whisker
from coralx.summary import Summary
from coralx.wording import (
    MISSING,
    absent,
    better,
    bounds,
    figure,
    gene_value,
    genes_line,
    label,
)

BREAKDOWN = {
    "as_served/": "at the exported threshold",
    "auroc/task/": "task",
    "auroc/modality/": "modality",
    "auroc/": "AUROC",
    "attack_auroc/": "AUROC under attack",
    "attack_success/": "attack success",
    "calibration/": "calibration",
}


def explorer_section(summary: Summary, lives: Sequence[Life]) -> Markup:
    """The scatter over two objectives of the reader's choice."""
    caption = (
        "Each point is a genome with the objectives of its highest stage, or of the one that is on "
        "the front (coral), measured on validation data, the data that selection sees. Nothing "
        "that was measured on all of it beats a member of the front without being worse in some "
        "objective. Lower stages are grey, and a click in the legend shows the lowest. Point at a "
        "genome to read its genes."
    )
    asked = summary["objectives"]
    names = [name for name in asked if any(name in life.shown.objectives for life in lives)]
    if not names:
        nothing = empty("No genome has been measured yet.")
        return section("front", "The trade-offs", "", nothing)
    x = next(
        (name for name in ("false_positive_cost", "memory", *names[1:]) if name in names), names[0]
    )
    options = [(index, label(name)) for index, name in enumerate(names)]
    shown = plot(
        _points(names, lives, names.index(x)),
        {
            "xaxis": {"title": {"text": _axis(x)}},
            "yaxis": {"title": {"text": _axis(names[0])}},
            "showlegend": True,
            "margin": {"t": 12, "r": 20},
            "meta": {"titles": [_axis(name) for name in names]},
        },
        height=460,
        describe="Scatter of the genomes over two objectives; the front is in coral",
    )
    choosers = controls(
        chooser("Vertical", "y", options, 0), chooser("Horizontal", "x", options, names.index(x))
    )
    return section("front", "The trade-offs", caption, card(choosers, shown))


def table_section(summary: Summary) -> Markup:
    """The front in figures: validation, then test with intervals, then part by part."""
    caption = (
        "Validation figures chose these genomes, so they flatter them. The test figures are the "
        "ones to quote: the held-out rows were touched once, after selection had ended, and the "
        "range is a bootstrap confidence interval. The false-positive rate is that of a threshold "
        "that catches 90% of the unsafe rows it is measured on; what an adapter's own threshold, "
        "set on validation rows, catches and flags on test rows stands first among the parts below."
    )
    front = summary["front"]
    if not front:
        nothing = empty("There is no front yet: no generation has been closed.")
        return section("members", "The front in figures", "", nothing)
    values = _values(front, list(summary["objectives"]), summary["space"])
    told = [
        element("p", text, class_="warning")
        for text in cautions(summary, summary["objectives"], summary["base_model"])
    ]
    parts: list[Markup] = [*told, card(values)]
    tested = any(member["test_details"] for member in front)
    source = "test_details" if tested else "details"
    keys = sorted({key for member in front for key in member[source]}, key=_part_order)
    if keys:
        data = "test data, touched once" if tested else "validation data, used for selection"
        parts.append(element("h3", "Part by part"))
        parts.append(
            element(
                "p",
                f"The same genomes at their thresholds, by task, modality and attack; {data}.",
                class_="caption",
            )
        )
        parts.append(card(_breakdown(front, keys, source)))
    return section("members", "The front in figures", caption, *parts)


def _axis(name: str) -> str:
    known = describe(name)
    way = better(known.direction)
    detail = f"{known.measure}; {way}" if known.measure else way
    return f"{plot_text(label(name))}<br><i>{plot_text(detail)}</i>"


def _points(names: Sequence[str], lives: Sequence[Life], x: int) -> list[Trace]:
    """One trace per stage that is some genome's highest, and the front on top of them."""
    stages = sorted({(life.shown.stage_index, life.shown.stage) for life in lives})
    traces = []
    for index, stage in stages:
        group = [life for life in lives if life.shown.stage_index == index and life.fate != "front"]
        if not group:
            continue
        below = stages[-1][0] - index
        look = {
            "size": 10,
            "color": SEA if below == 0 else STONE,
            "opacity": (1.0, 0.9, 0.55)[min(below, 2)],
        }
        hidden = below > 1
        traces.append(_trace(f"up to {stage}", group, names, x, look, hidden))
    front = [life for life in lives if life.fate == "front"]
    if front:
        look = {"size": 15, "color": CORAL, "line": {"width": 2, "color": "rgba(255,255,255,.6)"}}
        traces.append(_trace("front", front, names, x, look, False))
    return traces


def _trace(
    name: str, lives: Sequence[Life], names: Sequence[str], x: int, look: Trace, hidden: bool
) -> Trace:
    columns = [[_shown(objective, life) for life in lives] for objective in names]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plot_text(name),
        "x": columns[x],
        "y": columns[0],
        "hovertext": [life.tooltip() for life in lives],
        "hoverinfo": "text",
        "marker": look,
        "cliponaxis": False,
        "visible": "legendonly" if hidden else True,
        "meta": {"columns": columns},
    }


def _shown(objective: str, life: Life) -> float | None:
    value = life.shown.objectives.get(objective)
    return None if value is None else in_units(objective, value)


def _values(
    front: Sequence[Mapping[str, Any]], names: Sequence[str], space: Sequence[str]
) -> Markup:
    measured = [name for name in names if any(name in m["objectives"] for m in front)]
    ranges = {name: _range(front, "test", name) for name in measured}
    headings = [
        "Genome",
        *(join([label(name), element("small", describe(name).measure)]) for name in measured),
    ]
    rows = []
    for member in front:
        cells = [_two_values(member, name, ranges[name]) for name in measured]
        rows.append((_name(member, space), *cells))
    return table(headings, rows)


def _name(member: Mapping[str, Any], space: Sequence[str]) -> Markup:
    genes = genes_line(member["genes"], member["trained_rank"], space)
    rest = "\n".join(f"{name}: {gene_value(value)}" for name, value in member["genes"].items())
    adapter = member["adapter"] or "no adapter: scored by text alone"
    return element(
        "div",
        element("code", member["genome"]),
        element("small", genes, title=rest),
        element("small", f"{member['stage']} · {adapter}"),
        element("small", element("b", chance(member))),
        class_="member",
    )


def _two_values(member: Mapping[str, Any], name: str, span: tuple[float, float]) -> Markup:
    validation = figure(name, member["objectives"].get(name))
    test = member["test"].get(name)
    if test is None or absent(test["value"]):
        return join([element("span", validation), element("small", "validation")])
    return join([_tested(name, test, span), element("small", f"validation {validation}")])


def _range(front: Sequence[Mapping[str, Any]], source: str, key: str) -> tuple[float, float]:
    """The span that the intervals of all members share, so that their drawings compare."""
    ends = [
        member[source][key][end]
        for member in front
        if key in member[source]
        for end in ("low", "high")
        if not absent(member[source][key][end])
    ]
    return (min(ends), max(ends)) if ends else (0.0, 1.0)


def _part_order(key: str) -> tuple[int, str]:
    for place, prefix in enumerate(BREAKDOWN):
        if key.startswith(prefix):
            return place, key
    return len(BREAKDOWN), key


def _part_heading(key: str) -> Markup:
    for prefix, kind in BREAKDOWN.items():
        if key.startswith(prefix):
            return join(
                [
                    element("span", key.removeprefix(prefix).replace("_", " ")),
                    element("small", kind),
                ]
            )
    return join([element("span", key)])


def _breakdown(front: Sequence[Mapping[str, Any]], keys: Sequence[str], source: str) -> Markup:
    tested = source == "test_details"
    spans = {key: _range(front, source, key) for key in keys} if tested else {}
    rows = []
    for member in front:
        cells = []
        for key in keys:
            value = member[source].get(key)
            if absent(value):
                cells.append(Markup(MISSING))
            elif tested:
                cells.append(_tested("", value, spans[key]))
            else:
                cells.append(element("b", figure(key, value)))
        rows.append((element("code", member["genome"]), *cells))
    return table(["Genome", *map(_part_heading, keys)], rows)


def _tested(name: str, interval: Mapping[str, Any], span: tuple[float, float]) -> Markup:
    """A test figure, over its interval if it has one."""
    ends = bounds(name, interval)
    drawn = [whisker(interval, span), element("small", ends)] if ends else []
    return join([element("b", figure(name, interval["value"])), *drawn])
