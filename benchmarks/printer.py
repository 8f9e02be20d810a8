"""What a benchmark says while it runs."""

from __future__ import annotations

from coralx.runs.watcher import Watcher


class Printer(Watcher):
    """Says what goes on, on standard output."""

    def say(self, message: str) -> None:
        print(message, flush=True)
