"""Whether a stage's ranking predicts the next one's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coralx.cautions import doubts
from coralx.report.markup import Markup, element, empty, join, section, table
from coralx.report.plots import card, whisker
from coralx.summary import Summary
from coralx.wording import MISSING, label, rho, seen_of_entered, stage_pairs

WHOLE = (-1.0, 1.0)


def correlation_section(summary: Summary) -> Markup:
    title = "How well a stage predicts the next"
    caption = (
        "Stopping genomes early is right as far as their rank in a cheap stage tells their rank in "
        "the next. Spearman's rho on validation data, ranked within each generation, with a 95% "
        "interval; 1 is the same order, 0 none. Only genomes that went on are seen in the next "
        "stage, and among those, who are alike, rho comes out lower than it would over all: read "
        "it beside how many of how many were seen."
    )
    pairs = stage_pairs(summary["stage_correlation"])
    if not pairs:
        nothing = empty("No genome has been measured in two stages yet.")
        return section("prediction", title, "", nothing)
    names = [n for n in summary["objectives"] if any(n in rows for rows in pairs.values())]
    lines = [
        (_name(*stages, rows), *(_cell(rows.get(name)) for name in names))
        for stages, rows in pairs.items()
    ]
    found = doubts(summary["stage_correlation"])
    warnings = [element("p", text, class_="warning") for text in found]
    drawn = card(table(["Stages", *map(label, names)], lines))
    return section("prediction", title, caption, *warnings, drawn)


def _name(stage: str, following: str, rows: Mapping[str, Mapping[str, Any]]) -> Markup:
    seen = element("small", f"{seen_of_entered(rows)} genomes ranked")
    return join([element("span", f"{stage} → {following}"), seen])


def _cell(row: Mapping[str, Any] | None) -> Markup:
    if row is None or row["rho"] is None:
        return Markup(MISSING)
    interval = {"value": row["rho"], "low": row["low"], "high": row["high"]}
    ends = (
        "too few for an interval"
        if row["low"] is None
        else f"{rho(row['low'])} to {rho(row['high'])}"
    )
    return join([element("b", rho(row["rho"])), whisker(interval, WHOLE), element("small", ends)])
