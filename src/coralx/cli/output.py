"""What commands say at a terminal, and how they end."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from coralx.runs.watcher import Watcher

BAD_INPUT = 2


def print_pairs(console: Console, pairs: list[tuple[str, str]]) -> None:
    """Lines that are never wrapped: what stands in them is there to be copied."""
    console.out("")
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        console.out(f"{name:<{width}}  {value}", highlight=False)


def open_console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr)


def open_lasting_console() -> Console:
    """On stdout, for work that is worth more than its view: see `LastingStdout`."""
    from rich.console import Console

    file = sys.stdout and cast("IO[str]", LastingStdout(sys.stdout))  # None: it was closed
    return Console(file=file)


class LastingStdout:
    """Stdout that may break, as where it is piped to `head`, goes to a full disk, or its terminal
    is gone. That is said once on stderr; what is written after that goes nowhere."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _give_up(self, error: OSError) -> None:
        # Python writes what it still holds when the process ends: that must not fail again.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        tell(f"coralx: stdout cannot be written ({error.strerror}); the run goes on without it")


def tell(message: str) -> None:
    """Say it on stderr, if that can be written."""
    with contextlib.suppress(OSError):
        typer.echo(clean(message), err=True)


def clean(message: str) -> str:
    """Names, paths and values from elsewhere stand in messages. Lines and tabs stay."""
    from coralx import wording

    return wording.clean(message, kept="\n\t")


def notes() -> Watcher:
    """Says on stderr what is loaded, so that stdout holds the outcome alone."""
    from coralx.runs.watcher import Watcher

    class Notes(Watcher):
        def say(self, message: str) -> None:
            tell(message)

    return Notes()


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """What libraries print while they load goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def quote(path: Path) -> str:
    return shlex.quote(str(path))
