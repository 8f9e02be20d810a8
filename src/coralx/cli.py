"""The `coralx` command. Each subcommand loads what it needs when it runs, so help is instant."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Never

import typer
from typer.core import TyperGroup

from coralx import __version__
from coralx.errors import CoralXError, DataError, StoreError

if TYPE_CHECKING:
    from rich.console import Console

    from coralx.config import Config
    from coralx.runs import Watcher
    from coralx.store import History

BAD_INPUT = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class Commands(TyperGroup):
    """Turns errors that a user can mend into a message on stderr and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader has gone, as in `coralx report RUN | head`
            raise
        except (CoralXError, OSError) as error:
            typer.echo(f"coralx: {error}", err=True)
            raise typer.Exit(BAD_INPUT) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigFile = Annotated[
    Path | None,
    typer.Argument(
        metavar="[CONFIG]",
        help="YAML file; the built-in job if left out.",
        show_default=False,
    ),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `coralx run` wrote.")]
Population = Annotated[
    int | None,
    typer.Option(help="Genomes in a generation, in place of evolution.population."),
]
Generations = Annotated[
    int | None, typer.Option(help="Generations, in place of evolution.generations.")
]


@app.callback(invoke_without_command=True)
def start(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Evolves LoRA adapters on one frozen base model.

    A population of adapters is trained on real data through stages of growing budget. Weak ones
    stop early, children inherit their better parent's weights, and what is left is a front of
    trained adapters in PEFT format.

    Begin with `coralx run` (the built-in job, a few minutes) or `coralx init my-job` (your own).
    """
    if version:
        typer.echo(f"coralx {__version__}")
        raise typer.Exit


@app.command(rich_help_panel="Train")
def run(
    config: ConfigFile = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Run folder to write; by default one in runs/, named by date and time.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of all that is random, in place of evolution.seed.")
    ] = None,
    generations: Generations = None,
    population: Population = None,
) -> None:
    """Evolve adapters and write a run folder.

    Trains, selects and breeds to the end, measures the front once on the test rows, and writes
    the adapters, summary.json and report.html. Ctrl-C stops it; `coralx resume` goes on.

    Examples: `coralx run`, `coralx run configs/quick.yaml --out runs/quick --seed 7`
    """
    from coralx.models import resolve_model
    from coralx.runs import start_run

    settings = _load(config, seed=seed, generations=generations, population=population)
    directory = out or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
    if directory.exists() and not directory.is_dir():
        raise StoreError(f"--out: {directory} is a file; name a folder")
    resolve_model(settings.base_model)  # a wrong name is told before torch is loaded
    _train(settings, directory, lambda watcher: start_run(settings, directory, watcher))


@app.command(rich_help_panel="Train")
def resume(folder: RunFolder) -> None:
    """Go on where a stopped run was.

    What the journal holds is not trained again. A finished run only gets its report anew.

    Example: `coralx resume runs/20260101-120000`
    """
    from coralx.runs import resume_run
    from coralx.store import read_history

    settings = read_history(folder).config
    _train(settings, folder, lambda watcher: resume_run(folder, watcher))


@app.command(rich_help_panel="Prepare")
def plan(
    config: ConfigFile = None,
    steps_per_epoch: Annotated[
        float | None,
        typer.Option(
            min=0, help="Batches in an epoch of all rows; counted from the data if left out."
        ),
    ] = None,
    population: Population = None,
    generations: Generations = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead.")] = False,
) -> None:
    """Show what a run will cost before it starts.

    Steps per stage against naive full training, exact; tokens, FLOPs and memory, estimated. The
    stages are those of one generation, the totals those of the run. Nothing is loaded or trained.

    Example: `coralx plan configs/seed.yaml --steps-per-epoch 1000 --population 8 --json`
    """
    from coralx.plan import plan_run

    settings = _load(config, population=population, generations=generations)
    if steps_per_epoch == 0:
        raise typer.BadParameter("must be above 0", param_hint="--steps-per-epoch")
    found = plan_run(settings, steps_per_epoch)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    from coralx.plan_table import render_plan

    render_plan(found, _console())


@app.command(rich_help_panel="Use")
def report(
    folder: RunFolder,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary and nothing else; write nothing.")
    ] = False,
) -> None:
    """Show a run's outcome and write its report anew.

    Prints the tables and rewrites summary.json and report.html, one file that needs no network.
    Works on a run that is still going or was stopped.

    Examples: `coralx report runs/mine`, `coralx report runs/mine --json`
    """
    from coralx.store import read_history
    from coralx.summary import summarize, write_summary

    history = read_history(folder)
    if as_json:
        summary = summarize(history)
        typer.echo(json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False))
        return
    from coralx.report import write_report
    from coralx.tables import render

    console = _console()
    render(summarize(history), console)
    write_summary(history, folder / "summary.json")
    write_report(history, folder / "report.html")
    _print_pairs(console, [("Report", str(folder / "report.html"))])


@app.command(rich_help_panel="Use")
def export(
    folder: RunFolder,
    genome: Annotated[
        str, typer.Argument(metavar="GENOME", help="Id of a trained genome, or how it begins.")
    ],
    target: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write; new or empty.")],
) -> None:
    """Write a trained genome as an adapter that stock peft loads.

    The run's front is exported already, to RUN/adapters; this is for any other genome.

    Example: `coralx export runs/mine 3f9a adapters/mine`
    """
    from coralx.models import resolve_model
    from coralx.runs import export_genome
    from coralx.store import read_history

    history = read_history(folder)
    name = _find_genome(history, folder, genome)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StoreError(f"{target}: exists and is not an empty folder; choose another DIR")
    with _quiet_stdout():
        best = export_genome(folder, name, target, _notes())
    base = resolve_model(history.config.base_model)
    written = ", ".join(sorted(path.name for path in target.iterdir()))
    typer.echo(f"{target}: genome {name} as trained in {best.stage} ({written})\n")
    typer.echo(
        "from peft import PeftModel\n"
        "from transformers import AutoModelForSequenceClassification\n"
        f"base = AutoModelForSequenceClassification.from_pretrained({base!r}, num_labels=1)\n"
        f"model = PeftModel.from_pretrained(base, {str(target)!r})"
    )


@app.command(rich_help_panel="Use")
def reproduce(
    folder: RunFolder,
    genome: Annotated[
        str, typer.Argument(metavar="GENOME", help="Id of a trained genome, or how it begins.")
    ],
) -> None:
    """Train a genome again from its recorded schedule and compare the weights.

    Starts from fresh weights and repeats every job of the genome's lineage, pack mates included,
    in a temporary folder; the run is only read. On a CPU with the same versions, instructions and
    thread count the weights come out the same, bit for bit. Exit code 1 if they do not.

    Example: `coralx reproduce runs/mine 3f9a`
    """
    from coralx.reproduce import reproduce as train_again
    from coralx.store import read_history

    name = _find_genome(read_history(folder), folder, genome)
    with _quiet_stdout():
        found = train_again(folder, name, _notes().say)
    typer.echo(found.describe())
    if not found.identical:
        raise typer.Exit(1)


@app.command(rich_help_panel="Use")
def predict(
    adapter: Annotated[
        Path, typer.Argument(metavar="ADAPTER", help="Folder that `coralx export` or a run wrote.")
    ],
    rows: Annotated[
        Path,
        typer.Argument(
            metavar="ROWS",
            help="JSONL, CSV or Parquet file; `-` for JSON lines from standard input.",
            allow_dash=True,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="File to write instead of standard output.")
    ] = None,
    text_column: Annotated[str, typer.Option(help="Column of the text.")] = "text",
    image_column: Annotated[
        str, typer.Option(help="Column of the picture: bytes, or a path beside ROWS.")
    ] = "image",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Score new rows: JSON lines out, in the order they came.

    Each row comes back with `score`, the probability of unsafe, and `unsafe`, whether the score
    reaches the threshold that caught 90% of the unsafe validation rows.

    Example: `coralx predict runs/mine/adapters/3f9a41c07d12 new_rows.jsonl --out scored.jsonl`
    """
    if device not in ("auto", "cpu", "cuda"):
        raise typer.BadParameter("must be auto, cpu or cuda", param_hint="--device")
    standard_input = str(rows) == "-"
    if not standard_input and not rows.is_file():
        raise DataError(f"{rows}: no such file; `-` reads JSON lines from standard input")
    with _quiet_stdout():
        from coralx.train.predict import Predictor, iterate_rows, parse_lines, write_lines

        predictor = Predictor(adapter, device)
    source = parse_lines(sys.stdin) if standard_input else iterate_rows(rows)
    folder = Path.cwd() if standard_input else rows.parent
    scored = predictor.predict(source, folder, text_column, image_column)
    if out is None:
        write_lines(scored, sys.stdout)
        return
    aside = out.with_name(f".{out.name}.writing")
    try:
        with aside.open("w", encoding="utf-8") as file:
            count = write_lines(scored, file)
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)
    typer.echo(f"{out}: {count} rows scored, unsafe from {predictor.threshold:.4f}", err=True)


@app.command(rich_help_panel="Prepare")
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write; made if needed.")],
) -> None:
    """Write a commented configuration and sample rows to start from.

    The job runs as it stands. Put your own rows in place of train.jsonl, validation.jsonl and
    test.jsonl, and edit config.yaml. Nothing is overwritten.

    Example: `coralx init my-job` and then `coralx run my-job/config.yaml`
    """
    from coralx.starter import write_starter

    for path in write_starter(folder):
        typer.echo(f"wrote {path}")
    typer.echo(f"\nNext: coralx run {_quote(folder / 'config.yaml')}")


