"""Which checkpoints may go, so that the disk of a long run stays bounded.

What a stage, a child or the front may still need is counted by the search
(`Search.references`) and never removed. The rest stays, newest first, within the bound of
`storage.checkpoints_gb`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from coralx.search.asktell import Search

SUFFIX = ".safetensors"
WRITING = ".writing"


class Retention:
    """Sweeps a run's checkpoint folder whenever results of another stage come in.

    What jobs under way read is referred to, and what they write is not yet known: both stay.

    Args:
        say: told once if what is needed is more than the bound.
    """

    def __init__(
        self, folder: Path, gigabytes: float, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self._folder, self._limit, self._say = folder, gigabytes * 1e9, say
        self._place: tuple[int, int] | None = None
        self._warned = False

    def tidy(self, evolution: Search) -> None:
        """Remove what may go, if the stage has changed since the last call."""
        place = (evolution.generation, evolution.stage_index)
        if place == self._place and not evolution.finished:
            return
        self._place = place
        needed = evolution.references()
        known = [result.checkpoint for result in evolution.results if result.checkpoint]
        sizes = dict(measure(self._folder))
        for name in removable(sizes, needed, known, self._limit):
            (self._folder / f"{name}{SUFFIX}").unlink(missing_ok=True)
        self._warn(sum(size for name, size in sizes.items() if name in needed))

    def drop_orphans(self, known: Iterable[str]) -> None:
        """Remove all but what is known: left by a process that was killed before a record could
        name it, or on the way to an export. Only while nothing trains."""
        wanted = set(known)
        for name, _ in measure(self._folder):
            if name not in wanted:
                (self._folder / f"{name}{SUFFIX}").unlink(missing_ok=True)
        for path in self._folder.glob(f"*/*{WRITING}"):
            path.unlink(missing_ok=True)
        for path in self._folder.glob("*/"):
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()

    def _warn(self, needed: float) -> None:
        if needed > self._limit > 0 and not self._warned:
            self._warned = True
            self._say(
                f"the checkpoints that are still needed take {needed / 1e9:.2f} GB, more than "
                f"storage.checkpoints_gb = {self._limit / 1e9:g}; they are kept"
            )


def removable(
    sizes: Mapping[str, int], needed: Collection[str], known: Sequence[str], limit: float
) -> list[str]:
    """The checkpoints to remove.

    Args:
        sizes: bytes of each one on disk. One that is not `known` is being written: it stays.
        needed: those that must stay, whatever they take.
        known: all that are recorded, oldest first; the newest are kept while all together take
            no more than `limit` bytes.
    """
    used: float = sum(size for name, size in sizes.items() if name in needed)
    gone = []
    for name in reversed(dict.fromkeys(known)):
        if name not in sizes or name in needed:
            continue
        used += sizes[name]
        if used > limit:
            used -= sizes[name]
            gone.append(name)
    return gone


def measure(folder: Path) -> Iterator[tuple[str, int]]:
    """Id and bytes of every checkpoint in a folder."""
    for path in filter(Path.is_file, sorted(folder.glob(f"*/*{SUFFIX}"))):
        with contextlib.suppress(FileNotFoundError):
            yield f"{path.parent.name}/{path.name.removesuffix(SUFFIX)}", path.stat().st_size
