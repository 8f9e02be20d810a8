"""How every checkpoint of a run came about, and so how to make it again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from coralx.errors import StoreError
from coralx.records import Job, TrainingResult
from coralx.store import History


@dataclass(frozen=True)
class TrainedPack:
    """Genomes that trained together for a stage: the job as it was trained and what it left.

    To train the same bits again a whole pack must be trained again: on a CPU, too, the size of a
    matrix product decides in which order it adds up.
    """

    job: Job
    results: tuple[TrainingResult, ...]

    @property
    def sources(self) -> set[str]:
        """Checkpoints that it starts from."""
        return {name for start in self.job.starts for name in start.sources}

    @property
    def made(self) -> set[str]:
        """Checkpoints that it left."""
        return {result.checkpoint for result in self.results if result.checkpoint}


def trained_packs(history: History) -> list[TrainedPack]:
    """A run's training, pack by pack, in the order of its journal."""
    jobs = {job.id: job for job in history.jobs}
    parts: dict[tuple[str, tuple[str, ...] | None], list[TrainingResult]] = {}
    for result in history.results:
        parts.setdefault((result.job, result.pack), []).append(result)
    return [
        TrainedPack(jobs[name].part(pack) if pack else jobs[name], tuple(results))
        for (name, pack), results in parts.items()
        if name in jobs
    ]


def packs_to(history: History, checkpoint: str, whole: Callable[[str], bool]) -> list[TrainedPack]:
    """The packs that make a checkpoint again, in order.

    Args:
        whole: whether a checkpoint is there and good, so that its own making is left out.

    Raises:
        StoreError: the journal does not say how it came about.
    """
    wanted, found = {checkpoint}, []
    for pack in reversed(trained_packs(history)):
        if pack.made & wanted:
            found.append(pack)
            wanted = (wanted - pack.made) | {s for s in pack.sources if not whole(s)}
    if wanted:
        raise StoreError(
            f"the journal does not say how {', '.join(sorted(wanted))} came about, so it "
            "cannot be trained again; restore the journal or the checkpoint from a backup"
        )
    return found[::-1]
