"""Who is better: NSGA-II order, promotion, survival, parents, the front and its hypervolume.

NSGA-II: Deb et al., IEEE Trans. Evol. Comput. 6(2), 2002. Results are compared only at the same
stage, but for the front; in an order a later stage comes first, whatever the scores. Letters: N
results, M objectives.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from coralx.objectives import describe, minimised
from coralx.records import TrainingResult
from coralx.search.tiebreak import REFERENCE, TIE_BREAKS, Matrix, exact_steps

if TYPE_CHECKING:
    from numpy.random import Generator

T = TypeVar("T")

Bounds = Mapping[str, tuple[float, float]]

# Of an exact hypervolume, in steps of `exact_steps`: up to here it takes about a second.
MOST_STEPS = 100_000_000
SAMPLES = 65_536  # points at which the volume of what would take longer is measured


def objective_matrix(
    results: Sequence[TrainingResult],
    names: Sequence[str],
) -> Matrix:
    """(N, M), every column to be minimised; maximised objectives are negated.

    An objective without a direction, such as a user's own, is maximised. A value that is missing
    or not finite is +inf: worst.
    """
    rows = [[result.objectives.get(name, math.nan) for name in names] for result in results]
    signs = [1.0 if minimised(name) else -1.0 for name in names]
    matrix = np.array(rows, dtype=np.float64).reshape(len(results), len(names)) * signs
    return np.where(np.isfinite(matrix), matrix, np.inf)


def ranks(matrix: Matrix) -> NDArray[np.int64]:
    """(N,) non-dominated rank of each row of (N, M), 0 for the first front."""
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    if not len(matrix):
        return np.zeros(0, dtype=np.int64)
    found = NonDominatedSorting().do(_places(matrix), return_rank=True)[1]
    return np.asarray(found, dtype=np.int64)


def undominated(matrix: Matrix) -> NDArray[np.bool_]:
    """(N,) whether no row of (N, M) dominates the row; equal rows do not dominate each other."""
    from moocore import is_nondominated

    if not len(matrix):
        return np.zeros(0, dtype=np.bool_)
    return np.asarray(is_nondominated(_places(matrix), keep_weakly=True), dtype=np.bool_)


def _places(matrix: Matrix) -> NDArray[np.int64]:
    """Each value's place in its column: dominance depends on order alone, and moocore (0.3.2)
    compares infinities wrongly."""
    return np.column_stack([np.unique(column, return_inverse=True)[1] for column in matrix.T])


def order(
    results: Iterable[TrainingResult],
    names: Sequence[str],
    tie_break: str,
    count: int | None = None,
) -> list[TrainingResult]:
    """The results, best first, the same whatever order they come in.

    By stage (later first); at the same stage those that passed their gate before those it
    stopped; then by non-dominated rank; then by `tie_break`, a name of `TIE_BREAKS`; then, where
    the papers leave it to chance, by the first of the objectives, and last by genome id. `count`
    says how many of the first are wanted, for a tie-break that depends on it; all by default.
    """
    known = sorted(results, key=_standing)
    wanted = len(known) if count is None else count
    ordered: list[TrainingResult] = []
    for _, peers in groupby(known, key=lambda result: _standing(result)[:2]):
        ordered += _order_peers(list(peers), names, tie_break, wanted - len(ordered))
    return ordered


def promote(
    results: Iterable[TrainingResult],
    count: int,
    names: Sequence[str],
    promote_by: str,
    tie_break: str,
) -> list[TrainingResult]:
    """The `count` best of one stage's results, best first; never one that a gate stopped.

    `promote_by` is "rank" for the order of `order`, or the objective that decides alone, ties
    falling back on it.
    """
    passed = (result for result in results if result.stopped is None)
    ordered = order(passed, names, tie_break, count)
    if promote_by != "rank" and ordered:
        losses = objective_matrix(ordered, [promote_by])[:, 0]
        ordered = [ordered[place] for place in np.argsort(losses, kind="stable")]
    return ordered[:count]


def latest(results: Iterable[TrainingResult]) -> list[TrainingResult]:
    """For each genome its result at the highest stage, the later one of equals; in order of genome
    id."""
    best: dict[str, TrainingResult] = {}
    for result in results:
        rival = best.get(result.genome.id)
        if rival is None or result.stage_index >= rival.stage_index:
            best[result.genome.id] = result
    return [best[genome] for genome in sorted(best)]


def survive(
    results: Iterable[TrainingResult],
    count: int,
    names: Sequence[str],
    tie_break: str,
) -> list[TrainingResult]:
    """NSGA-II survival: the best results of at most `count` genomes, best first.

    A genome that a gate stopped does not survive.
    """
    passed = (result for result in latest(results) if result.stopped is None)
    return order(passed, names, tie_break, count)[:count]


def tournament(rng: Generator, candidates: Sequence[T], size: int) -> T:
    """The best of `size` candidates drawn with replacement; `candidates` are best first."""
    return candidates[int(rng.integers(len(candidates), size=size).min())]


def front(results: Iterable[TrainingResult], names: Sequence[str]) -> list[TrainingResult]:
    """What nothing dominates among the results of the highest stage that any genome passed, in
    order of genome id."""
    return latest(points(results, names))


def points(
    results: Iterable[TrainingResult], names: Sequence[str], full_from: int | None = None
) -> list[TrainingResult]:
    """Every result that nothing dominates, in no order: more results never bring back one that is
    not among them.

    Results of stages from `full_from` on are measured alike, on all validation rows, so that they
    compare whatever training they had: all count. Of stages below, and by default, those of the
    highest alone that any genome passed.
    """
    passed = [result for result in results if result.stopped is None]
    highest = max((result.stage_index for result in passed), default=0)
    least = highest if full_from is None else min(full_from, highest)
    finalists = [result for result in passed if result.stage_index >= least]
    first = undominated(objective_matrix(finalists, names))
    return [finalists[place] for place in np.flatnonzero(first)]


def observed_bounds(
    results: Iterable[TrainingResult], names: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Bounds for objectives that have no fixed ones: 0 to the largest seen for memory, the
    least to the greatest seen for a user's own."""
    bounds = {}
    known = list(results)
    for name in names:
        if describe(name).bounds:
            continue
        seen = [r.objectives[name] for r in known if name in r.objectives]
        seen = [value for value in seen if math.isfinite(value)]
        if seen:
            least = describe(name).least
            bounds[name] = (min(seen) if least is None else least, max(seen))
    return bounds


