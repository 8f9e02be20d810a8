"""A run's outcome as terminal tables, drawn from its summary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from coralx.cautions import cautions, chance, doubts
from coralx.objectives import describe
from coralx.summary import Summary
from coralx.wording import (
    ACCENT,
    MISSING,
    absent,
    bounds,
    clean,
    count,
    duration,
    efficiency_ratio,
    figure,
    genes_line,
    measured_part,
    plural,
    rho,
    rows_line,
    seen_of_entered,
    share,
    spent_cells,
    stage_pairs,
)

FPR_NOTE = "FPR: of safe rows, at the threshold that catches 90% of these unsafe rows."
# Of test rows, at the threshold that validation rows have set.
AS_SERVED = {"recall": "unsafe rows caught", "false_positive_rate": "safe rows flagged"}
MOST_SHOWN = 30  # members of the front, and genomes that were stopped
# Letter for letter, so that columns stay straight.
ASCII = str.maketrans("→×α–·", ">xa-,")  # noqa: RUF001


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
    if summary["rows"]:
        console.print(_rows(summary))
    _warn(console, cautions(summary, summary["objectives"], summary["base_model"]))
    for path, rows in summary["left_out"].items():
        console.print(Text(clean(f"{plural(rows, 'row')} left out of {path}"), style="dim"))
    if not summary["genomes"]:
        console.print("No genome has been trained yet.")
        return
    stages = [stage["name"] for stage in summary["efficiency"]["stages"]]
    _show(console, f"Stage funnel: {' → '.join(stages)}", _funnel(summary, stages))
    if summary["generations"]:
        console.print(_non_dominated(summary, stages))
    if summary["stopped"]:
        stopped = summary["stopped"]
        table = _stopped(stopped[:MOST_SHOWN])
        _show(console, "Stopped by a gate", table, len(stopped) - MOST_SHOWN)
    if summary["merge"]["children"]:
        console.print(_merged(summary["merge"]))
    names = list(summary["objectives"])
    if summary["stage_correlation"]:
        title = "How well a stage predicts the next: Spearman's rho, 95% interval"
        _show(console, title, _correlations(summary["stage_correlation"], names))
        _warn(console, doubts(summary["stage_correlation"]))
    if summary["front"]:
        _print_front(summary, names, console)
    _show(console, "Where the effort went", _effort(summary))
    console.print(_saving(summary))


def _print_front(summary: Summary, names: Sequence[str], console: Console) -> None:
    front = summary["front"][:MOST_SHOWN]
    left_out = len(summary["front"]) - len(front)
    _show(console, "Genes of the front", _genes(front, summary["space"]), left_out)
    title = "Front on validation data (used for selection)"
    _show(console, title, _front(front, names, "objectives", figure), left_out)
    if any(member["test"] for member in front):
        title = "Front on test data (touched once), with bootstrap interval"
        _show(console, title, _front(front, names, "test", _interval), left_out)
        if "false_positive_cost" in names:
            console.print(Text(clean(FPR_NOTE), style="dim"))
    if any(key.startswith("as_served/") for member in front for key in member["test_details"]):
        title = "As exported: what each adapter's own threshold does on test data"
        _show(console, title, _as_served(front), left_out)


def _warn(console: Console, texts: Iterable[str]) -> None:
    for text in texts:
        console.print(Text(clean(f"Warning: {text}"), style=ACCENT))


def _headline(summary: Summary) -> Text:
    genomes, front = summary["genomes"], len(summary["front"])
    generations = len(summary["funnel"])
    found = (
        f"{plural(genomes, 'genome')} in {plural(generations, 'generation')}, {front} on the front"
    )
    head = Text("CoralX ", style=f"bold {ACCENT}")
    head.append(clean(f"{summary['base_model']}, seed {summary['seed']}"), style="bold")
    head.append("" if summary["finished"] else " (not finished yet)", style=ACCENT)
    head.append(f"\n{found}, {duration(summary['wall_seconds'] or None)}")
    return head


def _rows(summary: Summary) -> Text:
    classes = summary["classes"]
    parts = [f"{name} {rows_line(classes, name, n)}" for name, n in summary["rows"].items() if n]
    return Text(clean(f"Rows: {', '.join(parts)}"))


def _show(console: Console, title: str, table: Table, left_out: int = 0) -> None:
    console.print()
    console.print(Text(clean(title), style="bold"))
    console.print(table)
    if left_out > 0:
        console.print(
            f"and {left_out:,} more: report.html and `coralx report --json` have them all"
        )


def _table(columns: Sequence[tuple[str, str]]) -> Table:
    """Columns by heading and kind: text stands left, numbers (`n`) right; nothing is cut off."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for heading, kind in columns:
        table.add_column(
            Text(heading),
            justify="left" if kind == "text" else "right",
            overflow="fold",
        )
    return table


def _funnel(summary: Summary, stages: Sequence[str]) -> Table:
    """`8 → 8 → 4 → 1` per generation, then the total."""
    columns = [("generation", "text"), ("genomes trained", "text")]
    table = _table([*columns, ("stopped", "n"), ("first front", "n"), ("hypervolume", "n")])
    closed = {item["index"]: item for item in summary["generations"]}
    stopped = [item["generation"] for item in summary["stopped"]]
    for index, row in enumerate(summary["funnel"]):
        path = " → ".join(f"{row.get(name, 0):,}" for name in stages)
        item = closed.get(index, {})
        first, volume = share(item.get("first_front_share")), figure("", item.get("hypervolume"))
        table.add_row(str(index), path, str(stopped.count(index)), first, volume)
    totals = [sum(row.get(name, 0) for row in summary["funnel"]) for name in stages]
    path = " → ".join(f"{total:,}" for total in totals)
    volume = figure("", summary["hypervolume"])
    table.add_row("all", path, str(len(stopped)), "", volume, style="bold")
    return table


