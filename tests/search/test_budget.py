"""Costs in steps, by hand and against the paper's table."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coralx.config import load_config
from coralx.errors import ConfigError
from coralx.records import Cost, Stop
from coralx.search import budget
from coralx.settings.sections import DEFAULT_STAGES


def test_the_plan_of_the_default_stages() -> None:
    plan = budget.plan(DEFAULT_STAGES, 8, 1000, 2)
    assert (plan.naive_steps, plan.hyperband_steps) == (16000, 6500)
    assert plan.speedup == 16000 / 6500
    assert [(s.name, s.genomes, s.steps_per_genome, s.steps) for s in plan.stages] == [
        ("S0_sanity", 8, 2.5, 20),
        ("S1_shakeout", 8, 60, 480),
        ("S2_serious", 4, 1000, 4000),
        ("S3_finisher", 1, 2000, 2000),
    ]


def test_one_stage_is_naive_training() -> None:
    assert budget.plan(DEFAULT_STAGES[-1:], 8, 1000, 2).speedup == 1


@pytest.mark.parametrize(
    ("entered", "rate", "expected"),
    [
        (8, 1.0, 8),
        (8, 0.5, 4),
        (4, 0.25, 1),
        (10, 0.3, 3),
        (100, 0.29, 29),
        (9, 1 / 3, 3),
        (7, 0.5, 3),
        (3, 0.1, 1),
        (0, 0.5, 0),
        (10, 0.9999999, 9),
        (10, 1 - 0.9, 1),
        (10, 0.1 + 0.2, 3),
    ],
)
def test_survivors(entered: int, rate: float, expected: int) -> None:
    assert budget.survivors(entered, rate) == expected


@given(st.integers(1, 10_000), st.integers(1, 1000))
def test_survivors_is_the_floor_for_every_short_decimal(entered: int, thousandths: int) -> None:
    expected = max(1, entered * thousandths // 1000)
    assert budget.survivors(entered, thousandths / 1000) == expected


def test_brackets_are_those_of_the_papers_table() -> None:
    assert budget.brackets(81, 3) == (
        ((81, 1), (27, 3), (9, 9), (3, 27), (1, 81)),
        ((27, 3), (9, 9), (3, 27), (1, 81)),
        ((9, 9), (3, 27), (1, 81)),
        ((6, 27), (2, 81)),
        ((5, 81),),
    )


@given(st.integers(1, 5000), st.integers(2, 6))
def test_every_bracket_ends_at_the_largest_budget(most: int, eta: int) -> None:
    found = budget.brackets(most, eta)
    assert len(found) == math.floor(math.log(most, eta) + 1e-9) + 1
    for rungs in found:
        assert rungs[-1].budget == most
        assert all(rung.genomes >= 1 and rung.budget >= 1 for rung in rungs)


def test_brackets_refuse_what_has_no_rung() -> None:
    with pytest.raises(ConfigError, match="at least 1 and eta at least 2, got 81 and 1"):
        budget.brackets(81, 1)


def test_efficiency_by_hand(make_result) -> None:
    stages = DEFAULT_STAGES[:2]
    first = [
        Cost(steps=3, planned_steps=2.5, tokens=30, train_seconds=1, busy_share=0.5, flops=1e3),
        Cost(steps=3, planned_steps=2.5, tokens=20, train_seconds=2, busy_share=0.8, flops=1e3),
    ]
    second = Cost(
        steps=40,
        planned_steps=60,
        tokens=100,
        computed_tokens=120,
        train_seconds=5,
        eval_seconds=2,
        busy_share=1.0,
        peak_memory=7,
    )
    stop = Stop(gate="gradient_norm", value=7.0, limit=5.0, reason="gradient norm 7 > 5")
    results = [
        make_result("a", stage="S0_sanity", cost=first[0]),
        make_result("b", stage="S0_sanity", cost=first[1], stopped=stop),
        make_result("a", 1, stage="S1_shakeout", cost=second, left_early=True),
    ]
    report = budget.efficiency(results, stages, 1000, 2)
    assert report["naive_steps"] == 4000
    assert report["steps"] == 46
    assert report["efficiency_ratio"] == 4000 / 46
    assert report["saved_by_leaving_early"] == 20
    assert (report["tokens"], report["computed_tokens"], report["flops"]) == (150, 120, 2000)
    assert (report["seconds"], report["peak_memory"], report["genomes"]) == (10, 7, 2)
    assert report["busy_share"] == pytest.approx((1 * 0.5 + 2 * 0.8 + 7 * 1.0) / 10)
    sanity, shakeout = report["stages"]
    assert (sanity["name"], sanity["genomes"], sanity["steps"]) == ("S0_sanity", 2, 6)
    assert (sanity["planned_steps"], sanity["stopped"], sanity["seconds"]) == (5, 1, 3)
    assert (shakeout["genomes"], shakeout["steps"], shakeout["stopped"]) == (1, 40, 0)


def test_efficiency_of_nothing_is_zero_not_an_error() -> None:
    report = budget.efficiency([], DEFAULT_STAGES, 1000, 2)
    assert (report["efficiency_ratio"], report["steps"], report["busy_share"]) == (0, 0, 0)
    assert [stage["genomes"] for stage in report["stages"]] == [0, 0, 0, 0]


@given(st.integers(1, 500), st.floats(0, 1))
def test_adaptive_budgets_move_steps_between_stages_and_add_none(
    population: int, diversity: float
) -> None:
    plan = budget.plan(DEFAULT_STAGES, population, 1000, 2)
    adapted = budget.adapt(DEFAULT_STAGES, population, diversity)
    again = budget.plan(adapted, population, 1000, 2)
    assert again.hyperband_steps == pytest.approx(plan.hyperband_steps)
    shares = [stage.steps / again.hyperband_steps for stage in again.stages]
    explores = (0.1, 0.4, 0.3, 0.2) if diversity > 0.8 else (0.05, 0.2, 0.35, 0.4)
    assert shares == pytest.approx(explores)
    assert [s.genomes for s in again.stages] == [s.genomes for s in plan.stages]


def test_what_is_too_much_for_a_stage_goes_to_the_others() -> None:
    """The last stage takes nearly all steps; a twentieth of them are thousands of epochs for S0."""
    stages = [
        stage.model_copy(update={"epoch_budget": epochs, "data_percentage": share})
        for stage, epochs, share in zip(
            DEFAULT_STAGES, (0.05, 0.3, 1, 1000), (0.5, 20, 100, 100), strict=True
        )
    ]
    adapted = budget.adapt(stages, 8, 0.5)
    assert max(stage.epoch_budget for stage in adapted) == adapted[0].epoch_budget == 1000
    before, after = (budget.plan(each, 8, 1000, 2) for each in (stages, adapted))
    assert after.hyperband_steps == pytest.approx(before.hyperband_steps)
    second, third, fourth = (stage.steps for stage in after.stages[1:])
    left = before.hyperband_steps - after.stages[0].steps
    assert (second, third, fourth) == pytest.approx(
        (0.2 / 0.95 * left, 0.35 / 0.95 * left, 0.4 / 0.95 * left)
    )


@pytest.mark.parametrize(
    ("hyperband", "message"),
    [
        ({"training_stages": [dict(DEFAULT_STAGES[0])]}, "steps of four training_stages, got 1"),
        ({"enable_hyperband": False}, "needs enable_hyperband: true, got False"),
        ({"promotion": "asha"}, "needs promotion: halving, got 'asha'"),
    ],
)
def test_adaptive_budgets_need_four_stages_that_close(hyperband, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config({"hyperband": {"adaptive_budgets": True, **hyperband}})


def test_a_step_that_was_rounded_up_is_not_saved_below_nothing(make_result) -> None:
    costs = Cost(steps=3, planned_steps=2.5), Cost(steps=40, planned_steps=60)
    results = [make_result("a", i, left_early=True, cost=cost) for i, cost in enumerate(costs)]
    assert budget.efficiency(results, DEFAULT_STAGES, 1000, 2)["saved_by_leaving_early"] == 20


def test_copies_made_by_exploit_do_not_count_as_genomes_that_naive_training_would_train(
    make_result,
) -> None:
    trained = [make_result("a", 0), make_result("b", 0), make_result("a", 1)]
    copy = make_result("c", 1, start={"kind": "inherit", "checkpoint": "a0"})
    report = budget.efficiency([*trained, copy], DEFAULT_STAGES, 1000, 2)
    assert report["naive_steps"] == 2 * 2 * 1000
    assert report["genomes"] == 3


def test_an_heir_counts_as_a_genome_that_naive_training_would_train(make_result) -> None:
    """Unlike a copy made by exploit, a child begins in the first stage."""
    child = make_result("b", 0, start={"kind": "inherit", "checkpoint": "a0"})
    report = budget.efficiency([make_result("a", 0), child], DEFAULT_STAGES, 1000, 2)
    assert report["naive_steps"] == 2 * 2 * 1000


def test_a_genome_that_was_stopped_has_saved_nothing_by_leaving_early(make_result) -> None:
    stop = Stop(gate="non_finite", value=None, limit=None, reason="loss is nan")
    stopped = make_result("a", stopped=stop, cost=Cost(steps=3, planned_steps=60))
    report = budget.efficiency([stopped], DEFAULT_STAGES, 1000, 2)
    assert report["saved_by_leaving_early"] == 0