def main() -> Never:
    """Entry point of the `coralx` command."""
    app(prog_name="coralx")
    sys.exit(0)


def _load(path: Path | None, **overrides: int | None) -> Config:
    """The configuration with the command line's own values in its `evolution` section."""
    from coralx.config import load_config

    given = {name: value for name, value in overrides.items() if value is not None}
    return load_config(path, {"evolution": given})


def _train(config: Config, directory: Path, work: Callable[[Watcher], History]) -> None:
    """Train with a live view, then show the outcome."""
    from coralx.interrupts import stoppable
    from coralx.progress import follow
    from coralx.store import has_begun
    from coralx.summary import summarize
    from coralx.tables import render

    console = _console()
    try:
        with stoppable(), follow(config, console) as view:
            view.emit(f"run folder {directory}")
            history = work(view)
    except KeyboardInterrupt:
        if has_begun(directory):
            typer.echo(f"\nstopped; go on with: coralx resume {_quote(directory)}", err=True)
        else:
            typer.echo("\nstopped before training began; nothing was written", err=True)
        raise typer.Exit(INTERRUPTED) from None
    summary = summarize(history)
    console.out("")
    render(summary, console)
    _print_next(console, directory, summary["front"])


def _print_next(console: Console, directory: Path, front: list[dict[str, Any]]) -> None:
    run = _quote(directory)
    pairs = [("Report", str(directory / "report.html"))]
    if front:
        best = front[0]["genome"]
        pairs.append(("Score rows", f"coralx predict {run}/adapters/{best} ROWS.jsonl"))
        pairs.append(("Export", f"coralx export {run} {best} DIR"))
    pairs.append(("Show again", f"coralx report {run}"))
    pairs.append(("If stopped", f"coralx resume {run}"))
    _print_pairs(console, pairs)


