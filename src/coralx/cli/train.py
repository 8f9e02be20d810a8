"""`coralx run` and `coralx resume`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coralx.cli.arguments import ConfigFile, Generations, Population, RunFolder, Seed, load
from coralx.cli.output import open_lasting_console, print_pairs, quote, tell
from coralx.interrupts import INTERRUPTED

if TYPE_CHECKING:
    from rich.console import Console

    from coralx.config import Config
    from coralx.runs.watcher import Watcher
    from coralx.store import History


def _name_folder(value: str) -> Path:
    """An empty name, as of a shell variable that is not set, would be the folder one is in."""
    if not value:
        raise typer.BadParameter("must name a folder, got an empty text; `.` is the one you are in")
    return Path(value)


def run(
    config: ConfigFile = None,
    out: Annotated[
        Path | None,
        typer.Option(
            parser=_name_folder,
            metavar="PATH",
            help="Run folder to write; by default one in runs/, named by date and time.",
            show_default=False,
        ),
    ] = None,
    seed: Seed = None,
    generations: Generations = None,
    population: Population = None,
) -> None:
    """Evolve adapters and write a run folder.

    Trains, selects and breeds to the end, measures the front once on the test rows, and writes
    the adapters, summary.json and report.html. Ctrl-C stops it; `coralx resume` goes on.

    Examples: `coralx run`, `coralx run configs/quick.yaml --out runs/quick --seed 7`
    """
    from coralx.models import resolve_model
    from coralx.runs.running import start_run

    settings = load(config, seed=seed, generations=generations, population=population)
    directory = out or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
    resolve_model(settings.base_model)  # a wrong name is told before torch is loaded
    _train(settings, directory, lambda watcher: start_run(settings, directory, watcher))


def resume(folder: RunFolder) -> None:
    """Go on where a stopped run was.

    What the journal holds, settings included, stays as it is and is not trained again. A finished
    run only gets its report anew, and adapters that are missing or damaged.

    Example: `coralx resume runs/20260101-120000`
    """
    from coralx.runs.folder import SETTINGS, changed_settings
    from coralx.runs.running import resume_run
    from coralx.store import read_start

    settings = read_start(folder).config
    if changed := changed_settings(folder, settings):
        tell(
            f"warning: a run keeps the settings that it began with, and {folder / SETTINGS} was "
            f"edited: {', '.join(changed)}; for other settings start a new run"
        )
    _train(settings, folder, lambda watcher: resume_run(folder, watcher))


def _train(config: Config, directory: Path, work: Callable[[Watcher], History]) -> None:
    """Train with a live view, then show the outcome. Where nobody can be shown anything any more,
    as after `| head`, it trains all the same: a night's work does not hang on its view."""
    from coralx.cli.progress import follow
    from coralx.report.terminal import render
    from coralx.runs.folder import check_name
    from coralx.store import has_begun
    from coralx.summary import summarize

    check_name(directory)  # before it is printed, which may fail, too
    console = open_lasting_console()
    try:
        with follow(config, console) as view:
            view.emit(f"run folder {directory}")
            history = work(view)
    except KeyboardInterrupt:
        if has_begun(directory):
            tell(f"\nstopped; go on with: coralx resume {quote(directory)}")
        else:
            tell("\nstopped before training began; nothing was written")
        raise typer.Exit(INTERRUPTED) from None
    summary = summarize(history)
    console.out("")
    render(summary, console)
    _print_next(console, directory, summary["front"])


def _print_next(console: Console, directory: Path, front: list[dict[str, Any]]) -> None:
    from coralx.runs.folder import REPORT

    run = quote(directory)
    pairs = [("Report", str(directory / REPORT))]
    if front and front[0]["adapter"]:
        best = front[0]["genome"]
        pairs.append(("Score rows", f"coralx predict {run}/adapters/{best} ROWS.jsonl"))
        pairs.append(("Export", f"coralx export {run} {best} DIR"))
    pairs.append(("Show again", f"coralx report {run}"))
    print_pairs(console, pairs)
