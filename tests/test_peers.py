"""The benchmark against other tools: its clock, its arithmetic, and that each tool searches."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import numpy as np
import pytest

from coralx.config import load_config
from coralx.search import space

for needed in ("optuna", "ray", "syne_tune"):
    pytest.importorskip(needed)

RATE = {"kind": "float", "low": 1e-4, "high": 1e-2, "log": True}
CONFIG = load_config(
    {"space": {"r": {"kind": "integer", "low": 1, "high": 4}, "learning_rate": RATE}}
)


def search_at_once(function: str, module: str, config=CONFIG, limit: float = 600):
    """The points of a search whose adapters are trained by a formula, a second a unit of budget."""
    trial = import_module("peer_tools.trial")
    now, genomes = [0.0], []

    class AtOnce(trial.Task):
        def begin(self, genome):
            self.book.check()
            genomes.append(genome)
            return [genome, 0]

        def objectives_at(self, number, adapter, budget):
            now[0] += budget - adapter[1]
            adapter[1] = budget
            place = space.position(config.space["learning_rate"], adapter[0].learning_rate)
            skill = 0.5 + 0.4 * place * budget / trial.FULL
            found = {"task_skill": skill, "memory": 1e8 * adapter[0].lora_cfg.r}
            self.book.record(number, budget, found)
            return found

        def skill_at(self, number, adapter, budget):
            return self.objectives_at(number, adapter, budget)["task_skill"]

    book = trial.Book(limit, lambda: now[0])
    getattr(import_module(module), function)(AtOnce(config, None, ("task_skill", "memory"), book))
    for genome in genomes:
        space.check(config.space, genome)
    return book.points, [genome.genes() for genome in genomes], trial.RUNGS


@pytest.mark.parametrize(
    ("module", "function"),
    [("peer_tools.with_optuna", "hyperband"), ("peer_tools.with_syne_tune", "moasha")],
)
def test_adapters_climb_the_rungs_and_some_are_left_on_the_way(module, function):
    points, genomes, rungs = search_at_once(function, module)
    reached = {}
    for point in points:
        reached.setdefault(point["trial"], []).append(point["budget"])
    assert all(tuple(budgets) == rungs[: len(budgets)] for budgets in reached.values())
    full = sum(budgets[-1] == rungs[-1] for budgets in reached.values())
    assert 1 <= full < len(reached) - 2
    assert search_at_once(function, module)[1] == genomes  # the seed decides


def test_nsga2_trains_every_adapter_in_full():
    points, _, rungs = search_at_once("nsga2", "peer_tools.with_optuna")
    assert [point["budget"] for point in points] == [rungs[-1]] * len(points)
    assert [point["seconds"] for point in points] == [27.0 * (n + 1) for n in range(len(points))]


@pytest.mark.parametrize("name", ["peer_tools.with_ray", "peer_tools.with_syne_tune"])
def test_every_draw_is_a_genome_of_the_space(name):
    module: ModuleType = import_module(name)
    genes = {**CONFIG.space, "r": space.Integer(low=1, high=2)}
    domains = {n: module.domain(gene) for n, gene in genes.items()}
    np.random.seed(0)
    drawn = [module.decode(genes, {n: d.sample() for n, d in domains.items()}) for _ in range(40)]
    for genome in drawn:
        space.check(genes, genome)
    assert {genome.lora_cfg.r for genome in drawn} == {1, 2}


def test_what_the_peer_did_not_ask_for_is_off_its_clock():
    trial = import_module("peer_tools.trial")
    now = [100.0]
    book = trial.Book(10, lambda: now[0])
    now[0] = 109.0
    book.discount(3)
    book.record(0, 1, {"task_skill": 0.7})
    assert book.points[0]["seconds"] == 6.0
    now[0] = 113.0
    book.check()
    now[0] = 114.0
    with pytest.raises(trial.OutOfTime):
        book.check()


def test_time_to_quality_is_the_first_time_the_peer_has_what_coralx_ends_with():
    peers = import_module("peers")

    def point(seconds: float, skill: float) -> dict:
        return {
            "seconds": seconds,
            "trial": int(seconds),
            "budget": 27,
            "objectives": {"task_skill": skill, "false_positive_cost": 0.4},
        }

    front = [point(0, 0.8)["objectives"]]
    runs = [
        {"seed": 1, "peer": "ray_asha", "seconds": 40.0, "points": [point(5, 0.7), point(8, 0.79)]},
        {"seed": 1, "peer": "optuna_nsga2", "seconds": 40.0, "points": [point(15, 0.796)] * 2},
        {"seed": 1, "peer": "syne_tune_moasha", "seconds": 40.0, "points": [point(25, 0.81)]},
        {
            "seed": 1,
            "peer": "coralx",
            "seconds": 10.0,
            "trials": 3,
            "names": ["task_skill", "false_positive_cost"],
            # A front that is given up again for one of a later stage is not the goal.
            "full": 1,
            "fronts": [
                {"seconds": 4.0, "front": [point(0, 0.9)["objectives"]]},
                {"seconds": 10.0, "front": front},
            ],
        },
    ]
    rows = {row["peer"]: row for row in peers.judge(runs, 1, 4.0)}
    ratios = {p: (row["ratio_hypervolume"], row["ratio_auroc"]) for p, row in rows.items()}
    assert ratios["ray_asha"] == (None, None)
    assert ratios["optuna_nsga2"] == (None, 1.5)
    assert ratios["syne_tune_moasha"] == (2.5, 2.5)
    assert [entry["auroc"] for entry in rows["ray_asha"]["at"]] == [0.0, 0.7, 0.79, 0.79, 0.79]
    own = {p: (row["ratio_hypervolume_own"], row["ratio_auroc_own"]) for p, row in rows.items()}
    assert own["optuna_nsga2"] == (None, 3.75)
    assert own["syne_tune_moasha"] == (6.25, 6.25)
    assert own["coralx"] == (1.0, 1.0)
    summary = peers.summarise(list(rows.values()))
    assert summary["optuna_nsga2"]["ratio_hypervolume"]["censored"] == 1
    assert peers.quote(summary["optuna_nsga2"]["ratio_hypervolume"]).startswith(">4.00x")
    assert peers.quote(summary["optuna_nsga2"]["ratio_hypervolume_own"]).startswith(">10.00x")
