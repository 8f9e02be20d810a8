"""Order, survival, front and hypervolume: by hand, by brute force and against pymoo."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

from coralx.objectives import OBJECTIVES
from coralx.records import Stop, TrainingResult
from coralx.search import selection

NAMES = ("task_skill", "false_positive_cost")
TIE_BREAK = "crowding"  # that of NSGA-II, which pymoo has too
STOP = Stop(gate="auroc", value=0.5, limit=0.55, reason="AUROC 0.5 < 0.55")

COARSE = arrays(
    np.float64,
    st.tuples(st.integers(1, 9), st.integers(1, 5)),
    elements=st.sampled_from([0.0, 1.0, 2.0, math.inf]),
)


@pytest.fixture(scope="session")
def scored(make_result):
    """A result with a skill and a false-positive cost."""

    def build(genome: str, skill: float, cost: float, stage_index: int = 0, **facts):
        objectives = dict(zip(NAMES, (skill, cost), strict=True))
        return make_result(genome, stage_index, objectives=objectives, **facts)

    return build


def ids(results) -> str:
    return "".join(result.genome.id for result in results)


def brute_ranks(matrix):
    def dominates(p, q) -> bool:
        return bool(np.all(p <= q) and np.any(p < q))

    rank = np.full(len(matrix), -1)
    for level in range(len(matrix)):
        left = np.flatnonzero(rank < 0)
        first = [i for i in left if not any(dominates(matrix[j], matrix[i]) for j in left)]
        rank[first] = level
    return rank


def test_matrix_is_minimised_and_holes_are_worst(make_result) -> None:
    results = [
        make_result("a", objectives={"task_skill": 0.9, "memory": 5.0, "m:mine": 2.0}),
        make_result("b", objectives={"task_skill": math.nan}),
    ]
    matrix = selection.objective_matrix(results, ["task_skill", "memory", "m:mine"])
    assert matrix.tolist() == [[-0.9, 5.0, -2.0], [math.inf] * 3]
    assert selection.objective_matrix([], NAMES).shape == (0, 2)


@given(COARSE)
def test_ranks_are_those_of_the_definition(matrix) -> None:
    assert selection.ranks(matrix).tolist() == brute_ranks(matrix).tolist()


def test_ranks_with_infinities_that_moocore_gets_wrong() -> None:
    inf = math.inf
    rows = [[0, 3, 0], [inf, 3, 3], [3, 1, 0], [inf, 0, 1], [1, 1, inf], [inf, 1, 2], [2, 0, inf]]
    assert selection.ranks(np.array(rows)).tolist() == [0, 2, 0, 0, 0, 1, 0]


def test_later_stage_first_then_passed_then_rank_then_crowding(scored) -> None:
    results = [
        scored("a", 1.00, 0.00),  # perfect, but cheap
        scored("b", 0.60, 0.90, 2),
        scored("c", 0.95, 0.01, 1, stopped=STOP),
        scored("d", 0.90, 0.50, 1),
        scored("e", 0.70, 0.10, 1),
        scored("f", 0.80, 0.48, 1),  # crowded by d
        scored("g", 0.72, 0.20, 1),  # crowded by e, less alone than f
        scored("h", 0.60, 0.60, 1),  # dominated
    ]
    # f: (0.90-0.72)/0.2 + (0.50-0.20)/0.4 = 1.65; g: (0.80-0.70)/0.2 + (0.48-0.10)/0.4 = 1.45
    assert ids(selection.order(results, NAMES, TIE_BREAK)) == "bdefghca"


def test_ties_go_to_the_first_objective_then_the_id(scored) -> None:
    results = [scored("b", 0.6, 0.1), scored("c", 0.9, 0.4), scored("a", 0.6, 0.1)]
    assert ids(selection.order(results, NAMES, TIE_BREAK)) == "cab"


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2)), max_size=9))
def test_order_does_not_depend_on_arrival(scored, values) -> None:
    results = [scored(chr(97 + i), s / 3, c / 3, stage) for i, (s, c, stage) in enumerate(values)]
    shuffled = random.Random(0).sample(results, len(results))  # noqa: S311
    assert selection.order(shuffled, NAMES, TIE_BREAK) == selection.order(results, NAMES, TIE_BREAK)
    assert selection.front(shuffled, NAMES) == selection.front(results, NAMES)


def test_promote_by_rank_and_by_one_objective(scored) -> None:
    results = [
        scored("a", 0.99, 0.99, stopped=STOP),
        scored("b", 0.7, 0.1),
        scored("c", 0.9, 0.8),
        scored("d", 0.8, 0.9),
        scored("e", 0.9, 0.9),
    ]
    assert ids(selection.promote(results, 2, NAMES, "rank", TIE_BREAK)) == "cb"
    assert ids(selection.promote(results, 3, NAMES, "task_skill", TIE_BREAK)) == "ced"
    assert ids(selection.promote(results, 1, NAMES, "false_positive_cost", TIE_BREAK)) == "b"
    assert ids(selection.promote(results, 9, NAMES, "rank", TIE_BREAK)) == "cbed"
    assert selection.promote(results[:1], 1, NAMES, "rank", TIE_BREAK) == []


@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(3, 14), st.data())
def test_survival_is_that_of_pymoo(make_result, seed: int, m: int, n: int, data) -> None:
    count = data.draw(st.integers(1, n))
    matrix = np.random.default_rng(seed).random((n, m))
    names = [f"mine:{i}" for i in range(m)]
    results = [
        make_result(f"{i:02d}", objectives=dict(zip(names, -row, strict=True)))
        for i, row in enumerate(matrix)
    ]
    ours = {int(r.genome.id) for r in selection.survive(results, count, names, TIE_BREAK)}
    survival = RankAndCrowding()
    population = Population.new(F=matrix, index=np.arange(n))
    random_state = np.random.default_rng(0)
    theirs = survival.do(
        Problem(n_var=1, n_obj=m), population, n_survive=count, random_state=random_state
    )
    ranked = [p if p.get("rank") is not None else None for p in population]  # pymoo stops early
    standing = {
        i: (p.get("rank"), -p.get("crowding")) if p else (n, 0.0) for i, p in enumerate(ranked)
    }
    kept = sorted(standing[int(i)] for i in theirs.get("index"))
    assert sorted(standing[i] for i in ours) == kept
    if sorted(standing.values())[count : count + 1] != kept[-1:]:  # no tie at the cut
        assert ours == set(theirs.get("index"))


def test_survival_takes_each_genomes_highest_stage_and_nobody_stopped(scored) -> None:
    results = [
        scored("a", 0.9, 0.1, 0),
        scored("a", 0.6, 0.4, 1),
        scored("b", 0.8, 0.2, 0),
        scored("c", 0.99, 0.0, 0),
        scored("c", 0.2, 0.9, 1, stopped=STOP),
    ]
    survivors = selection.survive(results, 5, NAMES, TIE_BREAK)
    assert [(r.genome.id, r.stage_index) for r in survivors] == [("a", 1), ("b", 0)]
    assert ids(selection.survive(results, 1, NAMES, TIE_BREAK)) == "a"


def test_latest_takes_the_later_of_equals(scored) -> None:
    first, again = scored("a", 0.9, 0.1, 1), scored("a", 0.8, 0.2, 1)
    assert selection.latest([first, scored("a", 0.9, 0.1, 0), again]) == [again]


def test_front_is_of_the_highest_stage_passed(scored) -> None:
    results = [
        scored("a", 1.0, 0.0, 0),
        scored("b", 0.9, 0.3, 1),
        scored("c", 0.8, 0.1, 1),
        scored("d", 0.7, 0.3, 1),
        scored("e", 1.0, 0.0, 2, stopped=STOP),
    ]
    assert ids(selection.front(results, NAMES)) == "bc"
    assert selection.front([], NAMES) == []
    assert selection.front(results[-1:], NAMES) == []


def _front_from_one(results: list[TrainingResult]) -> list[TrainingResult]:
    return selection.latest(selection.points(results, NAMES, full_from=1))


def test_stages_measured_alike_share_a_front(scored) -> None:
    results = [
        scored("a", 1.0, 0.0, 0),
        scored("b", 0.95, 0.3, 1),
        scored("c", 0.8, 0.08, 1),
        scored("c", 0.7, 0.4, 2),
        scored("d", 0.9, 0.1, 1),
        scored("d", 0.97, 0.2, 2),
        scored("e", 0.75, 0.05, 1),
        scored("e", 0.99, 0.0, 2, stopped=STOP),
    ]
    front = _front_from_one(results)
    assert {(r.genome.id, r.stage_index) for r in front} == {("c", 1), ("d", 2), ("e", 1)}
    assert ids(_front_from_one(results[:1])) == "a"


def test_a_superseded_result_still_keeps_off_what_it_dominates(scored) -> None:
    """b is dominated by what a was at stage 1, by no member; and the front has lost volume."""
    before = [scored("a", 0.9, 0.1, 1), scored("b", 0.85, 0.15, 1)]
    after = [*before, scored("a", 0.95, 0.6, 2)]
    front = _front_from_one(after)
    assert [(r.genome.id, r.stage_index) for r in front] == [("a", 2)]
    first, now = map(_front_from_one, (before, after))
    assert selection.hypervolume(now, NAMES) < selection.hypervolume(first, NAMES)
    points = selection.points(after, NAMES, full_from=1)
    assert selection.hypervolume(points, NAMES) > selection.hypervolume(first, NAMES)


def test_front_keeps_equal_points(scored) -> None:
    assert ids(selection.front([scored("b", 0.9, 0.1), scored("a", 0.9, 0.1)], NAMES)) == "ab"


def test_tournament_prefers_the_best_and_larger_ones_more() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 4):
        wins = [selection.tournament(rng, "abcd", size) for _ in range(4000)]
        expected = 1 - (3 / 4) ** size  # the best wins unless it is never drawn
        assert wins.count("a") / 4000 == pytest.approx(expected, abs=0.03)


def test_hypervolume_by_hand(scored) -> None:
    one = [scored("a", 0.8, 0.4)]  # scaled: (0.2, 0.4) under (1.1, 1.1)
    two = [*one, scored("b", 0.6, 0.1)]  # (0.4, 0.1): adds (1.1 - 0.4) x (0.4 - 0.1)
    area = 1.1**2
    assert selection.hypervolume(one, NAMES) == pytest.approx(0.9 * 0.7 / area)
    assert selection.hypervolume(two, NAMES) == pytest.approx((0.9 * 0.7 + 0.7 * 0.3) / area)
    assert selection.hypervolume([*two, *two], NAMES) == selection.hypervolume(two, NAMES)
    assert selection.hypervolume([scored("a", 1.0, 0.0)], NAMES) == pytest.approx(1)
    assert selection.hypervolume([], NAMES) == 0


def test_a_full_box_is_no_more_than_full(make_result) -> None:
    names = tuple(f"own:{i}" for i in range(7))
    best = [make_result("a", 0, objectives=dict.fromkeys(names, 1.0))]
    for count in range(1, 8):
        bounds = dict.fromkeys(names, (0.0, 1.0))
        assert selection.hypervolume(best, names[:count], bounds) <= 1.0


def test_hypervolume_leaves_out_what_nobody_has_and_clips(make_result) -> None:
    names = ("task_skill", "cross_modal_gain", "memory")
    results = [
        make_result("a", objectives={"task_skill": 0.8, "memory": 50.0}),
        make_result("b", objectives={"task_skill": 0.5, "memory": 200.0}),
    ]
    bounds = selection.observed_bounds(results[:1], names)
    assert bounds == {"memory": (0.0, 50.0)}
    # Scaled: a (0.2, 1.0); b (0.5, 1.0 clipped) adds nothing.
    assert selection.hypervolume(results, names, bounds) == pytest.approx(0.9 * 0.1 / 1.1**2)
    nan = [
        result.model_copy(
            update={"objectives": {**result.objectives, "cross_modal_gain": math.nan}}
        )
        for result in results
    ]
    expected = selection.hypervolume(results, names, bounds)
    assert selection.hypervolume(nan, names, bounds) == expected


def spread(make_result, count: int, names: Sequence[str]) -> list[TrainingResult]:
    """Results of which, but for few, none dominates another."""
    losses = np.random.default_rng(1).exponential(size=(count, len(names)))
    rows = 1 - losses / losses.sum(axis=1, keepdims=True)
    return [
        make_result(f"g{place}", objectives=dict(zip(names, row, strict=True)))
        for place, row in enumerate(rows)
    ]


def test_a_hypervolume_that_would_take_minutes_is_estimated(
    make_result, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"my:objective{place}" for place in range(8)]
    results = spread(make_result, 400, names)
    exact = selection.hypervolume(results[:100], names)
    monkeypatch.setattr(selection, "_exact_share", lambda _: pytest.fail("it would take minutes"))
    volumes = [selection.hypervolume(results[:count], names) for count in (150, 250, 400)]
    assert exact < volumes[0] < volumes[1] < volumes[2] < 1
    monkeypatch.setattr(selection, "MOST_STEPS", 0)
    assert selection.hypervolume(results[:100], names) == pytest.approx(exact, abs=0.005)


def test_the_front_of_a_large_default_run_has_an_exact_hypervolume(
    make_result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "_exact_share", lambda scaled: len(scaled))
    results = spread(make_result, 800, list(OBJECTIVES))
    assert selection.hypervolume(results, list(OBJECTIVES)) == 800


def test_cross_modal_gain_counts_from_minus_one_to_one(make_result) -> None:
    names = ("task_skill", "cross_modal_gain")
    gains = make_result("a", objectives={"task_skill": 1.0, "cross_modal_gain": 0.2})
    # Scaled: skill 0, gain (1 - 0.2) / 2 = 0.4.
    assert selection.hypervolume([gains], names) == pytest.approx(1.1 * 0.7 / 1.1**2)


def test_bounds_of_a_users_own_objective_are_what_was_seen(make_result) -> None:
    values = (3.0, math.nan, -2.0)
    results = [make_result(str(v), objectives={"my:gain": v}) for v in values]
    assert selection.observed_bounds(results, ["my:gain", "task_skill"]) == {"my:gain": (-2, 3)}
    best = [make_result("a", objectives={"my:gain": 3.0})]
    assert selection.hypervolume(best, ["my:gain"], {"my:gain": (-2.0, 3.0)}) == pytest.approx(1)


def test_an_infinite_value_is_worst_whichever_way_its_objective_goes(make_result) -> None:
    values = {"task_skill": math.inf, "m:mine": math.inf, "memory": -math.inf}
    result = make_result("a", objectives=values)
    assert selection.objective_matrix([result], list(values)).tolist() == [[math.inf] * 3]


def test_hypervolume_keeps_an_objective_that_only_some_have(make_result) -> None:
    names = ("task_skill", "cross_modal_gain")
    results = [
        make_result("a", objectives={"task_skill": 1.0, "cross_modal_gain": 0.2}),
        make_result("b", objectives={"task_skill": 1.0}),  # no gain: worst, so it adds nothing
    ]
    assert selection.hypervolume(results, names) == pytest.approx(1.1 * 0.7 / 1.1**2)


def test_a_tie_break_is_told_how_many_places_later_stages_leave(
    make_result, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[tuple[int, int]] = []

    def note(matrix, rank, count: int):
        wanted.append((len(matrix), count))
        return np.zeros(len(matrix))

    monkeypatch.setitem(selection.TIE_BREAKS, TIE_BREAK, note)
    results = [make_result(name, stage) for name, stage in (("a", 1), ("b", 1), ("c", 0))]
    selection.order(results, NAMES, TIE_BREAK, 5)
    assert wanted == [(2, 5), (1, 3)]
