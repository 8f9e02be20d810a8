"""Figures of benchmark results, drawn with matplotlib (the extra `bench`) from their JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def draw_speedup(document: dict[str, Any], path: Path) -> None:
    """Wall-clock of both sides, a pair of bars a seed; nothing where no seed was timed."""
    rows = [row for row in document["runs"] if row["speedup_wall_clock"] is not None]
    if not rows:
        return
    figure, axes = begin(figsize=(7, 1.2 + 0.5 * len(rows)))
    for place, row in enumerate(rows):
        naive, own = row["naive"]["seconds"], row["coralx"]["seconds"]
        axes.barh(place - 0.2, naive, 0.36, color="#b8b8b8", label="naive" if not place else None)
        axes.barh(place + 0.2, own, 0.36, color="#e4572e", label="CoralX" if not place else None)
        axes.text(own, place + 0.2, f" {row['speedup_wall_clock']:.1f}x", va="center")
    axes.set_yticks(range(len(rows)), [f"seed {row['seed']}" for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("seconds")
    end(figure, axes, path)


def draw_curves(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Hypervolume of what could be handed over against time, in multiples of CoralX's: a line for
    each search and seed."""
    whole = {row["seed"]: row["seconds"] for row in rows if row["peer"] == "coralx"}
    colours = {"coralx": "#e4572e"}
    named: set[str] = set()
    figure, axes = begin(figsize=(7, 4))
    for row in rows:
        colour = colours.setdefault(row["peer"], f"C{len(colours)}")
        times = [seconds / whole[row["seed"]] for seconds, _, _ in row["curve"]]
        volumes = [volume for _, volume, _ in row["curve"]]
        if times:  # to the end of its time
            times.append(max(times[-1], row["seconds"] / whole[row["seed"]]))
            volumes.append(volumes[-1])
        label = None if row["peer"] in named else row["peer"]
        named.add(row["peer"])
        axes.step(times, volumes, where="post", color=colour, label=label, linewidth=1.2)
    axes.set_xlabel("time, in CoralX runs")
    axes.set_ylabel("hypervolume (validation)")
    end(figure, axes, path)


def begin(*grid: int, **options: Any) -> tuple[Any, Any]:
    """A figure and its axes, as of `pyplot.subplots`; the same figures give the same bytes."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "coralx"
    from matplotlib import pyplot

    return pyplot.subplots(*grid, **options)


def end(figure: Any, axes: Any, path: Path) -> None:
    """What is alike in figures of one panel."""
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    save(figure, path)


def save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
