"""Starts, growth, proxy and ids of the jobs of a stage."""

from __future__ import annotations

import pytest

from coralx.records import Cost, Genome, LoRAConfig, ModelShape, Start
from coralx.search.footprint import base_bytes
from coralx.search.jobs import measured_in_full, plan_jobs


def test_ids_are_stable_and_starts_go_with_their_genomes(settings) -> None:
    config = settings(training={"pack_size": 2})
    genomes = [Genome(id=name, lora_cfg=LoRAConfig(layers=1)) for name in "cab"]
    jobs = plan_jobs(config, 3, 0, genomes, {})
    assert [job.id for job in jobs] == ["g3-S0_sanity-0", "g3-S0_sanity-1"]
    assert [[g.id for g in job.genomes] for job in jobs] == [["a", "b"], ["c"]]
    assert jobs[0].starts == (Start(kind="fresh"), Start(kind="fresh"))
    assert jobs[0].stage == config.hyperband.stages[0]


def test_a_child_inherits_the_best_weights_of_its_better_parent(settings, make_result) -> None:
    past = {
        "better": [
            make_result("better", 0, checkpoint="b0"),
            make_result("better", 1, checkpoint="b1"),
            make_result("better", 2, checkpoint=None),
        ],
        "worse": [make_result("worse", 0, checkpoint="w0")],
    }
    child = Genome(id="child", parents=("better", "worse"), generation=1)
    (job,) = plan_jobs(settings(), 1, 0, [child], past)
    assert job.starts == (Start(kind="inherit", checkpoint="b1"),)
    (job,) = plan_jobs(settings(evolution={"warm_start": False}), 1, 0, [child], past)
    assert job.starts == (Start(kind="fresh"),)
    orphan = child.model_copy(update={"parents": ("unknown",)})
    (job,) = plan_jobs(settings(), 1, 0, [orphan], past)
    assert job.starts == (Start(kind="fresh"),)


def test_a_child_of_two_takes_both_where_weights_are_to_be_crossed(settings, make_result) -> None:
    past = {name: [make_result(name, 0, checkpoint=f"{name}0")] for name in ("better", "worse")}
    past["lost"] = [make_result("lost", 0, checkpoint=None)]
    config = settings(evolution={"crossover_weights": "ties"})

    def start(*parents: str, config=config) -> Start:
        child = Genome(id="child", parents=parents, generation=1)
        return plan_jobs(config, 1, 0, [child], past)[0].starts[0]

    both = Start(kind="merge", checkpoint="better0", second="worse0")
    assert start("better", "worse") == both
    assert both.sources == ("better0", "worse0")
    assert start("better") == start("better", "lost") == Start(kind="inherit", checkpoint="better0")
    assert start("lost", "worse") == Start(kind="fresh")
    cold = settings(evolution={"crossover_weights": "ties", "warm_start": False})
    assert start("better", "worse", config=cold) == Start(kind="fresh")


@pytest.mark.parametrize(("rank", "grown"), [(2, 4), (8, 16), (15, 30), (16, None), (64, None)])
def test_rank_grows_on_entering_s2_only(settings, make_result, rank: int, grown) -> None:
    genome = Genome(id="a", lora_cfg=LoRAConfig(r=2))
    trained = LoRAConfig(r=rank)  # what counts is the adapter as trained, not the gene
    past = {"a": [make_result("a", 1, checkpoint="a1", lora_cfg=trained)]}
    for stage_index, expected in ((1, None), (2, grown), (3, None)):
        (job,) = plan_jobs(settings(), 0, stage_index, [genome], past)
        assert job.starts == (Start(kind="continue", checkpoint="a1", grow_to=expected),)


def test_who_goes_on_brings_all_steps_that_it_took(settings, make_result) -> None:
    """Those after its best weights too, which a genome that left a stage early went back behind."""
    costs = [Cost(steps=5), Cost(steps=30)]
    past = {"a": [make_result("a", i, checkpoint=f"a{i}", cost=costs[i]) for i in (0, 1)]}
    (job,) = plan_jobs(settings(), 0, 2, [Genome(id="a")], past)
    assert job.starts[0].steps == 35


def test_steps_that_were_lost_are_not_brought(settings, make_result) -> None:
    past = {"a": [make_result("a", 0, cost=Cost(steps=30, lost_steps=12))]}
    (job,) = plan_jobs(settings(), 0, 1, [Genome(id="a")], past)
    assert job.starts[0].steps == 18


def test_rank_grows_up_to_the_largest_an_adapter_may_have(settings, make_result) -> None:
    config = settings(hyperband={"grow_below_rank": 1024})
    past = {"a": [make_result("a", 1, checkpoint="a1", lora_cfg=LoRAConfig(r=600))]}
    (job,) = plan_jobs(config, 0, 2, [Genome(id="a")], past)
    assert job.starts[0].grow_to == 1024


