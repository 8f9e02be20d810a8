"""Platt scaling: probabilities that mean what they say, by two numbers fitted on held-out rows.

A classifier trained to the end is over-confident; p = sigmoid(scale x logit + shift) with both
fitted to rows it did not train on puts that right (Platt 1999; temperature scaling, Guo et al.
2017, arXiv:1706.04599, is the case without a shift). The order of the rows stays, so no other
objective moves, and an export folds both into its classification layer: they cost nothing to serve.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgWarning
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

from coralx.steps import LEAST_SCALED
from coralx.train.objectives import Floats

FOLDS = 5
LEAST, MOST = 1e-3, 1e3  # of the scale: beyond, rounding could make ties of different scores
PENALTY = 1e-6  # next to none; without any, a fit to rows alike may be singular
TOL = 1e-8
MOST_LOGIT = 700.0  # that exp of doubles bears
SURE = 1e-15  # from 0 or 1: beyond, a probability's logit is lost to rounding


@dataclass(frozen=True)
class Scaling:
    """Of logits: `scale` > 0, `shift`. The default leaves them as they are."""

    scale: float = 1.0
    shift: float = 0.0

    @classmethod
    def of(cls, details: Mapping[str, float]) -> Scaling:
        """That of a recorded result."""
        return cls(details.get("logit_scale", 1.0), details.get("logit_shift", 0.0))

    @property
    def details(self) -> dict[str, float]:
        """As results keep it."""
        return {"logit_scale": self.scale, "logit_shift": self.shift}

    def apply(self, scores: Floats) -> Floats:
        """Probabilities of any shape, NaN left as it is."""
        if self == Scaling():
            return scores
        return probabilities_of(self.scale * logits_of(scores) + self.shift)

    def fold(self, extra: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A genome's weights beside the adapters with the scaling in its classification layer."""
        folded = dict(extra)
        folded["head.weight"] = extra["head.weight"] * self.scale
        if "head.bias" in extra:
            folded["head.bias"] = extra["head.bias"] * self.scale + self.shift
        return folded


def fit_scaling(scores: Floats, labels: NDArray[np.int8], shift: bool) -> Scaling:
    """The scaling of largest likelihood under Platt's smoothed targets, which keep it finite where
    the scores part the classes without error.

    Args:
        scores, labels: (N,), all of them numbers.
        shift: whether the classification layer has a bias to hold one.

    Returns:
        No scaling where there is nothing to fit: fewer than LEAST_SCALED rows of a class (fitted to
        a handful, it would say how these few rows fell, and be exported as if it were known), or
        scores that do not rise with the label.
    """
    return _fit(scores, labels, shift) if _enough(labels) else Scaling()


def _enough(labels: NDArray[np.int8]) -> bool:
    """Rows of the rarer class for one slope: Peduzzi et al. 1996."""
    return min(int((labels == 1).sum()), int((labels == 0).sum())) >= LEAST_SCALED


def _fit(scores: Floats, labels: NDArray[np.int8], shift: bool) -> Scaling:
    unsafe, safe = int((labels == 1).sum()), int((labels == 0).sum())
    logits = logits_of(scores)
    width = float(logits.std())
    if width == 0:
        return Scaling()
    target = np.where(labels == 1, (unsafe + 1) / (unsafe + 2), 1 / (safe + 2))
    # A row of target t is a row of either class, of weights t and 1 - t.
    rows = np.tile(logits / width, 2)[:, None]
    classes = np.repeat([1, 0], len(labels))
    model = LogisticRegression(
        C=1 / PENALTY, fit_intercept=shift, solver="newton-cholesky", tol=TOL
    )
    with warnings.catch_warnings():  # of scores all but alike, whose scale is out of bounds
        warnings.simplefilter("ignore", LinAlgWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows, classes, np.concatenate([target, 1 - target]))
    scale = float(model.coef_[0, 0]) / width
    if not LEAST <= scale <= MOST:
        return Scaling()
    return Scaling(scale, float(model.intercept_[0]) if shift else 0.0)


def scale_held_out(scores: Floats, labels: NDArray[np.int8], shift: bool, seed: int) -> Floats:
    """Each row's probability, scaled as the rows of the other folds have it: (N,). What is
    measured of these is not measured on rows that the scaling was fitted to. As they are, where
    `fit_scaling` would not fit any."""
    if not _enough(labels):
        return scores
    scaled = scores.copy()
    parts = StratifiedKFold(FOLDS, shuffle=True, random_state=seed % 2**32)
    for others, own in parts.split(scores[:, None], labels):
        scaled[own] = _fit(scores[others], labels[others], shift).apply(scores[own])
    return scaled


def logits_of(scores: Floats) -> Floats:
    """Of probabilities, those nearer than SURE to 0 or 1 as if they were that near."""
    clipped = np.clip(scores, SURE, 1 - SURE)
    return np.log(clipped / (1 - clipped))


def probabilities_of(logits: Floats) -> Floats:
    """Sigmoid, without overflow."""
    return 1 / (1 + np.exp(-np.clip(logits, -MOST_LOGIT, MOST_LOGIT)))
