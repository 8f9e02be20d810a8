"""The `coralx` command. Each subcommand loads what it needs when it runs, so help is instant."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Collection, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from coralx import __version__
from coralx.cli import prepare, train, use
from coralx.cli.output import BAD_INPUT, tell
from coralx.errors import CoralXError
from coralx.interrupts import INTERRUPTED, stoppable

__all__ = ["app", "main"]

PANELS = {
    "Train": (train.run, train.resume),
    "Prepare": (prepare.plan, prepare.compare, prepare.init),
    "Use": (use.report, use.export, use.reproduce, use.predict),
}


class Commands(TyperGroup):
    """Turns errors that a user can mend into a message on stderr and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with stoppable():  # SIGTERM, too, lets temporary files be removed
                return super().invoke(ctx)
        except BrokenPipeError:  # the reader has gone, as in `coralx report RUN | head`
            raise
        except (CoralXError, OSError) as error:
            tell(f"coralx: {error}")
            raise typer.Exit(BAD_INPUT) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


class Command(TyperCommand):
    """Shows the value that an option does not take beside the rule that it breaks."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            value = _value(getattr(error.param, "opts", ()), given)
            if value is not None and value not in error.message:
                error.message = f"{error.message}, got {value!r}"
            raise


def _value(names: Collection[str], arguments: Sequence[str]) -> str | None:
    """What an option of these names was last given."""
    found = None
    for argument, following in itertools.zip_longest(arguments, arguments[1:]):
        name, sign, value = argument.partition("=")
        if name in names:
            found = value if sign else following
    return found


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel, cls=Command)(command)


def main() -> None:
    """Do what the command line says and exit; signals are the caller's concern."""
    try:
        app(prog_name="coralx")
    except OSError as error:  # help that cannot be written is no command's
        tell(f"coralx: {error}")
        sys.exit(BAD_INPUT)
