"""What commands say at a terminal, and how they end."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from coralx.runs import Watcher

BAD_INPUT = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def print_pairs(console: Console, pairs: list[tuple[str, str]]) -> None:
    """Lines that are never wrapped: what stands in them is there to be copied."""
    console.out("")
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        console.out(f"{name:<{width}}  {value}", highlight=False)


def open_console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr)


def notes() -> Watcher:
    """Says on stderr what is loaded, so that stdout holds the outcome alone."""
    from coralx.runs import Watcher

    class Notes(Watcher):
        def say(self, message: str) -> None:
            typer.echo(message, err=True)

    return Notes()


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """What libraries print while they load goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def quote(path: Path) -> str:
    return shlex.quote(str(path))