def hypervolume(
    results: Sequence[TrainingResult], names: Sequence[str], bounds: Bounds | None = None
) -> float:
    """Share (0..1) of the objective box that the results dominate; 0 for none.

    Each objective is put on 0 (its best bound) to 1 (its worst), clipped; the reference point is
    `REFERENCE` in each, and the volume is divided by that of the box up to there. `bounds` holds
    (least, greatest) for objectives without fixed ones; those with neither count as 0..1. An
    objective of which none of the results has a finite value is left out. Figures compare only
    under the same bounds.

    Exact where that takes no longer than about a second: up to 842 results under six objectives,
    219 under seven, 101 under eight, 44 under ten. Beyond, it is estimated at 65,536 fixed points,
    to about 0.002 of the box (one standard error); of two estimates, that of results which dominate
    more is never the less.
    """
    matrix = objective_matrix(results, names)
    columns = np.flatnonzero(np.any(np.isfinite(matrix), axis=0)).tolist()
    measured = [names[column] for column in columns]
    if not measured:
        return 0.0
    scaled = _boxed(matrix[:, columns], measured, bounds or {})
    share = _exact_share if exact_steps(*scaled.shape) <= MOST_STEPS else _estimated_share
    return share(scaled)


def _exact_share(scaled: Matrix) -> float:
    from moocore import hypervolume as volume

    share = volume(scaled, ref=REFERENCE) / REFERENCE ** scaled.shape[1]
    return min(1.0, float(share))  # of a box that is full it may round beyond


def _estimated_share(scaled: Matrix) -> float:
    free = np.random.default_rng(0).uniform(0.0, REFERENCE, (scaled.shape[1], SAMPLES))
    for row in scaled:
        free = free[:, (free < row[:, None]).any(axis=0)]
    return 1.0 - len(free.T) / SAMPLES


def _standing(result: TrainingResult) -> tuple[int, bool, str]:
    return -result.stage_index, result.stopped is not None, result.genome.id


def _order_peers(
    peers: list[TrainingResult], names: Sequence[str], tie_break: str, count: int
) -> list[TrainingResult]:
    """Results of one stage, best first; they come in order of genome id."""
    matrix = objective_matrix(peers, names)
    rank = ranks(matrix)
    boxed = _boxed(matrix, names, observed_bounds(peers, names))
    score = TIE_BREAKS[tie_break](boxed, rank, count)
    places = np.lexsort((matrix[:, 0], -score, rank))  # stable: the last tie is by id
    return [peers[place] for place in places]


def _boxed(matrix: Matrix, names: Sequence[str], bounds: Bounds) -> Matrix:
    """(N, M) columns to be minimised in the unit box of the objectives' bounds: those given,
    else the fixed ones, else 0 to 1."""
    limits = [bounds.get(name) or describe(name).bounds or (0.0, 1.0) for name in names]
    columns = zip(names, matrix.T, limits, strict=True)
    return np.column_stack([_scale(name, column, *limit) for name, column, limit in columns])


def _scale(name: str, column: Matrix, low: float, high: float) -> Matrix:
    """A column to be minimised onto 0 (best bound) to 1 (worst, and what is missing)."""
    best = low if minimised(name) else -high
    with np.errstate(over="ignore", invalid="ignore"):  # of bounds further apart than floats go
        place = (column - best) / ((high - low) or 1.0)
    return np.clip(np.nan_to_num(place, nan=1.0), 0.0, 1.0)