def _print_pairs(console: Console, pairs: list[tuple[str, str]]) -> None:
    """Lines that are never wrapped: what stands in them is there to be copied."""
    console.out("")
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        console.out(f"{name:<{width}}  {value}", highlight=False)


def _find_genome(history: History, folder: Path, begin: str) -> str:
    """The id that is `begin` or, alone among those trained, begins so."""
    trained = dict.fromkeys(r.genome.id for r in history.results if r.checkpoint)
    matches = [begin] if begin in trained else [name for name in trained if name.startswith(begin)]
    if len(matches) == 1:
        return matches[0]
    found = ", ".join(matches or trained) or "none yet"
    rule = "more than one genome begins" if matches else "no trained genome begins"
    raise StoreError(f"{folder}: {rule} with {begin!r}; there are {found}")


def _console() -> Console:
    from rich.console import Console

    return Console()


def _notes() -> Watcher:
    """Says on stderr what is loaded, so that stdout holds the outcome alone."""
    from coralx.runs import Watcher

    class Notes(Watcher):
        def say(self, message: str) -> None:
            typer.echo(message, err=True)

    return Notes()


@contextlib.contextmanager
def _quiet_stdout() -> Iterator[None]:
    """What libraries print while they load goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _quote(path: Path) -> str:
    return shlex.quote(str(path))
