"""The arithmetic of steps, one for planning and training.

A step is one optimiser step of one genome on one batch. Budgets are counted unrounded; a genome
trains whole steps of each stage.
"""

from __future__ import annotations

import math
from fractions import Fraction

from coralx.records import TrainingStage

# Steps of a stage without which what a gate looks at is not measured. The median norm of one or two
# batches says more of the batches than of the genome: children of trained parents, whose rare
# errors are large, were stopped by it. Of fewer losses a slope says nothing.
LEAST_NORMS = 3
LEAST_LOSSES = 8
# Rows of a class without which probabilities are not scaled to validation rows.
LEAST_SCALED = 10
_NOISE = 1e-9  # of a product in floats: 0.1 x 30 is three steps, not four


def count_batches(rows: int, batch_size: int) -> int:
    """Batches of so many rows; the last may be smaller."""
    return math.ceil(rows / batch_size)


def stage_steps(stage: TrainingStage, steps_per_epoch: float) -> Fraction:
    """Unrounded steps of one genome: epoch_budget x data_percentage / 100 x steps_per_epoch.

    `steps_per_epoch` counts the batches of all training rows.
    """
    share = exact(stage.data_percentage) / 100
    return exact(stage.epoch_budget) * share * exact(steps_per_epoch)


def whole_steps(steps: float) -> int:
    """The steps that are trained where the budget is so many."""
    return math.ceil(steps - _NOISE)


def trained_steps(stage: TrainingStage, rows: int, batch_size: int) -> int:
    """The steps of a genome that stays to a stage's end, of the `rows` of the stage's subset."""
    return whole_steps(stage.epoch_budget * count_batches(rows, batch_size))


def exact(number: float) -> Fraction:
    """The number as written in decimals: 0.1 is 1/10, not its nearest binary fraction."""
    return Fraction(str(number))
