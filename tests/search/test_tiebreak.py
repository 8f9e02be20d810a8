"""Tie-breaks: each against an example worked out by hand, all against what selection promises."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from moocore import hypervolume

from coralx.search import selection, tiebreak
from coralx.search.evolution import Evolution
from coralx.search.tiebreak import TIE_BREAKS

# What happens: equal rows, constant columns, values missing or infinite, one to six objectives.
MATRICES = arrays(
    np.float64,
    st.tuples(st.integers(1, 30), st.integers(1, 6)),
    elements=st.sampled_from([0.0, 0.1, 1.0, 2.0, math.inf]),
)
every_tie_break = pytest.mark.parametrize("name", TIE_BREAKS)


def best_first(name: str, rows, rank=None, count: int | None = None) -> list[int]:
    matrix = np.array(rows, dtype=np.float64)
    rank = np.zeros(len(rows), dtype=np.int64) if rank is None else np.array(rank)
    score = TIE_BREAKS[name](matrix, rank, len(rows) if count is None else count)
    return np.lexsort((matrix[:, 0], -score, rank)).tolist()


def as_results(make_result, matrix):
    """A result for each row; infinity stands for a value that is missing."""
    names = [f"mine:{column}" for column in range(matrix.shape[1])]
    rows = [{n: -v for n, v in zip(names, row, strict=True) if v < math.inf} for row in matrix]
    return [make_result(f"{i:02d}", objectives=row) for i, row in enumerate(rows)], names


def test_crowding_by_hand() -> None:
    front = np.array([[0.0, 4.0], [1.0, 2.0], [4.0, 0.0], [2.0, 1.0]])
    # on each axis: gap of the two neighbours / range, mean over M; infinite at the ends
    expected = [math.inf, (2 / 4 + 3 / 4) / 2, math.inf, (3 / 4 + 2 / 4) / 2]
    zeros = np.zeros(4, dtype=np.int64)
    assert tiebreak.crowding(front, zeros, 4).tolist() == pytest.approx(expected)
    ranked = np.vstack([front[:2], [[9.0, 9.0]], front[2:]])  # another rank is no neighbour
    score = tiebreak.crowding(ranked, np.array([0, 0, 1, 0, 0]), 5)
    assert score[[0, 1, 3, 4]].tolist() == pytest.approx(expected)


def test_niching_gives_each_direction_its_nearest_before_any_gets_a_second() -> None:
    # Four wanted of two objectives: directions (0, 1), (1/3, 2/3), (2/3, 1/3), (1, 0).
    rows = [[0.3, 0.69], [0, 1], [1 / 3, 2 / 3], [0.36, 0.65], [2 / 3, 1 / 3], [1, 0]]
    # On a direction: rows 1, 2, 4, 5. Row 3 lies 0.022 from row 2's, row 0 lies 0.040.
    assert best_first("niching", rows, count=4) == [1, 2, 4, 5, 3, 0]


def test_niching_fills_what_better_ranks_left_empty() -> None:
    rows = [[0, 1], [1 / 3, 2 / 3], [1, 0], [0.4, 0.8], [0.9, 0.45]]
    # Row 3 is on the direction of row 1, row 4 on one that nobody of rank 0 took.
    assert best_first("niching", rows, [0, 0, 0, 1, 1], 4) == [0, 1, 2, 4, 3]


def test_niching_takes_a_better_rank_before_a_nearer_row() -> None:
    rows = [[0, 1], [0.3, 0.69], [1, 0], [0.4, 0.8], [0.9, 0.45]]
    # Row 3 is on the direction of row 1 and nearer to it, but row 1 is its niche's first.
    assert best_first("niching", rows, [0, 0, 0, 1, 1], 4) == [0, 1, 2, 4, 3]


def test_niching_scales_by_the_first_front_alone() -> None:
    rows = [[0, 1], [1 / 3, 2 / 3], [2 / 3, 1 / 3], [1, 0], [5, 1.5]]
    # Were it scaled by row 4 too, row 1 would be second in the niche of row 0.
    assert best_first("niching", rows, [0, 0, 0, 0, 1], 4) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("count", "total", "inner"), [(8, 6 + 1, 1), (50, 21 + 6, 6), (512, 462, 1)]
)
def test_directions_of_six_objectives_have_an_inner_layer(count: int, total: int, inner) -> None:
    """Of p partitions there are C(5 + p, p), below six on the edge; the inner layer has p - 1."""
    directions = tiebreak._directions(6, count)
    assert directions.sum(axis=1) == pytest.approx(1)
    assert (len(directions), (directions > 0).all(axis=1).sum()) == (total, inner)


def test_hypervolume_keeps_one_of_two_twins() -> None:
    rows = [[0, 1], [0.2, 0.2], [0.21, 0.19], [1, 0]]
    # Alone each twin adds .01 x .8 or .79 x .01, less than either end (.2 x .1, .1 x .19). The
    # lesser goes; then the other adds .8 x .8, and of the ends, .02 each, the worse in the first
    # objective goes.
    assert best_first("hypervolume", rows) == [1, 0, 3, 2]


def test_hypervolume_of_a_large_front_is_near_the_exact_greedy_choice() -> None:
    rng = np.random.default_rng(3)
    rows = np.abs(rng.normal(size=(120, 3))) ** 0.6
    rows = 1 - rows / np.linalg.norm(rows, axis=1, keepdims=True)
    chosen = best_first("hypervolume", rows)[:8]
    greedy: list[int] = []
    for _ in range(8):
        volumes = [hypervolume(rows[[*greedy, i]], ref=1.1) for i in range(len(rows))]
        greedy.append(int(np.argmax(volumes)))
    reached = hypervolume(rows[chosen], ref=1.1) / hypervolume(rows[greedy], ref=1.1)
    assert reached > 0.97  # any eight rows reach 0.77 to 0.96


def test_epsilon_prefers_what_stands_for_most() -> None:
    rows = [[0, 1], [0.02, 0.95], [0.3, 0.3], [1, 0]]
    # One box: row 2 is nearest its corner. Boxes of 1/2: that of row 2 dominates the others. Of
    # 1/4: rows 0 and 1 share one, row 1 is nearer its corner (.08, .8 against 0, 1 of a side), and
    # row 3 has its own. Row 0 first has a box that is not dominated at 1/64.
    assert best_first("epsilon", rows) == [2, 1, 3, 0]


def test_epsilon_lets_a_row_wait_until_no_box_dominates_its_own() -> None:
    rows = [[0, 1], [0.1, 0.45], [0.3, 0.3], [1, 0]]
    # Row 2 stands for all; its box of side 1/2, which row 1 shares, dominates those of rows 0 and
    # 3. Boxes of 1/4: rows 1 and 3 have undominated ones. That of row 0 is first at 1/16.
    assert best_first("epsilon", rows) == [2, 1, 3, 0]


@every_tie_break
def test_ends_and_middle_of_a_line_come_before_a_cluster(name: str) -> None:
    """Nine rows, five of them crowded together: four wanted, at most two are of the cluster."""
    cluster = [[0.48 + step / 100, 0.52 - step / 100] for step in range(5)]
    rows = [[0, 1], *cluster, [0.2, 0.8], [0.8, 0.2], [1, 0]]
    chosen = best_first(name, rows, count=4)[:4]
    assert sum(1 <= row <= 5 for row in chosen) <= 2


@every_tie_break
@given(matrix=MATRICES, data=st.data())
def test_dominance_holds_and_arrival_makes_no_difference(make_result, name, matrix, data) -> None:
    results, names = as_results(make_result, matrix)
    count = data.draw(st.integers(1, len(results)))
    survivors = selection.survive(results, count, names, name)
    assert len(survivors) == count
    ordered = selection.order(results, names, name)
    losses = selection.objective_matrix(ordered, names)
    for place, loss in enumerate(losses):
        dominators = np.all(losses <= loss, axis=1) & np.any(losses < loss, axis=1)
        assert not dominators[place:].any()
    shuffled = random.Random(0).sample(results, len(results))  # noqa: S311
    assert selection.survive(shuffled, count, names, name) == survivors
    assert selection.promote(shuffled, count, names, "rank", name) == survivors


@every_tie_break
@given(matrix=MATRICES)
def test_scores_are_numbers(name: str, matrix) -> None:
    score = TIE_BREAKS[name](np.clip(matrix, 0, 1), selection.ranks(matrix), 4)
    assert score.shape == (len(matrix),)
    assert not np.isnan(score).any()


@every_tie_break
@given(seed=st.integers(0, 999), n=st.integers(1, 40), m=st.integers(1, 6))
def test_scores_move_with_the_rows(name: str, seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    matrix, places = rng.random((n, m)), rng.permutation(n)
    rank = selection.ranks(matrix)
    score = TIE_BREAKS[name](matrix, rank, 8)
    assert TIE_BREAKS[name](matrix[places], rank[places], 8) == pytest.approx(score[places])


@every_tie_break
def test_scale_and_a_constant_objective_make_no_difference(make_result, name: str) -> None:
    rng = np.random.default_rng(5)
    rows = rng.random((12, 3))
    rows = rows / rows.sum(axis=1, keepdims=True)

    def order(matrix) -> list[str]:
        return [r.genome.id for r in selection.order(*as_results(make_result, matrix), name)]

    assert order(rows) == order(rows * [1.0, 1e-3, 1e9])
    if name != "niching":  # directions depend on M
        assert order(rows) == order(np.column_stack([rows, np.full(12, 2.4e8)]))


def test_hypervolume_weighs_a_difference_by_its_share_of_the_bounds(make_result) -> None:
    """One place: 0.04 of skill is worth more than a thousandth of the memory, though by their
    ranges among the three both would be the whole of it."""
    names = ["task_skill", "memory"]
    rows = {"light": (0.88, 241.2e6), "skilled": (0.92, 241.4e6), "middle": (0.885, 241.21e6)}
    results = [
        make_result(genome, objectives=dict(zip(names, row, strict=True)))
        for genome, row in rows.items()
    ]
    (chosen,) = selection.promote(results, 1, names, "rank", "hypervolume")
    assert chosen.genome.id == "skilled"


def test_one_objective_leaves_nothing_to_break(make_result) -> None:
    results, names = as_results(make_result, np.array([[2.0], [0.0], [1.0], [0.0]]))
    for name in TIE_BREAKS:
        assert [r.genome.id for r in selection.order(results, names, name)] == [
            "01",
            "03",
            "02",
            "00",
        ]


def test_the_setting_decides_who_goes_on_and_who_breeds(settings, answer) -> None:
    """Eight that nothing dominates, five of them crowded together; four go on."""
    skills = [0.95, 0.79, 0.78, 0.77, 0.76, 0.75, 0.70, 0.60]
    went, bred = set(), set()
    for name in TIE_BREAKS:
        evolution = Evolution(settings(evolution={"tie_break": name, "generations": 2}))
        numbers = {genome.id: place for place, genome in enumerate(evolution.alive)}
        while evolution.generation == 0:
            if evolution.stage_index == 2:
                went.add(tuple(genome.id for genome in evolution.alive))
            for result in [r for job in evolution.ask(9) for r in answer(job)]:
                skill = skills[numbers[result.genome.id]]
                values = {"task_skill": skill, "false_positive_cost": skill**2 - 0.3}
                evolution.tell(result.model_copy(update={"objectives": values}))
        bred.add(evolution.closed[0].population)
    assert len(went) > 1
    assert len(bred) > 1


@every_tie_break
@pytest.mark.filterwarnings("error")
def test_the_largest_numbers_and_missing_ones_are_put_in_order(make_result, name: str) -> None:
    most = np.finfo(np.float64).max
    rows = np.array([[most, most], [-most, math.inf], [math.inf, -most], [0.0, 0.0]])
    results, names = as_results(make_result, rows)
    ordered = [result.genome.id for result in selection.order(results, names, name)]
    assert ordered[-1] == "00"  # the others are the first front


def test_epsilon_puts_the_worst_value_into_the_last_box() -> None:
    rows = [[0, 1], [0.9, 0.9], [1, 0]]
    # One box holds all, and rows 0 and 2 are nearer its corner (1 against 1.27), row 0 better in
    # the first objective. Boxes of 1/2: row 2 has its own; that of row 1 is dominated.
    assert best_first("epsilon", rows) == [0, 2, 1]


@pytest.mark.parametrize(("rows", "objectives", "exact"),
                         [(24, 8, True), (25, 6, False), (14, 10, True), (15, 10, False),
                          (24, 16, False)])  # fmt: skip
def test_a_front_is_measured_exactly_only_where_that_is_fast(
    rows: int, objectives: int, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 rows of 16 objectives would take hours, and no Ctrl-C would be heard meanwhile."""
    taken = []
    for name in ("_peel", "_cover"):
        monkeypatch.setattr(tiebreak, name, lambda front, n=name: (taken.append(n), front[:, 0])[1])
    matrix = np.random.default_rng(0).uniform(size=(rows, objectives))
    tiebreak.hypervolume(matrix, np.zeros(rows, dtype=np.int64), rows)
    assert taken == ["_peel" if exact else "_cover"]
