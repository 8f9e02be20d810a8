"""The benchmark of searches: same problems, same prices, nothing reported beyond the budget."""

import itertools
from argparse import Namespace
from importlib import import_module as load
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coralx.search.space import build, check, sample_distinct
from coralx.settings.sections import DEFAULT_STAGES


def test_the_last_stage_tells_the_truth_and_earlier_ones_ever_less_of_it() -> None:
    problem = load("fidelity_problems").PROBLEMS["zdt1"]
    point = build({"x0": 0.25, **{f"x{place}": 0.0 for place in range(1, 8)}})
    truth = problem.look_up(point, DEFAULT_STAGES[3]).objectives
    assert truth == {"zdt1:f1": -0.25, "zdt1:f2": -0.5}  # f2 = 1 - sqrt(f1) on the front
    errors = np.zeros(4)
    for genome in sample_distinct(problem.space, 50, np.random.default_rng(0)):
        found = [list(problem.look_up(genome, s).objectives.values()) for s in DEFAULT_STAGES]
        errors += [np.abs(np.subtract(values, found[-1])).sum() for values in found]
    assert all(now > later for now, later in itertools.pairwise(errors))


def test_full_training_is_charged_without_the_evaluations_that_nobody_asked_for() -> None:
    competitors = load("competitors")
    problem = load("fidelity_problems").PROBLEMS["dtlz2"]
    (genome,) = sample_distinct(problem.space, 1, np.random.default_rng(0))

    class Evaluated:
        stages = DEFAULT_STAGES

        def look_up(self, genome: Any, stage: Any) -> Any:
            result = problem.look_up(genome, stage)
            cost = result.cost.model_copy(update={"train_seconds": 2.0, "eval_seconds": 1.0})
            return result.model_copy(update={"cost": cost})

    assert competitors.price(Evaluated(), (3,), 0, genome) == 4 * 2.0 + 1.0
    rungs = (1, 2, 3)
    prices = [competitors.price(Evaluated(), rungs, place, genome) for place in range(3)]
    assert prices == [2 * 2.0 + 1.0, 3.0, 3.0]


@pytest.mark.parametrize(
    "method", ["random", "optuna-nsga2", "optuna-tpe", "syne-tune-moasha-mended"]
)
def test_a_searcher_draws_from_the_space_and_keeps_to_the_budget(method: str) -> None:
    for package in ("optuna", "syne_tune"):
        if method.startswith(package.replace("_", "-")):
            pytest.importorskip(package)
    competitors, problem = load("competitors"), load("fidelity_problems").PROBLEMS["zdt3"]
    budget = 12 * 3100.0  # steps of a full training, a second each on average
    searcher = competitors.SEARCHERS[method](problem, 1)
    found, steps = competitors.simulate(problem, searcher, budget, workers=3)
    assert len(found) > 5
    for now, result in found:
        assert 0 < now <= budget
        assert result.stage == "S3_finisher"
        check(problem.space, result.genome)
    halves = method.startswith("syne-tune")
    full = 3063 * len(found)  # 2.5 + 60 + 1000 + 2000 steps, each stage's rounded
    assert (steps > full) if halves else (abs(steps - full) <= len(found))


@pytest.mark.parametrize(
    "method", ["coralx-halving", "coralx-halving-wide", "coralx-asha", "random"]
)
def test_hypervolume_grows_with_the_budget_and_stays_below_the_best(method: str) -> None:
    quality = load("search_quality")
    arguments = Namespace(table=Path("none"), budget=12.0, workers=1, population=8)
    row = quality.run_one(arguments, ("dtlz2", method, 0))
    curve = row["hypervolume"]
    assert curve == sorted(curve)
    assert 0 < curve[-1] <= 1
    assert row["finished"] > 0
    assert quality.run_one(arguments, ("dtlz2", method, 0)) == row


def test_a_method_may_let_other_shares_go_on() -> None:
    quality, problem = load("search_quality"), load("fidelity_problems").PROBLEMS["dtlz2"]
    config = quality.coralx_config(problem, 0, 8, {"survival_rate": {"S2_serious": 0.5}})
    rates = [stage.survival_rate for stage in config.hyperband.stages]
    usual = [stage.survival_rate for stage in DEFAULT_STAGES]
    assert rates == [*usual[:2], 0.5, usual[3]]
