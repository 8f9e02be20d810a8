"""Whether a stage's ranking predicts the next one's: what justifies stopping genomes early.

Spearman's rho per objective over the genomes that were measured at both stages. Selection has
already taken the others away: of those that a stage let go nobody knows how they would have done,
and among survivors, who are alike, rho comes out nearer to 0 than over all. So a low rho after a
sharp cut says less than one where all went on; `entered` is there to be read beside `n`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coralx.records import TrainingResult
from coralx.search.selection import objective_matrix

Column = NDArray[np.float64]

LEAST = 8  # genomes below which nothing is said: chance alone then gives rho beyond 0.7
WEAK = 0.2  # a rho below this does not justify stopping anybody, however certain it is


@dataclass(frozen=True)
class Correlation:
    """Of one objective between a stage and the next.

    `entered` genomes were measured at the stage, `n` of them at the next too, beside at least one
    other of their generation. `rho` is None where nothing can be ranked, `low` and `high` (95%)
    where `n` is too small. `predicts` is None below 8 genomes; else whether rho is at least 0.2
    and its interval above 0.
    """

    stage: str
    next_stage: str
    objective: str
    entered: int
    n: int
    rho: float | None
    low: float | None
    high: float | None
    predicts: bool | None


def stage_correlations(
    results: Iterable[TrainingResult], names: Sequence[str]
) -> list[Correlation]:
    """For each pair of consecutive stages, in their order, each objective that both measured.

    Genomes are ranked within their generation and the ranks pooled, so that a generation better
    than the one before does not pass for a good prediction.
    """
    lives: dict[str, list[TrainingResult]] = {}
    for result in results:
        lives.setdefault(result.genome.id, []).append(result)
    pairs: dict[tuple[int, str, str], list[tuple[TrainingResult, TrainingResult]]] = {}
    for life in lives.values():
        ordered = sorted(life, key=lambda result: result.stage_index)
        for early, late in itertools.pairwise(ordered):
            key = (early.stage_index, early.stage, late.stage)
            pairs.setdefault(key, []).append((early, late))
    found = []
    for (_, stage, following), both in sorted(pairs.items(), key=lambda item: item[0]):
        here = [r for life in lives.values() for r in life if r.stage == stage]
        for name in names:
            entered = int(np.isfinite(objective_matrix(here, [name])).sum())
            if entered:
                found.append(_correlate(stage, following, name, entered, both))
    return found


def pooled_rho(groups: Sequence[tuple[Column, Column]]) -> tuple[float | None, int, int]:
    """Spearman's rho of pairs of columns, ranked within each group, with the number of pairs that
    count and of those that are free.

    Ranks are centred on their group's mean and divided by its size, so that groups weigh by their
    genomes. A group of one says nothing and is left out. Each group's mean costs one degree of
    freedom, the first group's being the one that Spearman's rho always costs.
    """
    groups = [(x, y) for x, y in groups if len(x) > 1]
    n = sum(len(x) for x, _ in groups)
    if not groups:
        return None, 0, 0
    a, b = (np.concatenate([_place(group[side]) for group in groups]) for side in (0, 1))
    scale = math.sqrt(float(a @ a) * float(b @ b))
    rho = max(-1.0, min(1.0, float(a @ b) / scale)) if scale > 0 else None
    return rho, n, n - len(groups) + 1


def interval(rho: float, n: int) -> tuple[float, float] | None:
    """95% interval of Spearman's rho by Fisher's z with the standard error of Bonett and Wright
    (Psychometrika 65(1), 2000); None below four pairs.

    Fisher's z has no finite value at 1: perfect agreement counts as one swap of neighbours short
    of it, and the interval reaches to 1.
    """
    if n < 4:
        return None
    most = 1 - 12 / (n * (n * n - 1))
    kept = max(-most, min(most, rho))
    margin = 1.959964 * math.sqrt((1 + kept * kept / 2) / (n - 3))
    low, high = (math.tanh(math.atanh(kept) + sign * margin) for sign in (-1, 1))
    return (-1.0 if rho <= -most else low), (1.0 if rho >= most else high)


def _correlate(
    stage: str,
    following: str,
    name: str,
    entered: int,
    both: Sequence[tuple[TrainingResult, TrainingResult]],
) -> Correlation:
    columns = [objective_matrix(side, [name])[:, 0] for side in zip(*both, strict=True)]
    generations = np.array([early.generation for early, _ in both])
    known = np.isfinite(columns[0]) & np.isfinite(columns[1])
    groups = [
        (columns[0][known & (generations == index)], columns[1][known & (generations == index)])
        for index in np.unique(generations)
    ]
    rho, n, free = pooled_rho(groups)
    ends = interval(rho, free) if rho is not None else None
    low, high = ends or (None, None)
    predicts = None
    if rho is not None and low is not None and n >= LEAST:
        predicts = rho >= WEAK and low > 0
    return Correlation(stage, following, name, entered, n, rho, low, high, predicts)


def _place(column: Column) -> Column:
    """Ranks of a column, equal values sharing their mean rank, centred and divided by its size."""
    _, place, times = np.unique(column, return_inverse=True, return_counts=True)
    last = np.cumsum(times)
    rank = (last - (times - 1) / 2)[place]
    return np.asarray((rank - (len(column) + 1) / 2) / len(column), dtype=np.float64)
