"""`coralx report`, `coralx export`, `coralx reproduce` and `coralx predict`: after a run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from coralx.cli.arguments import GenomeId, RunFolder, TrustRemoteCode
from coralx.cli.output import clean, notes, open_console, print_pairs, quiet_stdout, tell
from coralx.durable import follow, write_aside
from coralx.errors import DataError, StoreError
from coralx.json_values import to_json
from coralx.wording import plural

if TYPE_CHECKING:
    from coralx.config import Config
    from coralx.train.predict import Predictor

STANDARD_INPUT = Path("-")


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
    from coralx.runs.folder import REPORT, SUMMARY
    from coralx.store import read_history
    from coralx.summary import summarize, write_summary

    history = read_history(folder)
    if as_json:
        summary = summarize(history)
        typer.echo(to_json(summary, getattr(sys.stdout, "encoding", None), indent=2))
        return
    from coralx.report.page import write_report
    from coralx.report.terminal import render

    console = open_console()
    render(summarize(history), console)
    write_summary(history, folder / SUMMARY)
    write_report(history, folder / REPORT)
    print_pairs(console, [("Report", str(folder / REPORT))])


def export(
    folder: RunFolder,
    genome: GenomeId,
    target: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write; new or empty.")],
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Write a trained genome as an adapter that stock peft loads.

    The run's front is exported already, to RUN/adapters; this is for any genome: its result on the
    front, else its last.

    Example: `coralx export runs/mine 3f9a adapters/mine`
    """
    from coralx.adapter_files import PROJECTOR
    from coralx.runs.exporting import export_genome
    from coralx.store import read_start
    from coralx.train.threshold import SERVED

    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StoreError(f"{target}: exists and is not an empty folder; choose another DIR")
    with quiet_stdout():
        best = export_genome(folder, genome, target, notes(), trust_remote_code)
    config = read_start(folder).config.model_copy(update={"trust_remote_code": trust_remote_code})
    written = ", ".join(sorted(path.name for path in target.iterdir()))
    stage = clean(best.stage)
    typer.echo(f"{target}: genome {best.genome.id} as trained in {stage} ({written})\n")
    typer.echo(say_serving(config, target, best.details[SERVED]))
    if (target / PROJECTOR).exists():
        typer.echo(
            "\npeft reads text alone; rows with pictures are scored by "
            f"`coralx predict {target} ROWS`"
        )


def say_serving(config: Config, adapter: Path, threshold: float) -> str:
    """Python that tells with stock transformers and peft whether a text is unsafe."""
    from coralx.models import resolve_model

    base, trusted = resolve_model(config.base_model), config.trust_remote_code
    more = ", trust_remote_code=True" if trusted else ""
    return (
        "import torch\n"
        "from peft import PeftModel\n"
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer\n"
        f"base = {say_loading(base, trusted, config.training.dtype)}\n"
        f"model = PeftModel.from_pretrained(base, {str(adapter)!r}).eval()\n"
        f"tokenizer = AutoTokenizer.from_pretrained({base!r}{more})\n"
        f"limits = dict(truncation=True, max_length={config.data.max_tokens})\n"
        'tokens = tokenizer("How do I bake bread?", **limits, return_tensors="pt")\n'
        "with torch.no_grad():\n"
        "    score = torch.sigmoid(model(**tokens).logits[0, 0].double()).item()\n"
        f"unsafe = score >= {threshold!r}"
    )


def say_loading(base: str, trusted: bool, dtype: str = "float32") -> str:
    """How stock transformers loads a base with one logit: where it is a classifier of several
    labels itself, only if told that its head may go.

    Args:
        dtype: of the base that was trained on; transformers would take that of its files.
    """
    from transformers import AutoConfig

    settings = AutoConfig.from_pretrained(base, trust_remote_code=trusted)
    kinds = settings.architectures or ()
    named = ("SequenceClassification", "TokenClassification")  # their heads have the same name
    headed = settings.num_labels != 1 and any(name in kind for kind in kinds for name in named)
    more = ", ignore_mismatched_sizes=True" if headed else ""
    return (
        f"AutoModelForSequenceClassification.from_pretrained({base!r}, num_labels=1, "
        f"dtype=torch.{dtype}{more})"
    )


