"""Which checkpoints may go, so that the disk of a long run stays bounded.

What a stage, a child or the front may still need is counted by the search
(`Search.references`) and never removed. The rest stays, newest first, within the bound of
`storage.checkpoints_gb`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from coralx.checkpoint_files import SUFFIX, WRITING, checkpoint_path, is_checkpoint_id
from coralx.records import TrainingResult
from coralx.search.asktell import Search


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
        self._told = 0  # results whose checkpoints have been looked at
        self._sizes: dict[str, int] = {}  # of those that are on disk
        self._warned = False

    def tidy(self, evolution: Search) -> None:
        """Remove what may go, if the stage has changed since the last call."""
        place = (evolution.generation, evolution.stage_index)
        if place == self._place and not evolution.finished:
            return
        if self._place is None or place[0] != self._place[0] or evolution.finished:
            self._sizes = dict(measure(self._folder))  # a repair can bring back what was removed
        self._place = place
        needed = evolution.references()
        self._look(evolution.results[self._told :])
        self._told = len(evolution.results)
        known = [result.checkpoint for result in evolution.results if result.checkpoint]
        for name in removable(self._sizes, needed, known, self._limit):
            _remove(self._folder, name)
            del self._sizes[name]
        self._warn(sum(size for name, size in self._sizes.items() if name in needed))

    def _look(self, results: Iterable[TrainingResult]) -> None:
        """Add what they left. The whole folder is gone through once a generation, and at the end:
        under ASHA the stage changes with nearly every job."""
        for result in results:
            name = result.checkpoint
            if name and (path := checkpoint_path(self._folder, name)).is_file():
                self._sizes[name] = path.stat().st_size

    def _warn(self, needed: float) -> None:
        if needed > self._limit > 0 and not self._warned:
            self._warned = True
            self._say(
                f"the checkpoints that are still needed take {needed / 1e9:.2f} GB, more than "
                f"storage.checkpoints_gb = {self._limit / 1e9:g}; they are kept"
            )


def drop_orphans(folder: Path, known: Collection[str]) -> None:
    """Remove all but what is known: left by a process that was killed before a record could
    name it, or on the way to an export. Only while nothing trains. Where the folder is a link,
    other runs may keep theirs behind it, too: there what is not known stays."""
    if folder.is_symlink():
        return
    for name, _ in measure(folder):
        if name not in known:
            _remove(folder, name)
    for path in _own_files(folder, WRITING):
        if is_checkpoint_id(_name(path, WRITING)):
            path.unlink(missing_ok=True)
    for path in folder.glob("*/"):
        with contextlib.suppress(OSError):  # not empty, or a link
            path.rmdir()


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
    used = sum(size for name, size in sizes.items() if name in needed)
    gone = []
    for name in reversed(dict.fromkeys(known)):
        if name not in sizes or name in needed:
            continue
        if used + sizes[name] > limit:
            gone.append(name)
        else:
            used += sizes[name]
    return gone


def measure(folder: Path) -> Iterator[tuple[str, int]]:
    """Id and bytes of every checkpoint in a folder. What has another name is no checkpoint."""
    for path in filter(Path.is_file, _own_files(folder, SUFFIX)):
        name = _name(path, SUFFIX)
        with contextlib.suppress(FileNotFoundError):
            if is_checkpoint_id(name):
                yield name, path.stat().st_size


def _remove(folder: Path, name: str) -> None:
    """Remove a checkpoint, and with a genome's last its folder. Nothing is being written there:
    what a genome at work goes on from stays, and its first is known to nobody yet. What lies
    behind a link there is not the run's."""
    path = checkpoint_path(folder, name)
    if path.parent.is_symlink():
        return
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty
        path.parent.rmdir()


def _own_files(folder: Path, suffix: str) -> Iterator[Path]:
    """The files of the folders in a folder, but for those that are links: they lead to others'."""
    for part in sorted(folder.glob("*/")):
        if not part.is_symlink():
            yield from sorted(part.glob(f"*{suffix}"))


def _name(path: Path, suffix: str) -> str:
    """The id of the checkpoint that a file holds, or is to hold."""
    return f"{path.parent.name}/{path.name.removesuffix(suffix)}"
