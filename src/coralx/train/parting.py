"""A pack that cannot go on together is parted: for lack of memory in halves, and from a genome
that broke down.

The others of a broken genome begin the stage anew without it. To leave its place empty would be
cheaper, but then the size of the pack, on which the last bits of a matrix product depend, would be
another than that of a pack in which it never was.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Sequence

import torch

from coralx.records import Cost, Job, Stop, TrainingResult
from coralx.train.member import Member
from coralx.train.outcome import Clock, add_lost, cost_of

# What torch, CUDA's libraries and the system say for want of memory in a plain RuntimeError.
_SHORTAGE = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "alloc_failed",
)
# All that oneDNN says where it finds no memory; what it cannot compute has a longer message.
_ONEDNN_SHORTAGE = ("could not create a primitive", "could not execute a primitive")


class BrokenDown(Exception):
    """A genome of a pack has broken down, so the pack stops; which one, its member says."""


# Trains a job's genomes together; gives their results or, as soon as one breaks down, only those
# of the broken. It puts its members into the list, so that what an attempt that fails has cost is
# known.
Attempt = Callable[[Job, list[Member]], Sequence[TrainingResult]]


def train_parted(job: Job, attempt: Attempt) -> list[TrainingResult]:
    """The results of all of a job's genomes, trained in as few parts as it takes.

    A genome that runs out of memory on its own is stopped with that reason. What attempts had cost
    that ran out of it is added to the next result.
    """
    done: dict[str, TrainingResult] = {}
    waiting, lost = [job], _Lost()
    while waiting:
        part = waiting.pop(0)
        shortage, results = _try(part, attempt, lost)
        if shortage and len(part.genomes) > 1:
            ids = [genome.id for genome in part.genomes]
            half = len(ids) // 2
            waiting[:0] = [part.part(ids[:half]), part.part(ids[half:])]
            continue
        results = lost.charge([_stop(part, shortage)] if shortage else results)
        pack = None if part is job else tuple(genome.id for genome in part.genomes)
        done |= {r.genome.id: r.model_copy(update={"pack": pack}) for r in results}
        left = [genome.id for genome in part.genomes if genome.id not in done]
        if left:
            waiting.insert(0, part.part(left))
    return [done[genome.id] for genome in job.genomes]


def is_shortage(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory, of the CPU or of a device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    says_so = any(words in text for words in _SHORTAGE) or text.strip() in _ONEDNN_SHORTAGE
    return isinstance(error, RuntimeError) and says_so


class _Lost:
    """What attempts had cost that ran out of memory, until a result is charged with it."""

    def __init__(self) -> None:
        self._costs: list[Cost] = []
        self._seconds = 0.0

    def add(self, members: Sequence[Member], seconds: float) -> None:
        """An attempt's; `seconds` it took, also where it came to no members."""
        self._costs += [Cost(), *(cost_of(member) for member in members)]
        self._seconds += seconds

    def charge(self, results: Sequence[TrainingResult]) -> list[TrainingResult]:
        """The results, the first with all that was lost before it."""
        first, *others = results
        seconds = first.cost.train_seconds + first.cost.eval_seconds + self._seconds
        cost = add_lost(first.cost, self._costs, seconds)
        self._costs, self._seconds = [], 0.0
        return [first.model_copy(update={"cost": cost}), *others]


def _try(part: Job, attempt: Attempt, lost: _Lost) -> tuple[str, Sequence[TrainingResult]]:
    """What the attempt gives, or the first line of what it says for want of memory."""
    members: list[Member] = []
    clock = Clock()
    try:
        return "", attempt(part, members)
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        said = (str(error) or type(error).__name__).splitlines()[0][:200]
    lost.add(members, clock.seconds())
    members.clear()
    # The error's traceback held on to the tensors; now that it is gone they can go.
    gc.collect()
    if torch.cuda.is_available():
        # Torch refuses after a recording that failed: see graphs.py.
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()
    return said, ()


def _stop(part: Job, said: str) -> TrainingResult:
    reason = (
        f"out of memory in {part.stage.name}, trained alone: {said}; lower training.batch_size, "
        "data.max_tokens or the largest rank of the space"
    )
    stop = Stop(gate="out_of_memory", value=None, limit=None, reason=reason)
    return part.result(0, stopped=stop)
