"""Starts, growth, proxy and ids of the jobs of a stage."""

from __future__ import annotations

import pytest

from coralx.records import Genome, LoRAConfig, Start
from coralx.search.jobs import plan_jobs
from coralx.search.packing import ModelShape


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


@pytest.mark.parametrize(("rank", "grown"), [(2, 4), (8, 16), (15, 30), (16, None), (64, None)])
def test_rank_grows_on_entering_s2_only(settings, make_result, rank: int, grown) -> None:
    genome = Genome(id="a", lora_cfg=LoRAConfig(r=2))
    trained = LoRAConfig(r=rank)  # what counts is the adapter as trained, not the gene
    past = {"a": [make_result("a", 1, checkpoint="a1", lora_cfg=trained)]}
    for stage_index, expected in ((1, None), (2, grown), (3, None)):
        (job,) = plan_jobs(settings(), 0, stage_index, [genome], past)
        assert job.starts == (Start(kind="continue", checkpoint="a1", grow_to=expected),)


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

    stages = settings().hyperband.training_stages
    assert text_only(settings()) == [True, True, False, False]
    assert text_only(settings(), image_task=False) == [False] * 4
    assert text_only(settings(hyperband={"cross_modal_proxy": False})) == [False] * 4
    assert text_only(settings(hyperband={"training_stages": stages[2:]})) == [False] * 2


def test_memory_bounds_packs_where_the_shape_is_known(settings) -> None:
    shape = ModelShape(layers=6, hidden=384, intermediate=1536, heads=12, vocab=30522)
    genomes = [Genome(id=name) for name in "abcdefgh"]
    tight = settings(training={"memory_budget_gb": 0.2})
    assert len(plan_jobs(tight, 0, 0, genomes, {})) == 1
    assert len(plan_jobs(tight, 0, 0, genomes, {}, shape=shape)) > 1
    assert len(plan_jobs(settings(), 0, 0, genomes, {}, shape=shape)) == 1
