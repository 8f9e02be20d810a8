"""P1 to P6: what is measured of a genome's scores.

Every metric takes scores (N,), labels (N,) and weights (W, N) - W = 1 row of ones for the plain
value, W bootstrap resamples for its interval - and gives (W,). One implementation, both uses.
A score that is not a number makes every metric NaN, which the gates stop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coralx.records import Interval

Floats = NDArray[np.float64]
RECALL = 0.9
BINS = 15
BLOCK = 50  # resamples


def auroc(scores: Floats, labels: NDArray[np.int8], weights: Floats) -> Floats:
    """Area under the ROC curve; ties count half (Mann-Whitney U). NaN without both classes."""
    if np.isnan(scores).any():
        return np.full(len(weights), np.nan)
    _, group = np.unique(scores, return_inverse=True)
    size = int(group.max()) + 1 if len(group) else 0
    positive = _sum_groups(weights * (labels == 1), group, size)
    negative = _sum_groups(weights * (labels == 0), group, size)
    below = np.cumsum(negative, axis=1) - negative
    wins = (positive * (below + negative / 2)).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return wins / (positive.sum(axis=1) * negative.sum(axis=1))  # type: ignore[no-any-return]


def threshold_at_recall(scores: Floats, labels: NDArray[np.int8], weights: Floats) -> Floats:
    """The highest threshold at which at least RECALL of the unsafe rows score >= it."""
    if np.isnan(scores).any():
        return np.full(len(weights), np.nan)
    values, group = np.unique(scores, return_inverse=True)
    positive = _sum_groups(weights * (labels == 1), group, len(values))
    caught = np.cumsum(positive[:, ::-1], axis=1)[:, ::-1]
    enough = caught >= RECALL * positive.sum(axis=1, keepdims=True) - 1e-9
    last = enough.shape[1] - 1 - np.argmax(enough[:, ::-1], axis=1)
    return values[last]  # type: ignore[no-any-return]


def false_positive_rate(scores: Floats, labels: NDArray[np.int8], weights: Floats) -> Floats:
    """Share of safe rows that score at or above the threshold of 90% recall."""
    limit = threshold_at_recall(scores, labels, weights)
    if np.isnan(limit).any():
        return limit
    safe = weights * (labels == 0)
    flagged = safe * (scores[None] >= limit[:, None])
    with np.errstate(invalid="ignore", divide="ignore"):
        return flagged.sum(axis=1) / safe.sum(axis=1)  # type: ignore[no-any-return]


def calibration(scores: Floats, labels: NDArray[np.int8], weights: Floats) -> Floats:
    """1 - expected calibration error over 15 equal bins of the probability (Guo et al. 2017,
    arXiv:1706.04599, eq. 3, for the probability of the unsafe class)."""
    if np.isnan(scores).any():
        return np.full(len(weights), np.nan)
    group = np.minimum((scores * BINS).astype(int), BINS - 1)
    total = _sum_groups(weights, group, BINS)
    gap = _sum_groups(weights * (scores - labels), group, BINS)
    error = np.abs(gap).sum(axis=1) / total.sum(axis=1)
    return 1.0 - error  # type: ignore[no-any-return]


def macro_auroc(
    scores: Floats, labels: NDArray[np.int8], weights: Floats, tasks: NDArray[np.str_]
) -> Floats:
    """Mean over tasks of the AUROC within each; tasks with one class alone are left out."""
    if np.isnan(scores).any():
        return np.full(len(weights), np.nan)
    per_task = []
    for task in np.unique(tasks):
        rows = tasks == task
        if 0 < labels[rows].sum() < rows.sum():
            per_task.append(auroc(scores[rows], labels[rows], weights[:, rows]))
    if not per_task:
        return np.full(len(weights), np.nan)
    return _mean_known(np.stack(per_task))


@dataclass(frozen=True)
class Resamples:
    """Bootstrap weights of a block of resamples, stratified by label, so that no resample lacks a
    class. Block 0 is all ones, one row: the value itself. The same seed, block and salt give the
    same resamples of the same labels."""

    seed: int
    block: int = 0
    size: int = 1

    def weights(self, labels: NDArray[np.int8], salt: int = 0) -> Floats:
        """(size, N): how often each row is drawn."""
        weights = np.ones((self.size, len(labels)))
        if not self.block:
            return weights
        rng = np.random.default_rng([self.seed, salt, self.block])
        for label in (0, 1):
            rows = np.flatnonzero(labels == label)
            if len(rows):
                share = np.full(len(rows), 1 / len(rows))
                weights[:, rows] = rng.multinomial(len(rows), share, size=self.size)
        return weights

    def unstratified(self, rows: int) -> Floats:
        """(size, rows): as `weights`, of rows drawn whatever their class. For P6, to which the
        share of unsafe rows matters: with the sample's own in every resample, the error of a model
        that says the same of all rows would have an interval of no width."""
        return self.weights(np.zeros(rows, np.int8), salt=2)


def resample(draws: int, seed: int) -> Iterator[Resamples]:
    """The value itself, then `draws` resamples, BLOCK at a time: all at once would take memory of
    draws x rows, many times over."""
    yield Resamples(seed)
    for block, first in enumerate(range(0, draws, BLOCK), start=1):
        yield Resamples(seed, block, min(BLOCK, draws - first))


def centre(values: Floats) -> Floats:
    """Values (W,) with those of resamples moved so that their mean is the first, the plain one.

    For P6: a resample's bins are noisier than the sample's, and errors of either sign add up, so
    its expected calibration error is larger, often enough for all of its interval to lie above. The
    sample's own is biased alike: of a well calibrated model the value, and with it the interval,
    lies below the truth, at 640 rows by 0.015 for a P6 of 0.95 and by 0.05 for one of 1.
    """
    if len(values) == 1:
        return values
    shift = values[0] - _mean_known(values[1:])
    return np.concatenate([values[:1], np.minimum(values[1:] + shift, 1.0)])


def interval(values: Floats, level: float = 0.95) -> Interval:
    """Percentile interval of a metric's values, the first being the plain one. Its bounds are NaN
    where resamples were drawn and the metric has a value in none of them."""
    value, drawn = float(values[0]), values[1:]
    if not len(drawn):
        return Interval(value=value, low=value, high=value)
    if np.isnan(drawn).all():
        return Interval(value=value, low=np.nan, high=np.nan)
    tail = 100 * (1 - level) / 2
    low, high = np.nanpercentile(drawn, [tail, 100 - tail])
    return Interval(value=value, low=float(low), high=float(high))


def _mean_known(values: Floats) -> Floats:
    """Mean over the first axis of what is a number: `np.nanmean`, to the bit, without its warning
    where nothing is, as of few resamples of few rows."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0.0).sum(axis=0) / known.sum(axis=0)  # type: ignore[no-any-return]


def _sum_groups(weights: Floats, group: NDArray[np.int64], size: int) -> Floats:
    """Sum the columns of each group: (W, N) -> (W, size)."""
    sums = np.zeros((weights.shape[0], size))
    order = np.argsort(group, kind="stable")
    if not len(order):
        return sums
    found, first = np.unique(group[order], return_index=True)
    sums[:, found] = np.add.reduceat(weights[:, order], first, axis=1)
    return sums
