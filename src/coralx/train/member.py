"""One genome in training, and the plan of the stage that it is trained for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from coralx.records import CurvePoint, Genome, LoRAConfig, Stop
from coralx.train.adapters import PackedAdapters, Weights
from coralx.train.optim import Schedule
from coralx.train.resize import Moments
from coralx.train.seeds import hash_name

CURVE_POINTS = 24  # of the loss kept per stage
LONG_STAGE = 64  # steps; a shorter stage is worth neither leaving early nor annealing


@dataclass
class Member:
    """One genome in training: its weights between packs, and what has been seen of it."""

    genome: Genome
    lora_cfg: LoRAConfig
    weights: Weights
    moments: Moments
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    skills: dict[int, float] = field(default_factory=dict)  # by step of the stage
    stop: Stop | None = None
    left_early: bool = False
    tokens: int = 0
    computed_tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    eval_seconds: float = 0.0
    _best: tuple[float, Weights, Moments] | None = None
    _reached: float = -math.inf  # P1 that the next examinations must improve on
    _stale: int = 0  # examinations in a row that did not

    @property
    def going(self) -> bool:
        return self.stop is None and not self.left_early

    def examine(self, step: int, skill: float, plan: StageWork) -> None:
        """Note P1 at `step`; leave when it has not improved by more than `least_gain`
        `patience` times in a row. The best weights seen are kept whatever they gain."""
        self.skills[step] = skill
        skill = skill if math.isfinite(skill) else -math.inf
        if self._best is None or skill > self._best[0]:
            self._best = (skill, self.weights, self.moments)
        improved = skill > self._reached + plan.least_gain
        self._stale = 0 if improved else self._stale + 1
        self._reached = max(self._reached, skill) if improved else self._reached
        stale = plan.patience is not None and self._stale >= plan.patience
        self.left_early = stale and step < len(plan.batches)

    def restore_best(self) -> None:
        """Go back to the weights with the best P1 seen in this stage."""
        if self._best is not None:
            _, self.weights, self.moments = self._best

    def curve(self, before: int) -> tuple[CurvePoint, ...]:
        """Mean losses over equal spans, with the P1 seen; `before`: steps of earlier stages."""
        size = max(1, math.ceil(len(self.losses) / CURVE_POINTS))
        points: dict[int, CurvePoint] = {}
        for first in range(0, len(self.losses), size):
            part = self.losses[first : first + size]
            step = first + len(part)
            points[step] = CurvePoint(step=before + step, loss=float(np.mean(part)))
        for step, skill in self.skills.items():
            if step == 0:  # the end of the stage before has its point
                continue
            loss = self.losses[step - 1] if step <= len(self.losses) else math.nan
            known = points.get(step, CurvePoint(step=before + step, loss=loss))
            points[step] = known.model_copy(update={"auroc": skill})
        return tuple(points[step] for step in sorted(points))


@dataclass(frozen=True)
class StageWork:
    """What a pack is trained on: row indices per step, evaluation points (steps done; 0 is before
    the first). A long stage anneals, and so does the last."""

    batches: Sequence[NDArray[np.int64]]
    examine_at: Sequence[int]
    index: int
    warmup_epoch: int  # steps of one epoch, the unit of the gene `warmup`
    last: bool
    patience: int | None
    least_gain: float = 0.0

    @property
    def anneals(self) -> bool:
        """Whether learning rates fall to zero over the stage."""
        return self.last or len(self.batches) >= LONG_STAGE

    def schedule(self, member: Member, start: int) -> Schedule:
        """Learning rates of a genome that had taken `start` steps before the stage."""
        return Schedule(
            peak=member.genome.learning_rate,
            warmup=round(member.genome.warmup * self.warmup_epoch),
            decay_from=start if self.anneals else None,
            end=start + len(self.batches) if self.anneals else None,
        )


def build_pack(members: Sequence[Member], seed: int, device: torch.device) -> PackedAdapters:
    """A pack of the members as they are; `seed` is the run's."""
    return PackedAdapters(
        [member.weights for member in members],
        [member.lora_cfg.scale for member in members],
        [member.lora_cfg.dropout for member in members],
        [seed + hash_name(member.genome.id) for member in members],
        device,
    )


def empty_moments(weights: Weights) -> Moments:
    """Moments of an optimiser that has not stepped."""

    def zeros() -> Weights:
        return Weights(
            {t: (torch.zeros_like(a), torch.zeros_like(b)) for t, (a, b) in weights.lora.items()},
            {name: torch.zeros_like(value) for name, value in weights.extra.items()},
        )

    return Moments(zeros(), zeros(), 0)  # tensors of their own: none can be saved under two names
