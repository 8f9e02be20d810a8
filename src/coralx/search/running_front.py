"""The front of all that was told, kept up to date without ranking everything anew each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from coralx.records import TrainingResult
from coralx.search import selection


class RunningFront:
    """Of the results added so far, whatever their order, what nothing dominates; of several such
    results of one genome the last stage's. The earlier result that it so replaces still excludes
    what it dominates: a genome can be absent although no member dominates it, and with more results
    the front's hypervolume can shrink; that of its points cannot.

    Args:
        names: of the objectives.
        full_from: as of `selection.points`.
        measured: whether all objectives of a result are known. What has P1 alone counts only until
            there is one of which it is so.
    """

    def __init__(
        self, names: Sequence[str], full_from: int, measured: Callable[[TrainingResult], bool]
    ) -> None:
        self._names, self._full_from, self._measured = names, full_from, measured
        self._points: list[TrainingResult] = []
        self._fresh: list[TrainingResult] = []  # added since the points were taken
        self._front: list[TrainingResult] = []

    def add(self, result: TrainingResult) -> None:
        if result.stopped is None:
            self._fresh.append(result)

    def members(self) -> list[TrainingResult]:
        """In order of genome id."""
        self._catch_up()
        return list(self._front)

    def points(self) -> list[TrainingResult]:
        """All that is or may come to be on the front: the last result of a genome can turn out
        to be dominated while an earlier one is not."""
        self._catch_up()
        return list(self._points)

    def _catch_up(self) -> None:
        if not self._fresh:
            return
        known = [*self._points, *self._fresh]  # what is dominated stays so
        whole = [result for result in known if self._measured(result)]
        self._points = selection.points(whole or known, self._names, self._full_from)
        self._front = selection.latest(self._points)
        self._fresh = []
