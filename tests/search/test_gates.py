"""Each gate, just inside and just outside its limit."""

from __future__ import annotations

import math

import pytest

from coralx.records import CurvePoint, Stop
from coralx.search import gates
from coralx.settings.sections import DEFAULT_STAGES

SANITY, SHAKEOUT, _, FINISHER = DEFAULT_STAGES


@pytest.mark.parametrize(
    ("facts", "gate", "value", "words"),
    [
        (
            {"details": {"grad_norm": 7.31}},
            "gradient_norm",
            7.31,
            "gradient norm 7.31 > 5.0 (median over S0_sanity, before clipping)",
        ),
        ({"details": {"loss_slope_t": 3.5}}, "loss_rising", 3.5, "t statistic of its slope 3.5"),
        ({"details": {"grad_norm": math.inf}}, "non_finite", None, "gradient norm is inf"),
        ({"objectives": {"task_skill": math.nan}}, "non_finite", None, "task_skill is nan"),
        (
            {"curve": (CurvePoint(step=1, loss=0.7), CurvePoint(step=2, loss=math.nan))},
            "non_finite",
            None,
            "loss at step 2 is nan in S0_sanity",
        ),
    ],
)
def test_sanity_stops(make_result, facts, gate: str, value: float | None, words: str) -> None:
    stop = gates.check(SANITY, make_result("a", **facts))
    assert stop is not None
    assert (stop.gate, stop.value) == (gate, value)
    assert words in stop.reason


def test_auroc_below_the_limit_stops(make_result) -> None:
    stop = gates.check(SHAKEOUT, make_result("a", 1, objectives={"task_skill": 0.54}))
    assert stop == Stop(
        gate="auroc",
        value=0.54,
        limit=0.55,
        reason="AUROC 0.54 < 0.55 (validation rows, after S1_shakeout)",
    )


def test_the_proxy_discount_stops_no_genome_above_the_limit(make_result) -> None:
    scores = {"objectives": {"task_skill": 0.54}, "details": {"auroc": 0.6}}
    assert gates.check(SHAKEOUT, make_result("a", 1, **scores)) is None


@pytest.mark.parametrize(
    ("stage", "facts"),
    [
        (SANITY, {"details": {"grad_norm": 5.0, "loss_slope_t": 3.0}}),
        (SANITY, {"details": {"loss_slope_t": -math.inf}}),
        (SANITY, {"objectives": {"task_skill": 0.1}}),
        (SHAKEOUT, {"objectives": {"task_skill": 0.55}, "details": {"grad_norm": 99.0}}),
        (SHAKEOUT, {"details": {"loss_slope_t": 99.0}}),
        (SHAKEOUT, {}),
        (FINISHER, {"objectives": {"task_skill": 0.0}}),
    ],
)
def test_what_is_at_its_limit_or_has_no_gate_passes(make_result, stage, facts) -> None:
    assert gates.check(stage, make_result("a", **facts)) is None


def test_a_stop_that_training_reported_stands(make_result) -> None:
    stop = Stop(gate="out_of_memory", value=9e9, limit=4e9, reason="9 GB needed, 4 GB there")
    bad = {"details": {"grad_norm": 99.0}, "stopped": stop}
    assert gates.check(SANITY, make_result("a", **bad)) == stop


def test_the_first_rule_broken_is_named(make_result) -> None:
    facts = {"details": {"grad_norm": math.nan, "loss_slope_t": 9.0}}
    stop = gates.check(SANITY, make_result("a", **facts))
    assert stop is not None
    assert stop.gate == "non_finite"


def test_a_gradient_norm_is_named_before_a_rising_loss_and_that_before_auroc(make_result) -> None:
    strict = SANITY.model_copy(update={"min_auroc": 0.55})
    facts = {"grad_norm": 99.0, "loss_slope_t": 9.0, "auroc": 0.1}
    named = []
    while facts:
        stop = gates.check(strict, make_result("a", details=facts))
        assert stop is not None
        named.append(stop.gate)
        facts.pop(next(iter(facts)))
    assert named == ["gradient_norm", "loss_rising", "auroc"]
