"""Rank correlation between stages, against scipy and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from coralx.records import Stop
from coralx.search.correlation import interval, pooled_rho, stage_correlations

STOP = Stop(gate="auroc", value=0.5, limit=0.55, reason="AUROC 0.5 < 0.55")


def columns(*pairs):
    return tuple(np.array(column, dtype=np.float64) for column in pairs)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=30))
def test_one_group_is_spearmans_rho_ties_included(pairs) -> None:
    x, y = columns(*zip(*pairs, strict=True))
    rho, n, free = pooled_rho([(x, y)])
    assert n == free == len(pairs)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert rho is None
    else:
        assert rho == pytest.approx(spearmanr(x, y)[0])


def test_groups_are_ranked_apart() -> None:
    # Within each the order is reversed; between them the second is better in both, by far.
    first, second = columns([1, 2, 3], [3, 2, 1]), columns([11, 12, 13], [13, 12, 11])
    assert pooled_rho([first, second]) == (pytest.approx(-1), 6, 5)
    # Ranks / size, centred: (-1/3, 0, 1/3) against itself, (-1/4, 1/4) against its reverse.
    mixed = [columns([1, 2, 3], [1, 2, 3]), columns([5, 6], [6, 5])]
    assert pooled_rho(mixed)[0] == pytest.approx((2 / 9 - 2 / 16) / (2 / 9 + 2 / 16))
    assert pooled_rho([*mixed, columns([9], [9])])[1:] == (5, 4)  # one alone says nothing
    assert pooled_rho([columns([9], [9])]) == (None, 0, 0)


def test_interval_by_hand() -> None:
    # atanh(.5) = .5493; 1.96 x sqrt((1 + .125) / 9) = .6930
    assert interval(0.5, 12) == pytest.approx((math.tanh(-0.1437), math.tanh(1.2423)), abs=1e-3)
    assert interval(0.5, 3) is None
    low, high = interval(1.0, 8)
    assert high == 1.0
    assert 0.7 < low < 0.95  # eight in the same order are no proof of a perfect one
    assert interval(-1.0, 8) == pytest.approx((-high, -low))


def test_intervals_hold_the_true_rho_about_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    r = 0.5
    true = 6 / math.pi * math.asin(r / 2)  # of a bivariate normal
    held = 0
    for _ in range(400):
        x = rng.normal(size=(3, 8))
        y = r * x + math.sqrt(1 - r * r) * rng.normal(size=(3, 8))
        rho, _, free = pooled_rho(list(zip(x, y, strict=True)))
        low, high = interval(rho, free)
        held += low <= true <= high
    assert held / 400 == pytest.approx(0.95, abs=0.03)


def runs(make_result, skills, stage_names=("S0", "S1"), **facts):
    """A result per genome and stage; None where it was not trained."""
    return [
        make_result(
            f"g{place}", index, stage=stage_names[index], objectives={"task_skill": skill}, **facts
        )
        for place, pair in enumerate(skills)
        for index, skill in enumerate(pair)
        if skill is not None
    ]


def test_who_is_compared_and_what_is_said(make_result) -> None:
    same = [(place / 10, place / 20) for place in range(9)]
    results = runs(make_result, [*same, (0.99, None), (0.3, math.nan)])
    (found,) = stage_correlations(results, ["task_skill", "safety"])
    assert (found.stage, found.next_stage, found.objective) == ("S0", "S1", "task_skill")
    assert (found.entered, found.n, found.rho) == (11, 9, 1.0)
    assert found.predicts is True
    (few,) = stage_correlations(runs(make_result, same[:7]), ["task_skill"])
    assert (few.n, few.rho, few.predicts) == (7, 1.0, None)
    turned = [(early, -late) for early, late in same]
    (found,) = stage_correlations(runs(make_result, turned), ["task_skill"])
    assert (found.rho, found.predicts) == (-1.0, False)


def test_a_weak_rho_does_not_predict_however_sure_it_is(make_result) -> None:
    rng = np.random.default_rng(1)
    early = rng.normal(size=2000)
    late = 0.1 * early + rng.normal(size=2000)
    (found,) = stage_correlations(runs(make_result, zip(early, late, strict=True)), ["task_skill"])
    assert 0 < found.low < found.rho < 0.2
    assert found.predicts is False


def test_pairs_are_the_stages_that_follow_each_other_in_a_genomes_life(make_result) -> None:
    results = runs(make_result, [(0.1, 0.2, 0.3), (0.2, 0.3, 0.4)], ("S0", "S1", "S2"))
    pairs = [(c.stage, c.next_stage) for c in stage_correlations(results, ["task_skill"])]
    assert pairs == [("S0", "S1"), ("S1", "S2")]
    assert stage_correlations([], ["task_skill"]) == []


def test_a_genome_that_the_next_stage_stopped_was_measured_there(make_result) -> None:
    pairs = [(place / 10, place / 20) for place in range(4)]
    results = runs(make_result, pairs)
    results[1] = results[1].model_copy(update={"stopped": STOP})
    (found,) = stage_correlations(results, ["task_skill"])
    assert found.n == 4