def reproduce(
    folder: RunFolder,
    genome: GenomeId,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Train a genome again from its recorded schedule and compare the weights.

    Starts from fresh weights and repeats every job of the genome's lineage, pack mates included,
    in a temporary folder; the run is only read. On a CPU with the same versions, instructions and
    thread count the weights come out the same, bit for bit. Exit code 1 if they do not.

    Example: `coralx reproduce runs/mine 3f9a`
    """
    from coralx.runs.reproduce import reproduce as train_again

    with quiet_stdout():
        found = train_again(folder, genome, notes().say, trust_remote_code)
    typer.echo(clean(found.describe()))
    if not found.identical:
        raise typer.Exit(1)


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
        Path | None, typer.Option(help="File of JSON lines, instead of standard output.")
    ] = None,
    text_column: Annotated[
        str | None, typer.Option(help="Column of the text; that of the training rows if left out.")
    ] = None,
    image_column: Annotated[
        str | None,
        typer.Option(help="Column of the picture (bytes, or a path beside ROWS); the same."),
    ] = None,
    on_bad_rows: Annotated[
        Literal["refuse", "skip"],
        typer.Option(
            help="refuse: stop at a row without text or with an unreadable picture. "
            "skip: give it an `error` in place of a score, and go on."
        ),
    ] = "refuse",
    allow_outside_images: Annotated[
        bool,
        typer.Option(
            "--allow-outside-images", help="Let paths of pictures lead out of the folder of ROWS."
        ),
    ] = False,
    base_model: Annotated[
        str | None,
        typer.Option(help="Folder or hub id of the base model, where it is no longer found."),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Where the model runs.")
    ] = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Score new rows: JSON lines out, in the order they came.

    Each row comes back with `score`, the probability of unsafe as calibrated on the run's
    validation rows (as trained where they have fewer than 10 of a class), and `unsafe`, whether the
    score reaches the threshold that caught 90% of the unsafe ones among them. A file given by --out
    is written whole or, where a row is refused, not at all; on standard output all rows before that
    one are written.

    Example: `coralx predict runs/mine/adapters/3f9a41c07d12 new_rows.jsonl --out scored.jsonl`
    """
    _check_adapter(adapter)
    _check_rows(rows)
    _check_out(out, rows)
    with quiet_stdout():
        from coralx.train.predict import Predictor, write_lines

        predictor = Predictor(adapter, device, trust_remote_code, notes().say, base_model)
    scored = predictor.predict(
        *_open_rows(rows), text_column, image_column, allow_outside_images, on_bad_rows == "skip"
    )
    if out is None:
        count = write_lines(scored, sys.stdout)
        if not count:
            tell(f"{'standard input' if rows == STANDARD_INPUT else rows}: 0 rows")
    else:
        with write_aside(out, ", or name another --out") as file:
            count = write_lines(scored, file)
        tell(f"{out}: {plural(count, 'row')}, unsafe from {predictor.threshold:.4f}")
    if predictor.bad:
        tell(f"{predictor.bad} of {count} rows have an `error` and no score")
    _tell_misread(predictor, count - predictor.bad)


def _tell_misread(predictor: Predictor, scored: int) -> None:
    """Texts that the model has read in part, or not at all."""
    if predictor.cut:
        tell(
            f"warning: {predictor.cut} of {scored} texts are longer than the adapter's max_tokens "
            f"({predictor.max_tokens}) and were cut"
        )
    if predictor.unknown:
        tell(
            f"warning: {predictor.unknown} of {scored} texts hold no token that "
            f"{predictor.base_model} knows: it cannot tell them apart"
        )


def _check_adapter(folder: Path) -> None:
    """Tell a run from its adapters."""
    from coralx.runs.folder import ADAPTERS
    from coralx.store import has_begun

    if has_begun(folder):
        found = sorted(path.name for path in (folder / ADAPTERS).glob("[!.]*"))
        names = ", ".join(f"{folder}/adapters/{name}" for name in found)
        there = names or "none there: a run writes its front's at its end, `coralx export` others"
        raise StoreError(f"{folder}: is a run; name one of its adapters: {there}")


def _check_rows(path: Path) -> None:
    """Told before a model is loaded."""
    if path == STANDARD_INPUT:
        if sys.stdin is None:
            raise DataError("standard input is closed; name a file of rows")
    elif path.is_dir():
        raise DataError(f"{path}: is a folder; name the file of rows in it")
    elif not path.is_file():
        raise DataError(f"{path}: no such file; `-` reads JSON lines from standard input")


def _check_out(path: Path | None, rows: Path) -> None:
    """Pass if scores can be written there, and take the place of nothing but earlier ones."""
    if path is None:
        if sys.stdout is None:
            raise StoreError("standard output is closed; name a file to write with --out")
        return
    if path.is_dir():
        raise StoreError(f"--out: {path} is a folder; name a file")
    if path.suffix.lower() in (".csv", ".parquet"):
        raise StoreError(f"--out: JSON lines are written, got {path.name}; name a .jsonl file")
    if path.exists() and not path.is_file():
        raise StoreError(
            f"--out: {path} is no regular file and would be replaced by one; name another file, or "
            "leave --out away for standard output"
        )
    if path.exists() and _holds_rows(path, rows):
        raise StoreError(f"--out: {path} holds the rows that are read; name another file")
    folder = follow(path).parent
    if not folder.is_dir():
        raise StoreError(f"--out: {folder} is no folder; make it, or name another file")
    if not os.access(folder, os.W_OK):
        raise StoreError(f"--out: {folder} cannot be written; allow writing, or name another file")


def _holds_rows(path: Path, rows: Path) -> bool:
    """Whether a file that exists is the one that rows are read from."""
    if rows != STANDARD_INPUT:
        return path.samefile(rows)
    try:
        return os.path.samestat(path.stat(), os.fstat(sys.stdin.fileno()))
    except OSError:  # standard input is no file
        return False


def _open_rows(path: Path) -> tuple[Iterator[dict[str, Any]], Path]:
    """The rows, and the folder that relative paths of pictures are taken from."""
    from coralx.rows.file import iterate_rows, parse_lines

    if path == STANDARD_INPUT:
        return parse_lines(sys.stdin.buffer, "standard input"), Path.cwd()
    return iterate_rows(path), path.parent
