"""Who goes first among results of one non-dominated rank: four tie-breaks, one signature.

Under six objectives most results are non-dominated, so it is the tie-break that selects. Each takes
the matrix (N, M) of one stage, every column to be minimised, 0 best and 1 worst of its bounds, the
rank (N,) of each row and how many rows are wanted. It gives a score (N,), the greater the earlier,
that compares rows of one rank. Rows may come in any order; only where rows tie in every respect
does it decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Ranks = NDArray[np.int64]
TieBreak = Callable[[Matrix, Ranks, int], Matrix]

# Das-Dennis directions for niching; more of them cost time and no longer tell 10,000 rows apart.
MOST_NICHES = 512
# Just beyond the worst corner of the unit box, so that a point worst in one objective still counts
# for what it is worth in the others.
REFERENCE = 1.1
# Of which a front's exact contributions are taken: rows, in a few milliseconds at six objectives,
# and steps of `exact_steps`, in a tenth of a second.
MOST_EXACT, MOST_STEPS = 24, 100_000
SAMPLES = 4096  # points at which the volume of a larger front is measured
GRIDS = (1, 2, 4, 8, 16, 32, 64)  # boxes per objective, 1 / epsilon


def crowding(matrix: Matrix, rank: Ranks, count: int) -> Matrix:
    """NSGA-II's crowding distance (Deb et al. 2002): the lonelier first, ends of a front foremost.

    Infinite at the ends of each objective.
    """
    from pymoo.operators.survival.rank_and_crowding.metrics import get_crowding_function

    return _front_by_front(matrix, rank, get_crowding_function("cd").do)


def niching(matrix: Matrix, rank: Ranks, count: int) -> Matrix:
    """NSGA-III's niching (Deb and Jain, IEEE Trans. Evol. Comput. 18(4), 2014): each row belongs to
    the nearest of about `count` reference directions, and every direction gets its first row before
    any gets a second.

    Rows of better rank are a niche's first; then the nearer to its direction come first, where the
    paper draws lots. Objectives are scaled by the ideal and the worst point of the first front: the
    paper's intercepts need more extreme points than a stage of few genomes has.
    """
    from pymoo.algorithms.moo.nsga3 import associate_to_niches

    scaled = _scale(matrix, rank == 0)
    zeros, ones = np.zeros(matrix.shape[1]), np.ones(matrix.shape[1])
    directions = _directions(matrix.shape[1], count)
    parts = np.array_split(scaled, 1 + len(scaled) // 1024)  # distances are N x directions x M
    found = [associate_to_niches(part, directions, zeros, ones)[:2] for part in parts]
    niche, distance = (np.concatenate(column) for column in zip(*found, strict=True))
    by_niche = np.lexsort((matrix[:, 0], distance.round(12), rank, niche))
    begins = np.searchsorted(niche[by_niche], niche[by_niche])
    score = np.empty(len(matrix))
    score[by_niche] = begins - np.arange(len(matrix))
    return score


def hypervolume(matrix: Matrix, rank: Ranks, count: int) -> Matrix:
    """By hypervolume contribution in the unit box as it is, up to `REFERENCE`: an objective in
    which a front hardly differs decides as little as it is worth there.

    Up to 24 rows (14 of 10 objectives, 8 of 16) exactly: the row that contributes least
    exclusively goes last, and again without it (SMS-EMOA: Beume, Naujoks and Emmerich, EJOR 181(3),
    2007), so that of two near twins one stays. Exact contributions grow exponentially with M, so
    larger fronts are built greedily, each next row adding the most volume (Guerreiro, Fonseca and
    Paquete, Evol. Comput. 24(3), 2016), measured at 4096 fixed points; rows that add none at those
    points tie.
    """

    def score(front: Matrix) -> Matrix:
        sort = np.lexsort(front.T[::-1])  # where volumes tie, the better in the first objective
        exact = len(front) <= MOST_EXACT and exact_steps(*front.shape) <= MOST_STEPS
        measure = _peel if exact else _cover
        return measure(front[sort])[np.argsort(sort)]

    return _front_by_front(matrix, rank, score)


def epsilon(matrix: Matrix, rank: Ranks, count: int) -> Matrix:
    """By the coarsest grid on which a row is in the epsilon-Pareto set (Laumanns, Thiele, Deb and
    Zitzler, Evol. Comput. 10(3), 2002): of the boxes of side epsilon that no other box dominates,
    each keeps the row nearest to its best corner.

    Epsilon is 1, 1/2, ... 1/64 of the front's range, as the paper widens it where its archive is
    bounded. One row stands for the front on the coarsest grid; what gains little in one objective
    and gives up much in another waits for a fine one.
    """
    return _front_by_front(matrix, rank, lambda front: _coarsest(_scale(front)))


def exact_steps(n: int, m: int) -> int:
    """What the time of moocore's hypervolume of N rows of M objectives is about proportional to,
    measured for 6 to 16 objectives; below four it is no matter."""
    return math.comb(n + m - 4, m - 3) if m > 3 else n


TIE_BREAKS: dict[str, TieBreak] = {
    "crowding": crowding,
    "niching": niching,
    "hypervolume": hypervolume,
    "epsilon": epsilon,
}


def _front_by_front(matrix: Matrix, rank: Ranks, score: Callable[[Matrix], Matrix]) -> Matrix:
    """The scores of each front's rows among themselves; 0 for a lone row, and under one objective,
    where a front's rows are all equal."""
    scores = np.zeros(len(matrix))
    if matrix.shape[1] == 1:
        return scores
    by_rank = np.argsort(rank, kind="stable")
    for members in np.split(by_rank, np.flatnonzero(np.diff(rank[by_rank])) + 1):
        if len(members) > 1:
            scores[members] = score(matrix[members])
    return scores


