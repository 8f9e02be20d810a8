"""Who is told how a run goes."""

from __future__ import annotations

from coralx.records import Progress
from coralx.search.asktell import Search


class Watcher:
    """Who is told how a run goes; the methods do nothing unless overridden."""

    def say(self, message: str) -> None:
        """A phase begins."""

    def show(self, message: str) -> None:
        """What is at work this moment; for views that move, as it may be told at every step."""

    def begin(self, evolution: Search) -> None:
        """Training begins; `evolution` can be looked at from then on."""

    def observe(self, progress: Progress) -> None:
        """A training step was taken."""
