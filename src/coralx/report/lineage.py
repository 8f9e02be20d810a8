"""Who descends from whom, and whose trained weights were handed on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from coralx.report.lives import FATES, Life, legend
from coralx.report.markup import Markup, element, empty, plot_text, section
from coralx.report.plots import CORAL, STONE, Trace, card, plot
from coralx.store import History
from coralx.summary import count_merged

MOST_NODES = 240
MOST_LABELS = 60
MOST_NAMED = 12  # generations on the axis
ID_LETTERS = 8

Places = dict[str, tuple[float, float]]
Edge = tuple[str, str]


def lineage_section(history: History, lives: Sequence[Life]) -> Markup:
    """`lives` in order of interest: that is their order from top to bottom."""
    caption = (
        "One column per generation, the front on top. A solid line means that the child began "
        "with its parent's trained weights, in coral where it leads to the front. A dotted line "
        "means that it took genes alone. The larger the dot, the higher the stage reached."
    )
    if not lives:
        return section("lineage", "Lineage", "", empty("No genome has been trained yet."))
    if not any(life.genome.parents or life.inherited_from for life in lives):
        nothing = empty("No genome has parents yet: this was the first generation.")
        return section("lineage", "Lineage", "", nothing)
    merged = count_merged(history.results)
    if merged["children"]:
        caption += (
            " Of the children that began with both parents' weights merged, "
            f"{merged['beat_better_parent']} of {merged['children']} had a higher AUROC than "
            "either parent before training."
        )
    shown = list(lives) if len(lives) <= MOST_NODES else _main_line(lives)
    if len(shown) < len(lives):
        front, drawn = (sum(life.fate == "front" for life in part) for part in (lives, shown))
        whose = f"{drawn} of {front} on the front" if front else "the first"
        caption += f" Drawn are {whose} with their ancestors, {len(shown)} of {len(lives)} genomes."
    return section("lineage", "Lineage", caption, card(_key(shown), _tree(shown)))


def _tree(lives: Sequence[Life]) -> Markup:
    places = _places(lives)
    columns = [x for x, _ in places.values()]
    tallest = max(columns.count(column) for column in set(columns))
    generations = sorted({life.genome.generation for life in lives})
    named = generations[:: math.ceil(len(generations) / MOST_NAMED)]
    layout = {
        "xaxis": {
            "tickvals": named,
            "ticktext": [f"generation {index}" for index in named],
            "side": "top",
            "showgrid": False,
            "showline": False,
            "range": [generations[0] - 0.35, generations[-1] + 0.35],
        },
        "yaxis": {"visible": False, "range": [-tallest / 2 - 0.2, tallest / 2 + 0.4]},
        "margin": {"l": 0, "r": 0},
    }
    traces = [*_edges(lives, places), _nodes(lives, places)]
    height = max(220, min(900, 90 + 46 * tallest))
    return plot(traces, layout, height=height, describe="Family tree of the genomes")


def _key(lives: Sequence[Life]) -> Markup:
    lines = element(
        "p",
        element("span", element("i", class_="line down"), "weights inherited, leads to the front"),
        element("span", element("i", class_="line"), "weights inherited"),
        element("span", element("i", class_="line genes"), "genes only"),
        class_="legend",
    )
    return element("div", legend(lives), lines)


def _places(lives: Sequence[Life]) -> Places:
    columns: dict[int, list[str]] = {}
    for life in lives:
        columns.setdefault(life.genome.generation, []).append(life.genome.id)
    return {
        name: (float(generation), (len(column) - 1) / 2 - row)
        for generation, column in columns.items()
        for row, name in enumerate(column)
    }


def _main_line(lives: Sequence[Life]) -> list[Life]:
    """Of the front, or before there is one of all, the first in order with all their ancestors, as
    many as can be drawn."""
    by_name = {life.genome.id: life for life in lives}
    wanted: set[str] = set()
    for life in [life for life in lives if life.fate == "front"] or lives:
        line = [name for name in _ancestry(life.genome.id, by_name) if name not in wanted]
        room = MOST_NODES - len(wanted)
        if len(line) <= room or not wanted:
            wanted.update(line[:room])
    return [life for life in lives if life.genome.id in wanted]


def _ancestry(name: str, by_name: Mapping[str, Life]) -> list[str]:
    """A genome and all that it descends from, the nearest first."""
    found, known = [name], {name}
    for own in found:  # grows meanwhile
        for parent in by_name[own].genome.parents:
            if parent in by_name and parent not in known:
                known.add(parent)
                found.append(parent)
    return found


def _leading(lives: Sequence[Life]) -> set[Edge]:
    """Inheritances through which the front's weights came down."""
    by_name = {life.genome.id: life for life in lives}
    leading: set[Edge] = set()
    open_ = [life for life in lives if life.fate == "front"]
    while open_:
        life = open_.pop()
        for source in life.inherited_from:
            if (source, life.genome.id) not in leading:
                leading.add((source, life.genome.id))
                open_.extend([by_name[source]] if source in by_name else [])
    return leading


