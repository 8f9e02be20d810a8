"""A comparison as a terminal table."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from coralx.compare.simulation import NOTE
from coralx.wording import MISSING, count, fewer, large

COMPARED = ("naive", "hyperband")
HEADINGS = (
    "seconds",
    "speed-up",
    "steps",
    "tokens",
    "best test\nAUROC",
    "test hyper-\nvolume",
    "real\ngradients",
)


def render_comparison(found: dict[str, Any], console: Console) -> None:
    """Print the document of a Comparison: a line for each way, then what they come to."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, show_edge=False)
    table.add_column("mode")
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    for line in found["modes"]:
        table.add_row(*_cells(line, len(found["genomes"])))
    console.print(table)
    console.print(Text(f"\n{NOTE}; figures with ~ are invented"))
    if found["extinct"]:
        console.print(Text(f"no hyperband: {found['extinct']}"))
    if found["complete"]:
        console.print(Text(_describe(found)))
    if found["left_out"]:
        console.print(Text(_explain_left_out(found["left_out"])))


def _cells(line: dict[str, Any], genomes: int) -> list[str]:
    whole = line["genomes"] == genomes
    invented = "" if line["real_gradients"] else "~"
    return [
        line["mode"] if whole else f"{line['mode']} {line['genomes']}/{genomes}",
        f"{line['seconds']:,.1f}" if line["seconds"] >= 0.1 else f"{line['seconds']:.4f}",
        _times(line["speedup"]),
        count(line["steps"]),
        large(line["tokens"]),
        _figure(line["test_auroc_best"], 3, invented),
        _figure(line["test_hypervolume"], 4, invented),
        "yes" if line["real_gradients"] else "no",
    ]


def _describe(found: dict[str, Any]) -> str:
    """Hyperband against naive in a sentence. Where an own objective chose one side's front and not
    the other's, their best are comparable only if skill chose in both."""
    alike = not found["left_out"] or "task_skill" in found["objectives"]
    naive, staged = (next(m for m in found["modes"] if m["mode"] == n) for n in COMPARED)
    steps = fewer(naive["steps"] / staged["steps"])
    said = f"hyperband against naive: {_times(staged['speedup'])} as fast, {steps} steps"
    if alike and None not in (naive["test_auroc_best"], staged["test_auroc_best"]):
        said += f", best test AUROC {staged['test_auroc_best'] - naive['test_auroc_best']:+.3f}"
    if naive["test_hypervolume"] and staged["test_hypervolume"] is not None:
        share = staged["test_hypervolume"] / naive["test_hypervolume"]
        said += f", {100 * share:.0f}% of the test hypervolume"
    return said


def _explain_left_out(names: list[str]) -> str:
    return (
        f"the test hypervolume and the naive front leave out {', '.join(names)}: own objectives "
        "are measured for hyperband alone"
    )


def _times(value: float | None) -> str:
    if value is None:
        return MISSING
    return f"{value:.2f}x" if value < 100 else f"{value:,.0f}x"


def _figure(value: float | None, digits: int, mark: str) -> str:
    return MISSING if value is None else f"{mark}{value:.{digits}f}"
