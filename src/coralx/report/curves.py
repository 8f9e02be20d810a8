"""How each genome learned, stage by stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from coralx.records import CurvePoint
from coralx.report.lives import FATES, Life, legend
from coralx.report.markup import Markup, element, empty, plot_text, section
from coralx.report.plots import STONE, Trace, card, chooser, controls, heading, plot

MOST_CURVES = 200
POINTS_PER_CURVE = 160

Pick = Callable[[CurvePoint], float | None]


def curves_section(lives: Sequence[Life]) -> Markup:
    """`lives` in order of interest: where there are too many, the last are not drawn."""
    caption = (
        "Training loss, and AUROC on validation data, against the genome's own steps over all "
        "stages. Dashed lines are the ends of the stages: a curve that ends there was not "
        "promoted, one that ends before it was stopped or had stopped improving."
    )
    shown = [life for life in lives if life.curve()][:MOST_CURVES]
    if not shown:
        nothing = empty("No learning curve has been recorded.")
        return section("curves", "Learning curves", "", nothing)
    if len(shown) < len(lives):
        caption += f" Drawn are {len(shown)} of {len(lives)} genomes, the best first."
    generations = sorted({life.genome.generation for life in shown})
    groups = [("all", "all"), *((index, str(index)) for index in generations)]
    choosers = controls(
        chooser("Generation", "only", groups, "all"),
        chooser("Steps", "xscale", [("log", "logarithmic"), ("linear", "linear")], "log"),
    )
    panels = element(
        "div",
        _panel(shown, "Training loss", lambda point: point.loss),
        _panel(shown, "Validation AUROC", lambda point: point.auroc),
        class_="pair",
    )
    return section("curves", "Learning curves", caption, card(legend(shown), choosers, panels))


def stage_ends(lives: Sequence[Life]) -> dict[str, int]:
    """The step at which each stage ends for a genome that spends its whole budget."""
    ends: dict[str, int] = {}
    for life in lives:
        steps = 0
        for result in life.results:
            steps += result.cost.kept_steps
            ends[result.stage] = max(ends.get(result.stage, 0), steps)
    return ends


def thin(points: Sequence[CurvePoint], most: int = POINTS_PER_CURVE) -> list[CurvePoint]:
    """At most about `most` points: every n-th, the last, and each that has an AUROC."""
    every = max(1, -(-len(points) // most))
    last = len(points) - 1
    return [
        point
        for place, point in enumerate(points)
        if place % every == 0 or place == last or point.auroc is not None
    ]


def _panel(lives: Sequence[Life], title: str, pick: Pick) -> Markup:
    ends = [(name, step) for name, step in stage_ends(lives).items() if step > 0]
    layout = {
        "title": heading(title),
        "margin": {"t": 64},
        "xaxis": {"type": "log", "dtick": 1, "title": {"text": "steps of the genome"}},
        "shapes": [_boundary(step) for _, step in ends],
        "annotations": [_stage_name(*end, row) for row, end in enumerate(ends)],
    }
    return plot(list(_curve_traces(lives, pick)), layout, height=380, describe=f"{title} by steps")


def _curve_traces(lives: Sequence[Life], pick: Pick) -> Iterator[Trace]:
    """One trace per generation and fate, its curves parted by gaps; the front is drawn last."""
    keys = sorted({(life.genome.generation, life.fate) for life in lives})
    for fate in reversed(FATES):
        for generation in [g for g, f in keys if f == fate]:
            group = [x for x in lives if (x.genome.generation, x.fate) == (generation, fate)]
            yield _curve_trace(group, generation, pick)


def _curve_trace(lives: Sequence[Life], generation: int, pick: Pick) -> Trace:
    fate = lives[0].fate
    steps: list[int | None] = []
    values: list[float | None] = []
    texts: list[str] = []
    for life in lives:
        points = [p for p in thin(life.curve()) if pick(p) is not None and p.step > 0]
        head = f"<b>{plot_text(life.genome.id)}</b><br>"
        for point in points:
            value = pick(point)
            steps.append(point.step)
            values.append(value)
            texts.append(f"{head}step {point.step:,}: {value:.4f}")
        steps.append(None)
        values.append(None)
        texts.append("")
    return {
        "type": "scatter",
        "mode": "lines+markers" if pick(lives[0].curve()[-1]) is None else "lines",
        "x": steps,
        "y": values,
        "hovertext": texts,
        "hoverinfo": "text",
        "line": {"color": FATES[fate][1], "width": 2.2 if fate == "front" else 1.4},
        "opacity": 1.0 if fate == "front" else 0.75,
        "connectgaps": False,
        "meta": {"group": str(generation)},
    }


def _boundary(step: int) -> dict[str, Any]:
    return {
        "type": "line",
        "x0": step,
        "x1": step,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"dash": "dot", "width": 1, "color": STONE},
        "layer": "below",
    }


def _stage_name(name: str, step: int, row: int) -> dict[str, Any]:
    """A label above the plot: on a log axis plotly places annotations by exponent."""
    return {
        "text": plot_text(name),
        "x": math.log10(step),
        "xref": "x",
        "y": 1.0 + 0.055 * (row % 2),
        "yref": "paper",
        "yanchor": "bottom",
        "xanchor": "right",
        "showarrow": False,
        "font": {"size": 11, "color": STONE},
    }
