"""`coralx reproduce`: train a genome again from its recorded lineage and compare the weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from coralx.durable import temporary_folder
from coralx.errors import CheckpointError
from coralx.runs.facts import warn_of_other_bits
from coralx.runs.folder import CHECKPOINTS
from coralx.runs.opening import find_result, say_trust, set_trust
from coralx.runs.provenance import TrainedPack, packs_to
from coralx.runs.repair import train_again
from coralx.runs.retention import drop_orphans
from coralx.store import History, read_history
from coralx.wording import plural


@dataclass(frozen=True)
class Reproduction:
    """A genome trained again: how its last checkpoint came about and whether it is the same.

    `jobs` are those of its lineage, in order: its own stages, those of the parents whose weights
    it inherited, and of all that trained in a pack with them. `difference` is the largest between
    two weights, 0.0 for identical ones and None where the run's own are no longer there.
    """

    genome: str
    stage: str
    jobs: tuple[str, ...]
    steps: int
    recorded: str
    again: str
    difference: float | None

    @property
    def identical(self) -> bool:
        """Bit for bit: an id ends in the fingerprint of the weights."""
        return self.recorded == self.again

    def describe(self) -> str:
        """The outcome in a few lines."""
        lines = [
            f"genome {self.genome}, {self.stage}: trained again in "
            f"{plural(len(self.jobs), 'job')}, {plural(self.steps, 'step')} of a genome",
            f"recorded {self.recorded}",
            f"again    {self.again}",
        ]
        if self.identical:
            lines.append("identical: every weight and optimiser moment is the same, bit for bit")
        elif self.difference is None:
            lines.append("not identical; the run's own weights are no longer there to compare")
        else:
            lines.append(f"not identical: weights differ by up to {self.difference:.3g}")
        return "\n".join(lines)


def reproduce(
    directory: Path,
    genome: str,
    say: Callable[[str], None] = lambda _: None,
    trust_remote_code: bool = False,
) -> Reproduction:
    """Train a genome of a run again from fresh weights, in a folder of its own.

    The run directory is only read.

    Args:
        genome: its id, or how that begins.
        trust_remote_code: as for `export_genome`.

    Raises:
        StoreError: the run has no such genome or several, or its journal does not say how it was
            trained.
        DataError, ModelError: the run's data or base model is no longer there.
    """
    from coralx.train.worker import Worker

    history = read_history(directory)
    target = find_result(history, directory, genome)
    set_trust(history, trust_remote_code, say)
    say_trust(history.config, say)
    recorded = target.checkpoint or ""
    packs = packs_to(history, recorded, whole=lambda _: False)
    with temporary_folder("coralx-reproduce-") as folder:
        checkpoints = folder / CHECKPOINTS
        worker = Worker(history.config, checkpoints, say)
        warn_of_other_bits(history, worker, say)
        say(_describe_lineage(history, packs))
        again, taken = "", 0
        for place, pack in enumerate(packs, start=1):
            members = ", ".join(genome.id for genome in pack.job.genomes)
            say(f"job {place} of {len(packs)}: {pack.job.id} ({members})")
            results = train_again(worker, pack)
            taken += sum(result.cost.steps for result in results)
            left = {result.genome.id: result.checkpoint or "" for result in results}
            again = left.get(target.genome.id, again)
            # The lineage of a late genome is nearly the whole run: its weights would fill disks.
            needed = {name for later in packs[place:] for name in later.sources}
            drop_orphans(checkpoints, needed | {again, recorded})
        return Reproduction(
            genome=target.genome.id,
            stage=target.stage,
            jobs=tuple(pack.job.id for pack in packs),
            steps=taken,
            recorded=recorded,
            again=again,
            difference=_compare(checkpoints, again, directory / CHECKPOINTS, recorded),
        )


def _describe_lineage(history: History, packs: Sequence[TrainedPack]) -> str:
    steps = sum(result.cost.steps for pack in packs for result in pack.results)
    whole = sum(result.cost.steps for result in history.results)
    return (
        f"to be trained again: {plural(len(packs), 'job')}, {plural(steps, 'step')} of a genome, "
        f"{steps / max(1, whole):.0%} of the run's"
    )


def _compare(folder: Path, name: str, other_folder: Path, other: str) -> float | None:
    from coralx.train.adapters import largest_difference
    from coralx.train.checkpoint import is_stand_in, load_checkpoint

    if name == other:
        return 0.0
    try:
        before = load_checkpoint(other_folder, other).weights
    except CheckpointError:
        return None
    if is_stand_in(other_folder, other):
        return None
    return largest_difference(load_checkpoint(folder, name).weights, before)
