"""The front of all that was told, kept up to date without ranking everything anew each time."""

from __future__ import annotations

from collections.abc import Sequence

from coralx.records import TrainingResult
from coralx.search import selection


class RunningFront:
    """`selection.front` of the results added so far, whatever their order.

    What is dominated stays so, but for one case: a genome on the front gets a result of a higher
    stage, and those that its former one alone dominated return. Then all are compared again.

    Args:
        names: of the objectives.
        full_from: as of `selection.front`.
    """

    def __init__(self, names: Sequence[str], full_from: int) -> None:
        self._names, self._full_from = names, full_from
        self._last: dict[str, TrainingResult] = {}  # by genome id, stopped ones among them
        self._front: list[TrainingResult] = []
        self._fresh: list[TrainingResult] = []  # added since the front was taken
        self._counted: set[str] = set()  # genome ids of both

    def add(self, result: TrainingResult) -> None:
        name = result.genome.id
        before = self._last.get(name)
        if before is not None and before.stage_index > result.stage_index:
            return
        self._last[name] = result
        if name in self._counted:
            self._front, self._fresh = [], list(self._last.values())
            self._counted = set(self._last)
        else:
            self._fresh.append(result)
            self._counted.add(name)

    def members(self) -> list[TrainingResult]:
        """Best first."""
        if self._fresh:
            known = [*self._front, *self._fresh]
            self._front = selection.front(known, self._names, self._full_from)
            self._fresh, self._counted = [], {result.genome.id for result in self._front}
        return list(self._front)