def _edges(lives: Sequence[Life], places: Places) -> Iterator[Trace]:
    leading = _leading(lives)
    inherited = {(source, life.genome.id) for life in lives for source in life.inherited_from}
    inherited = {(a, b) for a, b in inherited if a in places and (a, b) not in leading}
    genes = {(parent, life.genome.id) for life in lives for parent in life.genome.parents}
    genes = {(a, b) for a, b in genes if a in places} - inherited - leading
    shown = {(a, b) for a, b in leading if a in places}
    yield _lines(sorted(genes), places, {"color": STONE, "width": 1, "dash": "dot"}, 0.7)
    yield _lines(sorted(inherited), places, {"color": STONE, "width": 1.6}, 0.9)
    yield _lines(sorted(shown), places, {"color": CORAL, "width": 2.8}, 0.95)


def _lines(edges: Sequence[Edge], places: Places, line: Trace, opacity: float) -> Trace:
    xs: list[float | None] = []
    ys: list[float | None] = []
    for parent, child in edges:
        (x0, y0), (x1, y1) = places[parent], places[child]
        for part in range(17):
            t = part / 16
            xs.append(x0 + (x1 - x0) * t)
            ys.append(y0 + (y1 - y0) * t * t * (3 - 2 * t))  # leaves and arrives level
        xs.append(None)
        ys.append(None)
    return {
        "type": "scatter",
        "mode": "lines",
        "x": xs,
        "y": ys,
        "line": line,
        "opacity": opacity,
        "hoverinfo": "skip",
    }


def _nodes(lives: Sequence[Life], places: Places) -> Trace:
    labelled = len(lives) <= MOST_LABELS
    return {
        "type": "scatter",
        "mode": "markers+text" if labelled else "markers",
        "x": [places[life.genome.id][0] for life in lives],
        "y": [places[life.genome.id][1] for life in lives],
        "text": [plot_text(life.genome.id[:ID_LETTERS]) for life in lives],
        "textposition": "top center",
        "textfont": {"size": 10.5},
        "hovertext": [life.tooltip(("begins with", _origin(life))) for life in lives],
        "hoverinfo": "text",
        "marker": {
            "color": [FATES[life.fate][1] for life in lives],
            "size": [min(22, 9 + 3 * life.last.stage_index) for life in lives],
            "symbol": ["square" if life.fate == "stopped" else "circle" for life in lives],
            "opacity": 1,
            "line": {"width": 1.5, "color": "rgba(255,255,255,.6)"},
        },
        "cliponaxis": False,
    }


def _origin(life: Life) -> str:
    start = life.results[0].start
    if start.kind == "fresh" or not start.checkpoint:
        return "fresh weights"
    return f"the weights of {' and '.join(start.sources)}"