def _non_dominated(summary: Summary, stages: Sequence[str]) -> Text:
    """Where nearly all are, rank selects nobody: it is the tie-break that does."""
    shares = [item["non_dominated"] for item in summary["generations"]]
    means = {name: [row[name] for row in shares if name in row] for name in stages}
    parts = [f"{name} {share(fmean(found))}" for name, found in means.items() if found]
    return Text(clean(f"Non-dominated within a stage, mean: {', '.join(parts)}"))


def _stopped(stopped: Sequence[Mapping[str, Any]]) -> Table:
    table = _table([("genome", "text"), ("stage", "text"), ("reason", "text")])
    for item in stopped:
        table.add_row(*(Text(clean(item[key])) for key in ("genome", "stage", "reason")))
    return table


def _merged(merge: Mapping[str, int]) -> Text:
    beat, children = count(merge["beat_better_parent"]), count(merge["children"])
    higher = "had a higher AUROC than either parent before training."
    return Text(f"\n{beat} of {children} merged children {higher}")


def _correlations(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table:
    """As in the table of tests, the interval stands under its value."""
    shown = [name for name in names if any(row["objective"] == name for row in rows)]
    columns = [(clean(describe(name).short), "n") for name in shown]
    table = _table([("stage → next", "text"), *columns])
    for (stage, following), by_name in stage_pairs(rows).items():
        title = f"{stage}\n→ {following}\n{seen_of_entered(by_name)} ranked"
        cells = [_correlation(by_name.get(name)) for name in shown]
        table.add_row(Text("\n".join(map(clean, title.split("\n")))), *cells)
    return table


def _correlation(row: Mapping[str, Any] | None) -> Text:
    if row is None or row["rho"] is None:
        return Text(MISSING)
    if row["low"] is None:
        return Text(rho(row["rho"]), style="bold")
    return _stacked(*(rho(row[part]) for part in ("rho", "low", "high")))


def _genes(front: Sequence[Mapping[str, Any]], space: Sequence[str]) -> Table:
    table = _table([("genome", "text"), ("genes", "text")])
    for member in front:
        genes = genes_line(member["genes"], member["trained_rank"], space).replace(" · ", ", ")
        cell = Text(clean(genes))
        if doubt := chance(member):
            cell.append(f"\n{doubt}", style=ACCENT)
        table.add_row(Text(clean(member["genome"])), cell)
    return table


def _front(
    front: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    key: str,
    write: Callable[[str, Any], str | Text],
) -> Table:
    """What the members have under a key. Intervals stand under their values, so that six objectives
    fit on 80 columns."""
    shown = [name for name in names if any(name in member[key] for member in front)]
    columns = [(clean(describe(name).short), "n") for name in shown]
    table = _table([("genome", "text"), *columns])
    for member in front:
        cells = [write(name, member[key].get(name)) for name in shown]
        table.add_row(Text(clean(member["genome"])), *cells)
    return table


def _as_served(front: Sequence[Mapping[str, Any]]) -> Table:
    """What a user of an adapter gets: no figure of the front says it."""
    table = _table([("genome", "text"), *((heading, "n") for heading in AS_SERVED.values())])
    for member in front:
        found = [member["test_details"].get(f"as_served/{name}") for name in AS_SERVED]
        table.add_row(Text(clean(member["genome"])), *(_interval("", one) for one in found))
    return table


def _interval(name: str, interval: Mapping[str, Any] | None) -> Text:
    if interval is None or absent(interval["value"]):
        return Text(MISSING)
    value, low, high = (figure(name, interval[end]) for end in ("value", "low", "high"))
    if not bounds(name, interval):
        return Text(value, style="bold")
    return _stacked(value, low, high)


def _stacked(value: str, low: str, high: str) -> Text:
    """A figure over its interval, in which a zero before the point is left out."""
    ends = MISSING.join(end.replace("0.", ".") for end in (low, high))
    return Text.assemble((value, "bold"), (f"\n{ends}", "dim"))


def _effort(summary: Summary) -> Table:
    spent, peak = summary["efficiency"], f"{measured_part(summary)} peak MB"
    headings = ("genomes", "steps", "tokens", "TFLOP", "seconds", peak, "busy")
    table = _table([("stage", "text"), *((heading, "n") for heading in headings)])
    for stage in spent["stages"]:
        name = Text(clean(stage["name"]))
        table.add_row(name, count(stage["genomes"]), *spent_cells(stage))
    table.add_row("all", count(spent["genomes"]), *spent_cells(spent), style="bold")
    return table


def _saving(summary: Summary) -> Text:
    spent, (ratio, note) = summary["efficiency"], efficiency_ratio(summary)
    text = Text("\nEfficiency ratio ", style="bold")
    text.append(ratio, style=f"bold {ACCENT}")
    text.append(
        f"{f' ({note})' if note else ''}: "
        f"{count(spent['naive_steps'])} steps of naive full training / "
        f"{count(spent['steps'])} trained.",
        style="not bold",
    )
    if spent["saved_by_leaving_early"]:
        saved = count(spent["saved_by_leaving_early"])
        text.append(f"\n{saved} planned steps saved by leaving a stage early.", style="not bold")
    return text
