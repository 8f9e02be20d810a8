"""Train a pack for one stage: the inner loop, and what a stage leaves behind.

A stage is cut into segments between evaluation points. Packs, one for each lane, are built of the
members that are still in, trained for a segment, taken apart again; whoever has broken down or
stopped improving is left out of the next ones.
"""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor
from torch.nn import functional

from coralx.records import Stop
from coralx.settings.sections import TrainingSettings
from coralx.train.adapters import PackedAdapters
from coralx.train.backbone import Backbone
from coralx.train.lanes import Lanes, lanes_for, share_out
from coralx.train.member import Member, StageWork, build_pack
from coralx.train.network import score
from coralx.train.optim import PackOptimizer, Schedule
from coralx.train.prefix import EncodedRows
from coralx.train.resize import Moments

STEP_SPAN = 1_000_000  # dropout streams: steps that a stage may have

# Measures P1 of each genome of a pack, without gradients: (pack, entries) -> (K,).
Examine = Callable[[PackedAdapters, Sequence[int]], Sequence[float]]


class StageTrainer:
    """Trains members in packs on one copy of the base.

    Args:
        labels: (rows,) 0.0 or 1.0 of the training rows.
    """

    def __init__(
        self,
        backbone: Backbone,
        rows: EncodedRows,
        labels: Tensor,
        settings: TrainingSettings,
        seed: int,
    ) -> None:
        self._backbone, self._rows, self._labels = backbone, rows, labels
        self._settings, self._seed = settings, seed

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
        starts = [member.moments.step for member in members]
        self._prepare(members)
        if 0 in plan.examine_at:
            self._examine(members, 0, plan, examine)
        for first, stop in segments(len(plan.batches), plan.examine_at):
            going = [(m, start) for m, start in zip(members, starts, strict=True) if m.going]
            if not going:
                break
            active = [member for member, _ in going]
            schedules = [plan.schedule(m, start) for m, start in going]
            self._run_segment(active, schedules, plan, range(first, stop), observe)
            if stop in plan.examine_at:
                self._examine(active, stop, plan, examine)
        for member in members:
            if member.left_early:
                member.restore_best()

    def _prepare(self, members: Sequence[Member]) -> None:
        """Compute what the rows' frozen prefixes still lack; the first to need one pays for it."""
        began = time.perf_counter()
        for entry in sorted({member.entry for member in members}):
            self._rows.prepare(entry)
        for member in members:
            member.seconds += (time.perf_counter() - began) / len(members)

    def _run_segment(
        self,
        members: Sequence[Member],
        schedules: Sequence[Schedule],
        plan: StageWork,
        steps: range,
        observe: Callable[[int, int], None],
    ) -> None:
        """Train the members side by side, some in each lane."""
        began = time.perf_counter()
        done = itertools.count(steps.start + 1)
        count = lanes_for(len(members), self._backbone.device)
        lanes = Lanes(count, lambda: observe(next(done), sum(m.going for m in members)))
        tasks = [
            functools.partial(
                self._run_pack,
                [members[k] for k in part],
                [schedules[k] for k in part],
                plan,
                steps,
                lanes.meet,
            )
            for part in share_out([self._effort(member) for member in members], count)
        ]
        lanes.run(tasks)
        for member in members:
            member.seconds += (time.perf_counter() - began) / len(members)

    def _run_pack(
        self,
        members: Sequence[Member],
        schedules: Sequence[Schedule],
        plan: StageWork,
        steps: range,
        meet: Callable[[], None],
    ) -> None:
        pack = build_pack(members, self._seed, self._backbone.device)
        optimizer = PackOptimizer(
            pack,
            schedules,
            [member.genome.weight_decay for member in members],
            [member.moments.step for member in members],
        )
        for k, member in enumerate(members):
            pack.put(k, member.moments.first, optimizer.first)
            pack.put(k, member.moments.second, optimizer.second)
        pack.training = True
        for step in steps:
            if any(member.going for member in members):  # else the other lanes step alone
                positions = [member.moments.step + step - steps.start for member in members]
                self._step(pack, optimizer, members, plan, step, positions)
            meet()
        for k, member in enumerate(members):
            moments = Moments(
                pack.take(k, member.weights, optimizer.first),
                pack.take(k, member.weights, optimizer.second),
                optimizer.count(k),
            )
            member.weights, member.moments = pack.take(k, member.weights), moments

    def _effort(self, member: Member) -> float:
        """About what a step of a genome takes, in linear layers: the frozen ones it passes and its
        adapters."""
        blocks = self._backbone.linears[member.entry :]
        return sum(len(block) for block in blocks) + len(member.weights.lora)

    def _step(
        self,
        pack: PackedAdapters,
        optimizer: PackOptimizer,
        members: Sequence[Member],
        plan: StageWork,
        step: int,
        positions: Sequence[int],
    ) -> None:
        """Forward, backward, clip, update: each genome on its own loss, all at once."""
        chosen = plan.batches[step]
        entries = [member.entry for member in members]
        batch = self._rows.batch(chosen)
        pack.begin_step(plan.index * STEP_SPAN + step)
        logits = score(self._backbone, pack, entries, batch)
        targets = self._labels[chosen].expand_as(logits)
        losses = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        losses = losses.mean(dim=1)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        norms = optimizer.clip(self._settings.clip_norm)
        for member, loss, norm in zip(members, losses.tolist(), norms.tolist(), strict=True):
            _note_step(member, loss, norm, step)
        optimizer.step(positions, [member.going for member in members])
        slots = 0 if batch.images is None else batch.images.shape[1]
        tokens, pictures = self._rows.count(chosen)
        useful = tokens + pictures * slots
        computed = batch.mask.numel() + slots * len(batch.mask)
        passed = len(chosen), computed, slots > 0
        for member in members:
            if member.going:
                member.tokens += useful
                member.computed_tokens += computed
                member.flops += self._backbone.training_flops(member.weights, member.entry, *passed)

    def _examine(
        self, members: Sequence[Member], step: int, plan: StageWork, examine: Examine
    ) -> None:
        going = [member for member in members if member.going]
        if not going:
            return
        began = time.perf_counter()
        pack = build_pack(going, self._seed, self._backbone.device)
        skills = examine(pack, [member.entry for member in going])
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


def _note_step(member: Member, loss: float, norm: float, step: int) -> None:
    """Keep the figures; stop a genome whose loss or gradient is no number."""
    if not member.going:
        return
    for what, value in (("loss", loss), ("gradient norm", norm)):
        if not math.isfinite(value):
            reason = f"{what} became {value} at step {step + 1} of the stage"
            member.stop = Stop(gate="non_finite", value=value, limit=None, reason=reason)
            return
    member.losses.append(loss)
    member.norms.append(norm)
