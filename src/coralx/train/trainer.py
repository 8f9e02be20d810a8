"""Train genomes for one stage: what is cut where, who trains beside whom, and what a stage leaves
behind.

A stage is cut into segments between evaluation points. Whoever has broken down or stopped improving
is left out of the next ones; the others go on, in packs, one for each lane.
"""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence

from coralx.train.adapters import PackedAdapters
from coralx.train.lanes import Lanes, lanes_for, share_out
from coralx.train.member import Member, StageWork, build_pack
from coralx.train.pack_run import Ground, PackRun

# Measures P1 of each genome of a pack, without gradients: (K,).
Examine = Callable[[PackedAdapters], Sequence[float]]


class StageTrainer:
    """Trains members in packs on one copy of the base."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def train(
        self,
        members: Sequence[Member],
        plan: StageWork,
        examine: Examine,
        observe: Callable[[int, int], None],
    ) -> None:
        """Train every member for the stage; results are left in the members.

        Args:
            observe: told (steps done, members going) after each step.
        """
        self._prepare(members)
        if 0 in plan.examine_at:
            self._examine(members, 0, plan, examine)
        runs: list[PackRun] = []
        for first, stop in segments(len(plan.batches), plan.examine_at):
            going = [member for member in members if member.going]
            if not going:
                break
            if sum(len(run.members) for run in runs) != len(going):  # at first, or some have left
                runs = self._make_runs(going, plan, first)
            self._run_segment(runs, range(first, stop), observe)
            if stop in plan.examine_at:
                self._examine(going, stop, plan, examine)
        for member in members:
            if member.left_early:
                member.restore_best()

    def _prepare(self, members: Sequence[Member]) -> None:
        """Compute what the rows' frozen prefixes still lack; the first to need one pays for it."""
        began = time.perf_counter()
        for entry in sorted({member.weights.entry for member in members}):
            self._ground.rows.prepare(entry)
        for member in members:
            member.seconds += (time.perf_counter() - began) / len(members)

    def _make_runs(self, going: Sequence[Member], plan: StageWork, first: int) -> list[PackRun]:
        """One for each lane, from step `first` of the stage on."""
        began = time.perf_counter()
        efforts = [self._effort(member) for member in going]
        runs = [
            PackRun(self._ground, [going[k] for k in part], plan, first)
            for part in share_out(efforts, lanes_for(len(going), self._ground.backbone.device))
        ]
        for member in going:
            member.seconds += (time.perf_counter() - began) / len(going)
        return runs

    def _run_segment(
        self, runs: Sequence[PackRun], steps: range, observe: Callable[[int, int], None]
    ) -> None:
        """Train all for some steps, each run in a lane of its own."""
        began = time.perf_counter()
        members = [member for run in runs for member in run.members]
        done = itertools.count(steps.start + 1)
        lanes = Lanes(len(runs), lambda: observe(next(done), sum(m.going for m in members)))
        lanes.run([functools.partial(run.run, steps, lanes.meet) for run in runs])
        for member in members:
            member.seconds += (time.perf_counter() - began) / len(members)

    def _effort(self, member: Member) -> float:
        """About what a step of a genome takes, in linear layers: the frozen ones it passes and its
        adapters."""
        blocks = self._ground.backbone.linears[member.weights.entry :]
        return sum(len(block) for block in blocks) + len(member.weights.lora)

    def _examine(
        self, members: Sequence[Member], step: int, plan: StageWork, examine: Examine
    ) -> None:
        going = [member for member in members if member.going]
        if not going:
            return
        began = time.perf_counter()
        pack = build_pack(going, self._ground.seed, self._ground.backbone.device)
        skills = examine(pack)
        for member, skill in zip(going, skills, strict=True):
            member.examine(step, float(skill), plan)
            member.eval_seconds += (time.perf_counter() - began) / len(going)


def segments(steps: int, cuts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Spans between evaluation points: segments(10, [4, 8]) -> (0, 4), (4, 8), (8, 10)."""
    edges = [0, *sorted({c for c in cuts if 0 < c < steps}), steps]
    return itertools.pairwise(edges)


def examination_points(steps: int, count: int) -> list[int]:
    """`count` evenly spaced steps, the last being the end of the stage."""
    return sorted({math.ceil(steps * part / count) for part in range(1, count + 1)})
