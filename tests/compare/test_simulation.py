"""The instant heuristic: quick, repeatable, and good for nothing but to be told from the real."""

from coralx.compare.simulation import simulate
from coralx.objectives import OBJECTIVES
from coralx.records import Genome, LoRAConfig

GENOMES = [
    Genome(lora_cfg=LoRAConfig(r=r), learning_rate=rate) for r in (2, 16) for rate in (1e-6, 1e-3)
]


def test_equal_calls_invent_alike_and_another_seed_otherwise() -> None:
    first = simulate(GENOMES, tuple(OBJECTIVES), seed=1)
    assert simulate(GENOMES, tuple(OBJECTIVES), seed=1) == first
    assert simulate(GENOMES, tuple(OBJECTIVES), seed=2) != first
    assert simulate(GENOMES[2:], tuple(OBJECTIVES), seed=1) == first[2:]


def test_every_objective_asked_for_gets_a_value_within_its_bounds() -> None:
    for result in simulate(GENOMES, (*OBJECTIVES, "mine:own"), seed=0):
        assert set(result.objectives) == {*OBJECTIVES, "mine:own"}
        assert all(-1 <= v <= 1 for n, v in result.objectives.items() if n != "memory")
        assert result.checkpoint is None
        assert result.cost.steps == 0


def test_hyper_parameters_alone_decide() -> None:
    skills = [r.objectives["task_skill"] for r in simulate(GENOMES, ("task_skill",), seed=0)]
    assert max(skills) == skills[3]  # a high rank at a middling rate
    assert min(skills) in (skills[0], skills[2])  # hardly any learning rate
