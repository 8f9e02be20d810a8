"""Some genomes of a stage in training together: their pack, its optimiser, and the account of what
they see and cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from coralx.records import Stop
from coralx.settings.sections import TrainingSettings
from coralx.train.backbone import Backbone
from coralx.train.graphs import Recorder, Step
from coralx.train.member import Member, StageWork, build_pack
from coralx.train.optim import PackOptimizer
from coralx.train.pack_step import PackStep
from coralx.train.prefix import EncodedRows
from coralx.train.resize import Moments
from coralx.train.transfer import Reading, send

STEP_SPAN = 1_000_000  # dropout streams: steps that a stage may have


@dataclass(frozen=True)
class Ground:
    """What all packs of a run are trained on.

    labels: (rows,) 0.0 or 1.0 of the training rows; seed: the run's; recorder: None where steps
    are not recorded.
    """

    backbone: Backbone
    rows: EncodedRows
    labels: Tensor
    settings: TrainingSettings
    seed: int
    recorder: Recorder | None = None


@dataclass(frozen=True)
class Seen:
    """What one genome meets in a step: `rows`, `useful` and `computed` tokens (of texts and
    pictures), and whether any row has a picture."""

    rows: int
    useful: int
    computed: int
    pictured: bool


class PackRun:
    """Members trained side by side, from the weights that they have when it is made.

    Args:
        first: the step of the stage that comes next.
    """

    def __init__(
        self,
        ground: Ground,
        members: Sequence[Member],
        plan: StageWork,
        first: int,
    ) -> None:
        self.members = list(members)
        self._ground = ground
        self._plan = plan
        self._unread: list[tuple[int, Reading, Seen]] = []
        self._pack = build_pack(members, ground.seed, ground.backbone.device)
        self._optimizer = PackOptimizer(
            self._pack,
            [plan.schedule(member, member.moments.step - first) for member in members],
            [member.genome.weight_decay for member in members],
            [member.moments.step for member in members],
        )
        for k, member in enumerate(members):
            self._pack.put(k, member.moments.first, self._optimizer.first)
            self._pack.put(k, member.moments.second, self._optimizer.second)
        self._pack.training = True
        clip = ground.settings.clip_norm
        step = PackStep(ground.backbone, self._pack, self._optimizer, clip)
        recorder = ground.recorder
        entries = self._pack.entries
        self._take_step: Step = step if recorder is None else recorder.wrap(step, entries)

    def run(self, steps: range, meet: Callable[[], None]) -> None:
        """Train for steps of the stage and leave weights and moments in the members.

        Args:
            meet: called after each step.
        """
        for step in steps:
            if any(member.going for member in self.members):  # else the other lanes step alone
                self._step(step, step == steps[-1])
            meet()
        for k, member in enumerate(self.members):
            moments = Moments(
                self._pack.take(k, member.weights, self._optimizer.first),
                self._pack.take(k, member.weights, self._optimizer.second),
                self._optimizer.count(k),
            )
            member.weights, member.moments = self._pack.take(k, member.weights), moments

    def _step(self, step: int, last: bool) -> None:
        chosen = self._plan.batches[step]
        batch = self._ground.rows.batch(chosen)
        self._pack.begin_step(self._plan.index * STEP_SPAN + step)
        self._optimizer.begin_step()
        targets = self._ground.labels[send(np.asarray(chosen), self._ground.labels.device)]
        found = Reading(self._take_step(batch, targets))
        seen = Seen(len(chosen), *self._ground.rows.count(chosen, batch), batch.images is not None)
        self._unread.append((step, found, seen))
        # A GPU is given its next step before the last one's figures are waited for.
        behind = int(targets.is_cuda and not last)
        while len(self._unread) > behind:
            self._note(*self._unread.pop(0))

    def _note(self, step: int, found: Reading, seen: Seen) -> None:
        """Keep the figures of a step and what it cost, of all that did not break down in it."""
        passed = seen.rows, seen.computed, seen.pictured
        for member, loss, norm in zip(self.members, *found.tolist(), strict=True):
            _note_step(member, loss, norm, step)
            if member.going:
                member.tokens += seen.useful
                member.computed_tokens += seen.computed
                flops = self._ground.backbone.training_flops(member.weights, *passed)
                member.flops += flops


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
