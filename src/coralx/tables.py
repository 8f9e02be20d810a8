"""A run's outcome as terminal tables, drawn from its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from coralx.report.wording import (
    MISSING,
    absent,
    count,
    duration,
    figure,
    genes_line,
    large,
    megabytes,
    plural,
    ratio,
    share,
    tera,
)
from coralx.summary import Summary

SHORT = {
    "task_skill": "skill",
    "safety": "safety",
    "false_positive_cost": "FPR",
    "memory": "MB",
    "cross_modal_gain": "x-modal",
    "calibration": "calib.",
}
# Letter for letter, so that columns stay straight.
ASCII = str.maketrans("→×α–·", ">xa-,")  # noqa: RUF001
ACCENT = "#e8593f"


def render(summary: Summary, console: Console) -> None:
    """Print funnel, stopped genomes, front and efficiency. Reads without colour and at 80 columns.

    Names and reasons come from data: they are printed as they are, never as console markup, and
    without control characters. Where the output cannot hold more than ASCII, neither does this.
    """
    if not console.options.ascii_only:
        _print_parts(summary, console)
        return
    with console.capture() as capture:
        _print_parts(summary, console)
    text = capture.get().translate(ASCII)
    console.out(text.encode("ascii", "replace").decode(), highlight=False, end="")


def _print_parts(summary: Summary, console: Console) -> None:
    console.print(_headline(summary))
    if not summary["genomes"]:
        console.print("No genome has been trained yet.")
        return
    stages = [stage["name"] for stage in summary["efficiency"]["stages"]]
    _show(console, f"Stage funnel: {' → '.join(stages)}", _funnel(summary, stages))
    if summary["stopped"]:
        _show(console, "Stopped by a gate", _stopped(summary["stopped"]))
    if summary["front"]:
        front, names = summary["front"], list(summary["objectives"])
        _show(console, "Front on validation data (used for selection)", _front(front, names))
        if any(member["test"] for member in front):
            title = "Front on test data (touched once), with bootstrap interval"
            _show(console, title, _tests(front, names))
    _show(console, "Where the effort went", _effort(summary["efficiency"]))
    console.print(_saving(summary["efficiency"]))


def _headline(summary: Summary) -> Text:
    genomes, front = summary["genomes"], len(summary["front"])
    generations = len(summary["funnel"])
    found = (
        f"{plural(genomes, 'genome')} in {plural(generations, 'generation')}, {front} on the front"
    )
    head = Text("CoralX ", style=f"bold {ACCENT}")
    head.append(_clean(f"{summary['base_model']}, seed {summary['seed']}"), style="bold")
    head.append("" if summary["finished"] else " (not finished yet)", style=ACCENT)
    head.append(f"\n{found}, {duration(summary['wall_seconds'] or None)}")
    return head


def _show(console: Console, title: str, table: Table) -> None:
    console.print()
    console.print(Text(_clean(title), style="bold"))
    console.print(table)


def _table(columns: Sequence[tuple[str, str]]) -> Table:
    """Columns by heading and kind: text stands left, numbers (`n`) right; nothing is cut off."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    for heading, kind in columns:
        table.add_column(
            Text(heading),
            justify="left" if kind in ("text", "text") else "right",
            overflow="fold",
        )
    return table


def _funnel(summary: Summary, stages: Sequence[str]) -> Table:
    """`8 → 8 → 4 → 1` per generation, then the total."""
    columns = [("generation", "text"), ("genomes trained", "text")]
    table = _table([*columns, ("stopped", "n"), ("hypervolume", "n")])
    volumes = {item["index"]: item["hypervolume"] for item in summary["generations"]}
    stopped = [item["generation"] for item in summary["stopped"]]
    for index, row in enumerate(summary["funnel"]):
        path = " → ".join(f"{row.get(name, 0):,}" for name in stages)
        volume = figure("", volumes.get(index))
        table.add_row(str(index), path, str(stopped.count(index)), volume)
    totals = [sum(row.get(name, 0) for row in summary["funnel"]) for name in stages]
    path = " → ".join(f"{total:,}" for total in totals)
    table.add_row("all", path, str(len(stopped)), figure("", summary["hypervolume"]), style="bold")
    return table


def _stopped(stopped: Sequence[Mapping[str, Any]]) -> Table:
    table = _table([("genome", "text"), ("stage", "text"), ("reason", "text")])
    for item in stopped:
        table.add_row(*(Text(_clean(item[key])) for key in ("genome", "stage", "reason")))
    return table


def _front(front: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    shown = [name for name in names if any(name in member["objectives"] for member in front)]
    columns = [("genome", "text"), ("genes", "text")]
    table = _table(columns + [(SHORT.get(name, _clean(name)), "n") for name in shown])
    for member in front:
        genes = genes_line(member["genes"], member["trained_rank"]).replace(" · ", ", ")
        values = [figure(name, member["objectives"].get(name)) for name in shown]
        table.add_row(Text(_clean(member["genome"])), Text(_clean(genes)), *values)
    return table


def _tests(front: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    """The interval stands under its value, so that six objectives fit on 80 columns."""
    shown = [name for name in names if any(name in member["test"] for member in front)]
    columns = [(SHORT.get(name, _clean(name)), "n") for name in shown]
    table = _table([("genome", "text"), *columns])
    for member in front:
        cells = [_interval(name, member["test"].get(name)) for name in shown]
        table.add_row(Text(_clean(member["genome"])), *cells)
    return table


def _interval(name: str, interval: Mapping[str, Any] | None) -> Text:
    if interval is None or absent(interval["value"]):
        return Text(MISSING)
    low, high = (figure(name, interval[end]).replace("0.", ".") for end in ("low", "high"))
    return Text.assemble(
        (figure(name, interval["value"]), "bold"), (f"\n{low}{MISSING}{high}", "dim")
    )


def _effort(spent: Mapping[str, Any]) -> Table:
    headings = ("genomes", "steps", "tokens", "TFLOP", "seconds", "peak MB", "busy")
    table = _table([("stage", "text"), *((heading, "n") for heading in headings)])
    for stage in spent["stages"]:
        table.add_row(Text(_clean(stage["name"])), *_line(stage))
    table.add_row("all", *_line(spent), style="bold")
    return table


def _line(line: Mapping[str, Any]) -> list[str]:
    return [
        count(line.get("genomes")),
        count(line["steps"]),
        large(line["tokens"]),
        tera(line["flops"]),
        f"{line['seconds'] or 0:,.1f}",
        megabytes(line["peak_memory"]),
        share(line["busy_share"]),
    ]


def _saving(spent: Mapping[str, Any]) -> Text:
    text = Text("\nEfficiency ratio ", style="bold")
    text.append(ratio(spent["efficiency_ratio"]), style=f"bold {ACCENT}")
    text.append(
        f": {count(spent['naive_steps'])} steps of naive full training / "
        f"{count(spent['steps'])} steps trained.",
        style="not bold",
    )
    if spent["saved_by_leaving_early"]:
        saved = count(spent["saved_by_leaving_early"])
        text.append(f"\n{saved} planned steps saved by leaving a stage early.", style="not bold")
    return text


def _clean(value: Any) -> str:
    """Text from data without control characters, which could steer the terminal."""
    return "".join(letter if letter.isprintable() else "�" for letter in str(value))
