"""Figures as plain data: a placeholder in the page and the JSON that plotly.js draws from.

Figures are written as plotly's own mappings, so that reading a journal needs no plotting library;
the tests check each of them against plotly's schema.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from coralx.report.markup import Markup, data_block, element, join
from coralx.wording import absent

CORAL, SEA, STONE = "#f2654d", "#1f8a9b", "#9aa7b4"
FONT = "Inter, 'Segoe UI', system-ui, -apple-system, 'Helvetica Neue', Arial, sans-serif"

Trace = dict[str, Any]


def plot(
    traces: Sequence[Trace], layout: Mapping[str, Any], *, height: int, describe: str
) -> Markup:
    """A place for one figure. `describe` says in words what it shows, for screen readers."""
    place = element(
        "div", class_="plot", role="img", aria_label=describe, style=f"height:{height}px"
    )
    return join([place, data_block({"data": list(traces), "layout": dict(layout)})])


def card(*content: Any) -> Markup:
    """A framed figure; its controls act on every plot inside it."""
    return element("figure", *content)


def chooser(caption: str, action: str, options: Sequence[tuple[Any, str]], chosen: Any) -> Markup:
    """A drop-down list. The page's script carries out `action` with the value of the option."""
    listed = join(
        element("option", text, value=value, selected="" if value == chosen else None)
        for value, text in options
    )
    return element("label", element("span", caption), element("select", listed, data_action=action))


def controls(*choosers: Markup) -> Markup:
    return element("div", *choosers, class_="controls")


def key(entries: Iterable[tuple[str, str]]) -> Markup:
    """What the colours of a figure mean: `(colour, meaning)` in the order shown."""
    return element(
        "p",
        join(
            element("span", element("i", class_="dot", style=f"background:{colour}"), meaning)
            for colour, meaning in entries
        ),
        class_="legend",
    )


def heading(text: str) -> dict[str, Any]:
    """A figure's title, above its left edge."""
    return {"text": text, "x": 0, "xref": "paper", "font": {"size": 14}}


def templates() -> dict[str, Any]:
    """The look that all figures share, for the light and the dark page."""
    return {
        "light": {"layout": _look("#22313f", "#e6eaee", "#ffffff", "#c9d1d9")},
        "dark": {"layout": _look("#d5dde5", "#2b3843", "#1a242d", "#465563")},
    }


def _look(ink: str, grid: str, paper: str, line: str) -> dict[str, Any]:
    axis = {
        "gridcolor": grid,
        "zeroline": False,
        "linecolor": line,
        "ticks": "",
        "title": {"font": {"size": 13}, "standoff": 10},
        "automargin": True,
    }
    return {
        "font": {"family": FONT, "size": 12.5, "color": ink},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 8, "r": 12, "t": 28, "b": 8},
        "xaxis": axis,
        "yaxis": axis,
        "hovermode": "closest",
        "hoverlabel": {
            "bgcolor": paper,
            "bordercolor": line,
            "align": "left",
            "font": {"family": FONT, "size": 12.5, "color": ink},
        },
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": line, "activecolor": CORAL},
        "showlegend": False,
        "dragmode": "zoom",
        "bargap": 0.35,
    }


def whisker(interval: Mapping[str, Any], span: tuple[float, float]) -> Markup:
    """The interval as a line with a dot at the value, on the span of the whole column;
    nothing where a value is missing."""
    if any(absent(interval[key]) for key in ("value", "low", "high")):
        return Markup("")
    width = (span[1] - span[0]) or 1.0
    low, value, high = (
        5 + 90 * (interval[key] - span[0]) / width for key in ("low", "value", "high")
    )
    line = element("line", x1=f"{low:.1f}", x2=f"{high:.1f}", y1=6, y2=6)
    dot = element("circle", cx=f"{value:.1f}", cy=6, r=4)
    return element("svg", line, dot, viewBox="0 0 100 12", class_="whisker", aria_hidden="true")
