"""Missing and damaged checkpoints are trained again from the last good ancestor, never used."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from coralx.errors import CheckpointError, StoreError
from coralx.records import Progress, Repair, TrainingResult
from coralx.runs.provenance import TrainedPack, packs_to
from coralx.store import Store, read_history
from coralx.wording import listed

if TYPE_CHECKING:
    from coralx.train.worker import Worker

T = TypeVar("T")


class Mender:
    """Does things that load checkpoints, and mends those that turn out to be no good.

    Args:
        store: where repairs are recorded; None leaves no record (a run that is only read).
        say: told what is damaged and what it takes.
        observe: told how far training is, after each step.
    """

    def __init__(
        self,
        directory: Path,
        worker: Worker,
        store: Store | None = None,
        say: Callable[[str], None] = lambda _: None,
        observe: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self._directory, self._worker, self._store = directory, worker, store
        self._say, self._observe = say, observe
        self._mended: set[str] = set()

    def heal(self, action: Callable[[], T]) -> T:
        """What the action gives, after as many repairs as it takes.

        Raises:
            StoreError: a checkpoint cannot be mended.
        """
        met: set[str] = set()
        while True:
            try:
                return action()
            except CheckpointError as damage:
                name = damage.checkpoint
                # What began before a repair may have met the same damage.
                if name in met or name not in self._mended or not self._is_whole(name):
                    self.mend(damage)
                met.add(name)

    def mend(self, damage: CheckpointError) -> None:
        """Train the checkpoint again and put it in its place."""
        name = damage.checkpoint
        if name in self._mended:
            raise StoreError(
                f"checkpoint {name} was trained again and still: {damage.reason}; check the disk"
            ) from None
        self._mended.add(name)
        began = time.monotonic()
        packs = packs_to(read_history(self._directory), name, self._is_whole)
        self._say(
            f"warning: checkpoint {name}: {damage.reason}; training it again from the last good "
            f"ancestors: {listed([pack.job.id for pack in packs])}"
        )
        identical, taken = True, 0
        for pack in packs:
            again = train_again(self._worker, pack, self._observe)
            identical = identical and pack.made == {r.checkpoint for r in again if r.checkpoint}
            taken += sum(result.cost.steps for result in again)
        if not identical:
            self._say(f"warning: checkpoint {name}: trained again, but not to the same bits")
        repair = Repair(
            checkpoint=name,
            reason=damage.reason,
            jobs=tuple(pack.job.id for pack in packs),
            steps=taken,
            seconds=time.monotonic() - began,
            identical=identical,
        )
        if self._store is not None:
            self._store.append("repaired", repair)

    def _is_whole(self, name: str) -> bool:
        return checkpoint_is_whole(self._worker.bench.checkpoints, name)


def train_again(
    worker: Worker, pack: TrainedPack, observe: Callable[[Progress], None] = lambda _: None
) -> list[TrainingResult]:
    """Train a recorded pack once more; later packs find what it leaves under the old ids. Of a
    genome whose recorded weights are still there they stay: its figures are of these.

    Raises:
        StoreError: a genome that left weights then, which are lost, leaves none now.
    """
    from coralx.train.checkpoint import load_checkpoint, save_checkpoint

    folder = worker.bench.checkpoints
    results = {result.genome.id: result for result in worker.train(pack.job, observe)}
    for before in pack.results:
        again = results[before.genome.id]
        if before.checkpoint is None or again.checkpoint == before.checkpoint:
            continue
        if checkpoint_is_whole(folder, before.checkpoint):
            continue
        if again.checkpoint is None:
            reason = again.stopped.reason if again.stopped else "it left no weights"
            raise StoreError(
                f"checkpoint {before.checkpoint} cannot be trained again: {reason}; restore it "
                "from a backup"
            )
        stand_in = load_checkpoint(folder, again.checkpoint)
        save_checkpoint(folder, stand_in, stands_for=before.checkpoint)
    return [results[before.genome.id] for before in pack.results]


def checkpoint_is_whole(folder: Path, name: str) -> bool:
    """Whether a checkpoint is there, undamaged."""
    from coralx.train.checkpoint import load_checkpoint

    try:
        load_checkpoint(folder, name)
    except CheckpointError:
        return False
    return True