def test_packs_are_of_ranks_as_they_will_be_trained(settings, make_result) -> None:
    """a grows from 12 to 24 and so comes after b, that stays at 16 and has grown from 2."""
    trained = {"a": LoRAConfig(r=12), "b": LoRAConfig(r=16)}
    past = {name: [make_result(name, 1, lora_cfg=lora)] for name, lora in trained.items()}
    genomes = [
        Genome(id="a", lora_cfg=LoRAConfig(r=12)),
        Genome(id="b", lora_cfg=LoRAConfig(r=2)),
    ]

    def order(stage_index: int) -> list[str]:
        config = settings(training={"pack_size": 1})
        jobs = plan_jobs(config, 0, stage_index, genomes, past)
        return [job.genomes[0].id for job in jobs]

    assert order(2) == ["b", "a"]
    assert order(3) == ["a", "b"], "no growth there"


def test_growth_can_be_switched_off(settings, make_result) -> None:
    past = {"a": [make_result("a", 1, checkpoint="a1")]}
    config = settings(hyperband={"grow_rank_at": None})
    (job,) = plan_jobs(config, 0, 2, [Genome(id="a")], past)
    assert job.starts[0].grow_to is None


def test_the_proxy_scores_the_first_two_of_more_than_two_stages(settings, make_result) -> None:
    past = {"a": [make_result("a", 0, checkpoint="a0")]}

    def text_only(config, image_task: bool = True) -> list[bool]:
        indices = range(len(config.hyperband.stages))
        jobs = [plan_jobs(config, 0, i, [Genome(id="a")], past, image_task)[0] for i in indices]
        return [job.text_only for job in jobs]

    proxy = {"cross_modal_proxy": True}
    stages = settings().hyperband.training_stages
    assert text_only(settings(hyperband=proxy)) == [True, True, False, False]
    assert text_only(settings(hyperband=proxy), image_task=False) == [False] * 4
    assert text_only(settings()) == [False] * 4
    assert text_only(settings(hyperband={"training_stages": stages[2:], **proxy})) == [False] * 2


def test_memory_bounds_packs_where_the_shape_is_known(settings) -> None:
    shape = ModelShape(layers=6, hidden=384, intermediate=1536, vocab=30522)
    genomes = [Genome(id=name) for name in "abcdefgh"]
    tight = settings(training={"memory_budget_gb": 0.11})
    assert len(plan_jobs(tight, 0, 0, genomes, {})) == 1
    assert len(plan_jobs(tight, 0, 0, genomes, {}, shape=shape)) > 1
    assert len(plan_jobs(settings(), 0, 0, genomes, {}, shape=shape)) == 1


def test_packs_are_bounded_by_what_evaluation_takes_as_well(settings) -> None:
    shape = ModelShape(layers=6, hidden=384, intermediate=1536, vocab=30522)
    genomes = [Genome(id=name, lora_cfg=LoRAConfig(layers=2)) for name in "abcdefgh"]

    def count(rows: int) -> int:
        config = settings(training={"memory_budget_gb": 0.2, "evaluation_batch": rows})
        return len(plan_jobs(config, 0, 0, genomes, {}, shape=shape))

    assert [count(rows) for rows in (1, 32, 1024)] == [1, 2, 8]


def test_a_base_above_the_budget_does_not_part_packs(settings) -> None:
    """It is in memory however few genomes train on it, so the budget is of what they add."""
    shape = ModelShape(layers=24, hidden=2048, intermediate=5632, vocab=32000)
    assert base_bytes(shape) > settings().training.memory_budget_gb * 1e9
    genomes = [Genome(id=name, lora_cfg=LoRAConfig(layers=2)) for name in "abcdefgh"]
    assert len(plan_jobs(settings(), 0, 0, genomes, {}, shape=shape)) == 1


@pytest.mark.parametrize(("stage_index", "grown"), [(1, None), (2, 8), (3, 8)])
def test_a_copy_starts_from_its_models_stage_before_with_the_rank_of_its_own_genes(
    settings, make_result, stage_index: int, grown
) -> None:
    """Exploit loads the wrong weights: not the model's last or first, but those of that stage."""
    past = {"model": [make_result("model", i, checkpoint=f"m{i}") for i in range(4)], "copy": []}
    copy = Genome(id="copy", parents=("model",), lora_cfg=LoRAConfig(r=4))
    (job,) = plan_jobs(settings(), 0, stage_index, [copy], past)
    source = f"m{stage_index - 1}"
    assert job.starts == (Start(kind="inherit", checkpoint=source, grow_to=grown),)


def test_stages_on_all_rows_and_without_a_proxy_are_measured_in_full(settings) -> None:
    assert measured_in_full(settings(), True) == measured_in_full(settings(), False) == 2
    stages = [
        {"name": name, "epoch_budget": 1, "data_percentage": 100, "survival_rate": 0.5}
        for name in "abc"
    ]
    config = settings(hyperband={"training_stages": stages, "cross_modal_proxy": True})
    assert measured_in_full(config, image_task=False) == 0
    assert measured_in_full(config, image_task=True) == 2
    assert measured_in_full(settings(hyperband={"training_stages": stages}), image_task=True) == 0
    stages[1] |= {"survival_rate": 1}  # so that P1 alone is measured there
    assert measured_in_full(settings(hyperband={"training_stages": stages}), image_task=True) == 2
    exploiting = settings(hyperband={"training_stages": stages}, evolution={"exploit_below": 0.5})
    assert measured_in_full(exploiting, image_task=True) == 0
