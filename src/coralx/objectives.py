"""The objectives P1 to P6: which way each is better, how it is called and measured, its bounds."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple


class Objective(NamedTuple):
    """What is known of an objective.

    `label` stands in headings, `short` over narrow columns. `bounds` are its least and greatest
    value, where these are fixed; of one without them `least` may be known. People read values in
    `unit`s of `unit_size`. One that is not `drawn` does not depend on which rows are drawn.
    """

    direction: Literal["max", "min"]
    label: str
    short: str
    measure: str
    bounds: tuple[float, float] | None
    least: float | None = None
    unit: str = ""
    unit_size: float = 1.0
    drawn: bool = True


OBJECTIVES = {
    "task_skill": Objective(
        "max", "Task skill", "skill", "AUROC, macro-average over tasks", (0.0, 1.0)
    ),
    "safety": Objective(
        "max", "Safety", "safety", "AUROC under attack, mean over attack kinds", (0.0, 1.0)
    ),
    "false_positive_cost": Objective(
        "min", "False positives", "FPR", "false-positive rate at 90% recall", (0.0, 1.0)
    ),
    "memory": Objective(
        "min",
        "Memory",
        "MB",
        "peak memory to serve, MB",
        None,
        least=0.0,
        unit="MB",
        unit_size=1e6,
        drawn=False,
    ),
    "cross_modal_gain": Objective(
        "max",
        "Cross-modal gain",
        "x-modal",
        "AUROC with all modalities minus text alone",
        (-1.0, 1.0),
    ),
    "calibration": Objective(
        "max",
        "Calibration",
        "calib.",
        "1 − expected calibration error",  # noqa: RUF001
        (0.0, 1.0),
    ),
}

# Those of a run that names none: a further one is for those who ask for it.
DEFAULT_OBJECTIVES = (
    "task_skill",
    "safety",
    "false_positive_cost",
    "memory",
    "cross_modal_gain",
    "calibration",
)


def describe(name: str) -> Objective:
    """What is known of an objective; of a user's own its name, and that more of it is better."""
    return OBJECTIVES.get(name) or Objective("max", name, name, "", None)


def in_units(name: str, value: float) -> float:
    """A value as people read it."""
    return value / describe(name).unit_size


def minimised(name: str) -> bool:
    return describe(name).direction == "min"


def loss(name: str, value: float | None) -> float:
    """A value as a key to sort by: best first, and last what is missing or no number."""
    if value is None or math.isnan(value):
        return math.inf
    return value if minimised(name) else -value