def _scale(matrix: Matrix, first: NDArray[np.bool_] | None = None) -> Matrix:
    """Columns onto 0 to 1 between the best and the worst of the rows `first` (of all where those
    are equal); a constant column becomes 0."""
    ends = matrix if first is None else matrix[first]
    span = np.ptp(ends, axis=0)
    span = np.where(span > 0, span, np.ptp(matrix, axis=0))
    scaled = (matrix - ends.min(axis=0)) / np.where(span > 0, span, 1.0)
    return np.asarray(scaled, dtype=np.float64)


def _directions(m: int, count: int) -> Matrix:
    """At most `count` reference directions (and M + 1, the fewest there are), evenly spread.

    Below M partitions all Das-Dennis points lie on the simplex's edge, so a second layer of one
    partition less stands half-way to the centre (Deb and Jain 2014).
    """
    from pymoo.util.ref_dirs import get_reference_directions

    def layers(partitions: int) -> list[tuple[int, float]]:
        return [(partitions, 1.0), (partitions - 1, 0.5)][: 1 + (partitions < m and m > 1)]

    def size(partitions: int) -> int:
        return sum(math.comb(m + p - 1, p) for p, _ in layers(partitions))

    partitions = 1
    while m > 1 and size(partitions + 1) <= min(count, MOST_NICHES):
        partitions += 1
    return np.concatenate(
        [
            get_reference_directions("das-dennis", m, n_partitions=p, scaling=scaling)
            for p, scaling in layers(partitions)
        ]
    )


def _peel(front: Matrix) -> Matrix:
    """The order in which rows of the unit box go, least contribution first."""
    from moocore import hv_contributions

    score = np.zeros(len(front))
    left = np.arange(len(front))
    for place in range(len(front)):
        volumes = hv_contributions(front[left], ref=REFERENCE).round(12)
        least = np.flatnonzero(volumes == volumes.min())[-1]
        score[left[least]] = place
        left = np.delete(left, least)
    return score


def _cover(front: Matrix) -> Matrix:
    """Rows of the unit box by the volume that each adds to those before it, at fixed points."""
    points = np.random.default_rng(0).uniform(0.0, REFERENCE, (SAMPLES, front.shape[1]))
    dominated = np.ones((SAMPLES, len(front)), dtype=np.bool_)
    for column, coordinate in zip(front.T, points.T, strict=True):
        dominated &= column <= coordinate[:, None]
    free = np.ones(SAMPLES, dtype=np.bool_)
    gains = dominated.sum(axis=0)
    score = np.zeros(len(front))
    for place in range(len(front), 0, -1):
        best = gains.argmax()
        if not gains[best]:
            break
        score[best] = place
        covered = free & dominated[:, best]
        gains -= dominated[covered].sum(axis=0)
        free &= ~covered
    return score


def _coarsest(front: Matrix) -> Matrix:
    """Minus the place in `GRIDS` of the first grid that keeps a row; of none, its length."""
    from moocore import is_nondominated

    score = np.full(len(front), -float(len(GRIDS)))
    for place, boxes in enumerate(GRIDS):
        box = np.minimum(np.floor(front * boxes), boxes - 1)
        corner = np.linalg.norm(front * boxes - box, axis=1).round(12)
        nearest = np.lexsort((front[:, 0], corner))
        kept = nearest[np.unique(box[nearest], axis=0, return_index=True)[1]]
        kept = kept[is_nondominated(box[kept])]
        score[kept] = np.maximum(score[kept], -place)
    return score
