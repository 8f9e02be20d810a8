"""The score from which an exported adapter calls a row unsafe.

The limit that 90% recall is measured at is one row's score. Computed again, in another batch or
another number format, that score differs in its last digits, and the row would be lost at random:
what is exported lies below it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coralx.train.objectives import Floats, threshold_at_recall
from coralx.train.scaling import logits_of, probabilities_of

SERVED = "served_threshold"  # among a result's details
SAME = "same_logit"  # likewise
# How far a logit moves when it is computed again, in deviations of all logits, by the format of the
# frozen products. Measured: 1e-5 at most from batch to batch; from bfloat16 to float32, of 22
# adapters, 0.002 to 0.007 in the root mean square (0.05 at most, of some row or other).
ROUNDING = {"float32": 1e-4, "bfloat16": 0.02}


def find_threshold(scores: Floats, labels: NDArray[np.int8], rounding: float) -> float:
    """Midway, in logits, between the limit of 90% recall and the next score that is lower by more
    than rounding, and never nearer to the limit than that.

    Args:
        scores, labels: (N,), before scaling.
        rounding: as in ROUNDING.
    """
    limit = threshold_at_recall(scores, labels, np.ones((1, len(labels))))
    logits, highest = logits_of(scores), float(logits_of(limit)[0])
    rounding *= float(logits.std())
    lower = logits[logits < highest - rounding]
    below = float(lower.max()) if len(lower) else highest
    return float(probabilities_of(np.array(min((highest + below) / 2, highest - rounding))))


def share_alike(scores: Floats, rounding: float) -> float:
    """Share of probabilities (N,) whose logits no more than rounding tells from their median: near
    1 of an adapter that has collapsed and says the same of nearly all rows."""
    logits = logits_of(scores)
    within = np.abs(logits - np.median(logits)) <= rounding * float(logits.std())
    return float(within.mean())
