"""The instant heuristic: quick, repeatable, and good for nothing but to be told from the real."""

from coralx.compare.simulation import simulate
from coralx.objectives import OBJECTIVES
from coralx.records import Genome, LoRAConfig

GENOMES = [
    Genome(lora_cfg=LoRAConfig(r=r), learning_rate=rate) for r in (2, 16) for rate in (1e-6, 1e-3)
]


def test_equal_calls_invent_alike_and_another_seed_otherwise() -> None:
    for genome in GENOMES:
        first = simulate(genome, tuple(OBJECTIVES), seed=1)
        assert simulate(genome, tuple(OBJECTIVES), seed=1) == first
        assert simulate(genome, tuple(OBJECTIVES), seed=2) != first


def test_every_objective_asked_for_gets_a_value_within_its_bounds() -> None:
    for genome in GENOMES:
        found = simulate(genome, (*OBJECTIVES, "mine:own"), seed=0)
        assert set(found) == {*OBJECTIVES, "mine:own"}
        assert all(-1 <= value <= 1 for name, value in found.items() if name != "memory")


def test_hyper_parameters_alone_decide() -> None:
    skills = [simulate(genome, ("task_skill",), seed=0)["task_skill"] for genome in GENOMES]
    assert max(skills) == skills[3]  # a high rank at a middling rate
    assert min(skills) in (skills[0], skills[2])  # hardly any learning rate
