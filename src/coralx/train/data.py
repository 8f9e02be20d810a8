"""Nested subsets and batches: what every genome of a run sees of the rows, fixed by its seed."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coralx.train.rows import Rows, join

Indices = NDArray[np.int64]
# Batches whose rows are sorted by length together. More would save padding (96 % useful tokens at
# 32, 91 % at 8), but rows of one length are of one kind, and batches of one kind train worse.
BUCKET = 8


def subset(rows: Rows, percentage: float, seed: int) -> Indices:
    """A stratified share of the rows, as sorted indices.

    Nested: for one seed, a smaller share lies within every larger one. Each label x modality x
    task gives its share, rounded up, so that none is missing.
    """
    strata: dict[object, list[int]] = defaultdict(list)
    for index, key in enumerate(rows.strata()):
        strata[key].append(index)
    chosen: list[int] = []
    for order, stratum in enumerate(sorted(strata, key=repr)):
        members = np.random.default_rng([seed, order]).permutation(strata[stratum])
        chosen.extend(members[: math.ceil(len(members) * percentage / 100 - 1e-9)])
    return np.array(sorted(chosen), dtype=np.int64)


def batches(
    chosen: Indices, lengths: Sequence[int], batch_size: int, steps: int, key: Sequence[int]
) -> list[Indices]:
    """`steps` batches of row indices, epoch after epoch, the same for every genome.

    Each epoch is shuffled, then sorted by length within buckets so that rows of one batch are
    about as long and padding is rare; the order of the batches is shuffled again.

    Args:
        lengths: tokens of each row of the split.
        key: of the random stream: the run's seed, the stage.
    """
    result: list[Indices] = []
    epoch = 0
    while len(result) < steps:
        rng = np.random.default_rng([*key, epoch])
        order = rng.permutation(chosen)
        span = batch_size * BUCKET
        cut: list[Indices] = []
        for first in range(0, len(order), span):
            bucket = sorted(order[first : first + span].tolist(), key=lambda i: lengths[i])
            parts = range(0, len(bucket), batch_size)
            cut.extend(np.array(bucket[p : p + batch_size], dtype=np.int64) for p in parts)
        result.extend(cut[i] for i in rng.permutation(len(cut)))
        epoch += 1
    return result[:steps]


def merge_rows(parts: Sequence[Rows]) -> tuple[Rows, list[Indices]]:
    """All rows as one, and where those of each part lie in it."""
    ends = np.cumsum([len(part) for part in parts])
    places = [np.arange(end - len(part), end) for part, end in zip(parts, ends, strict=True)]
    return join(parts), places
