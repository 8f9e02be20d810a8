"""The state machine: stages, promotion, generations, order of arrival, replay."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from coralx.config import Choice
from coralx.errors import ConfigError, CoralXError, ExtinctError
from coralx.records import Genome, LoRAConfig, Stop, TrainingResult
from coralx.search import budget, selection, space
from coralx.search.evolution import Evolution
from coralx.steps import stage_steps

OBJECTIVES = ("task_skill", "false_positive_cost")
NAN_STOP = Stop(gate="non_finite", value=None, limit=None, reason="loss is nan at step 3")
MORE = (
    "give the stage more rows or epochs (data_percentage, epoch_budget), raise the learning rates, "
    "or set its min_auroc lower or to null"
)


def answers(evolution: Evolution, answer) -> list[TrainingResult]:
    return [result for job in evolution.ask(1000) for result in answer(job)]


def run(evolution: Evolution, answer, shuffler=None, spoil=lambda result: result) -> Evolution:
    """Tell made-up results until evolution is finished; `spoil` may change them."""
    while not evolution.finished:
        batch = [spoil(result) for result in answers(evolution, answer)]
        if shuffler:
            shuffler.shuffle(batch)
        for result in batch:
            evolution.tell(result)
    return evolution


def spoiler(stage: str, **facts):
    """Change the results of one stage."""
    return lambda result: result.model_copy(update=facts if result.stage == stage else {})


def test_the_funnel_is_8_8_4_1(settings, answer, funnel) -> None:
    evolution = run(Evolution(settings()), answer)
    stages = {"S0_sanity": 8, "S1_shakeout": 8, "S2_serious": 4, "S3_finisher": 1}
    assert funnel(evolution) == [stages] * 3
    assert len(evolution.results) == 63
    assert [generation.index for generation in evolution.closed] == [0, 1, 2]
    assert evolution.ask(10) == []
    assert evolution.alive == ()


def test_ask_is_idempotent_and_bounded(settings, answer) -> None:
    evolution = Evolution(settings(training={"pack_size": 1}))
    jobs = evolution.ask(100)
    assert len(jobs) == 8
    assert evolution.ask(100) == jobs
    assert evolution.ask(3) == jobs[:3]
    assert evolution.ask(0) == []
    evolution.tell(answer(jobs[1])[0])
    assert evolution.ask(100) == [jobs[0], *jobs[2:]]


def test_a_pack_told_in_part_stays_whole(settings, answer) -> None:
    genomes = [Genome(id=name) for name in "abc"]
    evolution = Evolution(settings(evolution={"generations": 1}), genomes)
    (job,) = evolution.ask(1)
    first, *rest = answer(job)
    evolution.tell(first)
    assert evolution.ask(1) == [job]
    for result in rest:
        evolution.tell(result)
    assert evolution.stage.name == "S1_shakeout"


def test_telling_twice_changes_nothing(settings, answer) -> None:
    evolution = Evolution(settings())
    result = answers(evolution, answer)[0]
    assert evolution.tell(result) == result
    worse = result.model_copy(update={"objectives": {}})
    assert evolution.tell(worse) is None
    assert evolution.results == [result]
    run(evolution, answer)
    assert evolution.tell(worse) is None


@hypothesis_settings(max_examples=25)
@given(st.randoms(use_true_random=False), st.integers(0, 2))
def test_order_of_arrival_within_a_stage_does_not_matter(settings, answer, shuffler, seed) -> None:
    config = settings(evolution={"seed": seed, "generations": 2})
    one, two = Evolution(config), Evolution(config)
    while not one.finished:
        assert one.ask(1000) == two.ask(1000)
        batch = answers(one, answer)
        for result in batch:
            one.tell(result)
        shuffler.shuffle(batch)
        for result in batch:
            two.tell(result)
        assert one.alive == two.alive
        assert one.front() == two.front()
    assert two.finished
    assert one.closed == two.closed


@hypothesis_settings(max_examples=25)
@given(st.randoms(use_true_random=False), st.integers(0, 63))
def test_a_journal_replayed_to_any_point_goes_on_as_before(
    settings, answer, shuffler, cut: int
) -> None:
    whole = run(Evolution(settings()), answer, shuffler)
    journal = [TrainingResult.model_validate_json(r.model_dump_json()) for r in whole.results]
    resumed = Evolution(settings())
    for result in journal[:cut]:
        resumed.tell(result)
    run(resumed, answer)
    assert resumed.closed == whole.closed
    assert resumed.front() == whole.front()
    assert resumed.results[:cut] == whole.results[:cut]


def test_seeds_differ(settings, answer) -> None:
    genomes = [Evolution(settings(evolution={"seed": seed})).alive for seed in (0, 0, 1)]
    assert genomes[0] == genomes[1] != genomes[2]


def test_promotion_never_takes_a_stopped_genome_even_the_best(settings, answer) -> None:
    evolution = Evolution(settings())
    spoiled = evolution.alive[3].id
    perfect = {"task_skill": 1.0, "false_positive_cost": 0.0}
    for result in answers(evolution, answer):
        if result.genome.id == spoiled:
            result = result.model_copy(
                update={"details": {"grad_norm": 7.31}, "objectives": perfect}
            )
        kept = evolution.tell(result)
        if result.genome.id == spoiled:
            assert kept is not None
            assert kept.stopped is not None
            assert kept.stopped.reason.startswith("gradient norm 7.31 > 5.0")
    assert len(evolution.alive) == 7
    assert spoiled not in {genome.id for genome in evolution.alive}
    run(evolution, answer)
    assert all(spoiled not in generation.population for generation in evolution.closed)
    assert spoiled not in {parent for g in evolution.results for parent in g.genome.parents}


def test_survivors_are_a_share_of_those_that_entered(settings, answer) -> None:
    evolution = Evolution(settings())
    while evolution.stage.name != "S1_shakeout":
        for result in answers(evolution, answer):
            evolution.tell(result)
    for place, result in enumerate(answers(evolution, answer)):
        low = {"task_skill": 0.5, "false_positive_cost": 0.0}
        bad = result.model_copy(update={"objectives": low})
        evolution.tell(bad if place < 3 else result)  # 3 of 8 stopped, 5 passed
    assert len(evolution.alive) == 4


def test_a_cheap_score_never_beats_a_full_one(settings, answer) -> None:
    perfect = {"task_skill": 1.0, "false_positive_cost": 0.0}
    evolution = run(Evolution(settings()), answer, spoil=spoiler("S1_shakeout", objectives=perfect))
    assert evolution.front()
    assert {result.stage for result in evolution.front()} <= {"S2_serious", "S3_finisher"}
    finalists = {r.genome.id for r in evolution.results if r.stage == "S3_finisher"}
    assert set(evolution.closed[-1].population[: len(finalists)]) == finalists


def test_extinction_lists_every_reason(settings, answer) -> None:
    evolution = Evolution(settings())
    *most, last = answers(evolution, answer)
    for place, result in enumerate(most):
        bad = {"stopped": NAN_STOP} if place else {"details": {"grad_norm": 9.5}}
        evolution.tell(result.model_copy(update=bad))
    with pytest.raises(ExtinctError) as caught:
        evolution.tell(last.model_copy(update={"details": {"loss_slope_t": 4.0}}))
    message = str(caught.value)
    assert "S0_sanity: no genome passed" in message
    assert message.count("loss is nan at step 3") == 6
    assert message.count("gradient norm 9.5 > 5.0") == 1
    assert message.count("loss rising over S0_sanity") == 1
    assert all(result.genome.id in message for result in most)
    assert evolution.finished
    assert evolution.front() == []


@pytest.mark.parametrize(
    ("gates", "advice"),
    [
        (
            ["non_finite", "loss_rising"],
            "loosen the gates or lower the learning rates of the space",
        ),
        (["auroc"], MORE),
        (
            ["auroc", "gradient_norm"],
            "for loss and gradients: loosen the gates or lower the learning rates of the space; "
            f"for AUROC: {MORE}",
        ),
        (
            ["out_of_memory"],
            "lower training.batch_size, data.max_tokens or the largest rank of the space",
        ),
    ],
)
def test_the_advice_at_an_extinction_is_for_the_gates_that_fired(
    settings, answer, gates, advice
) -> None:
    told = itertools.cycle(NAN_STOP.model_copy(update={"gate": gate}) for gate in gates)

    def spoil(result: TrainingResult) -> TrainingResult:
        return result.model_copy(update={"stopped": next(told)})

    with pytest.raises(ExtinctError) as caught:
        run(Evolution(settings()), answer, spoil=spoil)
    head = str(caught.value).splitlines()[0]
    assert head.endswith(f"nothing is left to train; {advice}")


def test_extinction_in_a_later_stage_lists_who_was_stopped_before_it(settings, answer) -> None:
    early = iter([NAN_STOP] * 5)

    def spoil(result: TrainingResult) -> TrainingResult:
        if result.stage == "S2_serious":
            return result.model_copy(update={"stopped": NAN_STOP})
        stop = next(early, None) if result.stage == "S1_shakeout" else None
        return result.model_copy(update={"stopped": stop})

    with pytest.raises(ExtinctError) as caught:
        run(Evolution(settings()), answer, spoil=spoil)
    assert str(caught.value).startswith("S2_serious: no genome passed")
    assert str(caught.value).count("loss is nan") == 8


@pytest.mark.parametrize("stage", ["S2_serious", "S3_finisher"])
def test_who_passed_an_earlier_stage_breeds_where_a_later_one_stops_all(
    settings, answer, stage, funnel
) -> None:
    """A finisher that breaks down must not take the front of the stage before with it."""
    evolution = run(Evolution(settings()), answer, spoil=spoiler(stage, stopped=NAN_STOP))
    assert len(evolution.closed) == 3
    before = {"S2_serious": "S1_shakeout", "S3_finisher": "S2_serious"}[stage]
    assert {result.stage for result in evolution.front()} == {before}
    assert funnel(evolution)[2]["S0_sanity"] == 8


def test_what_all_pass_is_no_front_though_the_next_stage_stops_everyone(settings, answer) -> None:
    """After a stage that selects nobody P1 alone is measured, and no threshold to serve by."""
    plain = {"epoch_budget": 0.5, "data_percentage": 100}
    stages = [
        {"name": "a", "survival_rate": 0.5, **plain},
        {"name": "b", "survival_rate": 1.0, **plain},
        {"name": "c", "survival_rate": 1.0, **plain},
    ]
    config = settings(
        hyperband={"training_stages": stages, "grow_rank_at": None}, evolution={"generations": 1}
    )
    evolution = run(Evolution(config), answer, spoil=spoiler("c", stopped=NAN_STOP))
    assert {result.stage for result in evolution.front()} == {"a"}
    assert not {"b", "c"} & set(evolution.closed[0].front_stages)


def test_a_later_generation_without_survivors_closes_with_its_parents(
    settings, answer, funnel
) -> None:
    def spoil(result: TrainingResult) -> TrainingResult:
        bad = {"stopped": NAN_STOP} if result.generation == 1 else {}
        return result.model_copy(update=bad)

    evolution = run(Evolution(settings()), answer, spoil=spoil)
    first, second, third = evolution.closed
    assert second.population == first.population
    assert second.front == first.front
    assert funnel(evolution)[1] == {"S0_sanity": 8}
    assert third.population != first.population


def test_nobody_is_trained_twice(settings, answer) -> None:
    evolution = run(Evolution(settings(evolution={"generations": 6})), answer)
    trained = [(result.genome.id, result.stage) for result in evolution.results]
    assert len(set(trained)) == len(trained)
    genomes = {result.genome.id: result.genome for result in evolution.results}
    assert len({space.key(genome) for genome in genomes.values()}) == len(genomes) == 48
    elites = set(evolution.closed[0].population) & set(evolution.closed[1].population)
    assert elites
    for result in evolution.results:
        if result.genome.id in elites:
            assert result.generation == 0


def test_children_inherit_and_survivors_continue(settings, answer) -> None:
    evolution = run(Evolution(settings()), answer)
    checkpoints: dict[str, str | None] = {}  # the last each genome left so far
    for result in evolution.results:
        if result.stage_index:
            assert result.start.kind == "continue"
            assert result.start.checkpoint == checkpoints[result.genome.id]
        elif result.generation:
            assert result.start.kind == "inherit"
            assert result.start.checkpoint == checkpoints[result.genome.parents[0]]
        else:
            assert result.start.kind == "fresh"
        checkpoints[result.genome.id] = result.checkpoint


def test_what_a_child_is_merged_of_is_kept_until_it_is_told(settings, answer) -> None:
    evolution = Evolution(settings(evolution={"crossover_weights": "average"}))
    merged = 0
    while not evolution.finished:
        (job,) = evolution.ask(1)
        needed = {name for start in job.starts for name in start.sources}
        assert needed <= evolution.references()
        merged += sum(start.kind == "merge" and len(start.sources) == 2 for start in job.starts)
        for result in answer(job):
            evolution.tell(result)
    assert merged


def test_hypervolume_of_all_undominated_results_never_shrinks(settings, answer) -> None:
    config = settings(evolution={"generations": 8})
    evolution = run(Evolution(config), answer)
    full = [result for result in evolution.results if result.stage_index >= 2]
    volumes = [
        selection.hypervolume(selection.points(full[:count], config.objectives, 2), OBJECTIVES)
        for count in range(1, len(full) + 1)
    ]
    assert volumes == sorted(volumes)
    assert 0 < volumes[0] < volumes[-1] <= 1
    assert max(g.hypervolume for g in evolution.closed) <= volumes[-1]


@pytest.mark.parametrize("evolution", [{}, {"exploit_below": 0.5}])
@pytest.mark.parametrize("seed", range(6))
def test_a_checkpoint_let_go_is_never_missed(settings, answer, seed: int, evolution) -> None:
    """Whatever is not referred to after a result is deleted: all that starts and the front need
    must have been referred to ever since it was left."""
    search = Evolution(settings(evolution={"seed": seed, "generations": 4, **evolution}))
    disk: set[str | None] = set()
    while not search.finished:
        (job,) = search.ask(1)
        for result in answer(job):
            assert set(result.start.sources) <= disk
        for result in answer(job):
            search.tell(result)
            disk = (disk | {result.checkpoint}) & search.references()
    assert {result.checkpoint for result in search.front()} <= disk


@pytest.mark.parametrize("seed", range(4))
def test_survivors_are_the_best_of_parents_newly_trained_and_copies(
    settings, answer, seed: int
) -> None:
    config = settings(evolution={"exploit_below": 0.5, "generations": 5, "seed": seed})
    evolution = run(Evolution(config), answer)
    survivors: list[TrainingResult] = []
    for closed in evolution.closed:
        trained = [r for r in evolution.results if r.generation == closed.index]
        candidates, tie_break = [*survivors, *trained], config.evolution.tie_break
        survivors = selection.survive(candidates, 8, config.objectives, tie_break)
        assert closed.population == tuple(result.genome.id for result in survivors)
    copies = {r.genome.id for r in evolution.results if r.stage_index and r.start.kind == "inherit"}
    lived = {name for closed in evolution.closed for name in closed.population}
    bred = {r.genome.parents[0] for r in evolution.results if r.generation and not r.stage_index}
    assert copies & lived & bred


def test_hypervolume_does_not_move_with_the_memory_of_genomes_that_failed(settings, answer) -> None:
    def swell(result: TrainingResult) -> TrainingResult:
        memory = {"memory": 1e9 * (result.objectives["task_skill"] + 9 * result.generation)}
        facts = {"objectives": {**result.objectives, **memory}}
        return result.model_copy(
            update={**facts, "stopped": NAN_STOP} if result.generation else facts
        )

    config = settings(objectives=("task_skill", "memory"), evolution={"generations": 2})
    evolution = run(Evolution(config), answer, spoil=swell)
    first, second = evolution.closed
    assert second.hypervolume == first.hypervolume
    front, names = evolution.front(), config.objectives
    known = [result for result in evolution.results if result.generation == 0]
    bounds = selection.observed_bounds(known, names)
    assert second.hypervolume == selection.hypervolume(front, names, bounds) > 0


def test_a_closed_generation_says_what_it_was(settings, answer) -> None:
    config = settings(evolution={"generations": 1})
    evolution = run(Evolution(config), answer)
    (closed,) = evolution.closed
    genomes = {result.genome.id: result.genome for result in evolution.results}
    assert set(closed.population) == set(genomes)
    survivors = [genomes[name] for name in closed.population]
    assert closed.diversity == space.diversity(config.space, survivors)
    assert closed.front == tuple(result.genome.id for result in evolution.front())
    assert closed.first_front_share == 1 / 8


def test_who_was_stopped_is_no_part_of_the_first_front_share(settings, answer) -> None:
    evolution = Evolution(settings(evolution={"generations": 1}))
    spoiled = evolution.alive[0].id
    run(
        evolution,
        answer,
        spoil=lambda r: r.model_copy(
            update={"stopped": NAN_STOP} if r.genome.id == spoiled else {}
        ),
    )
    assert evolution.closed[0].first_front_share == 1 / 7


def test_a_population_given_is_all_that_trains(settings, answer, funnel) -> None:
    genomes = [Genome(id=name, lora_cfg=LoRAConfig(r=77)) for name in "abcd"]
    config = settings(evolution={"generations": 1})
    evolution = run(Evolution(config, genomes), answer)
    assert {result.genome.id for result in evolution.results} == set("abcd")
    assert list(funnel(evolution)[0].values()) == [4, 4, 2, 1]


def test_a_population_given_sets_the_size_of_later_ones(settings, answer, funnel) -> None:
    rng_genomes = Evolution(settings(evolution={"population": 5})).alive
    evolution = run(Evolution(settings(), rng_genomes), answer)
    assert [line["S0_sanity"] for line in funnel(evolution)] == [5, 5, 5]


def test_without_hyperband_every_genome_trains_fully(settings, answer, funnel) -> None:
    config = settings(hyperband={"enable_hyperband": False}, evolution={"generations": 2})
    assert funnel(run(Evolution(config), answer)) == [{"S3_finisher": 8}] * 2


def test_evolution_ends_early_where_the_space_is_used_up(settings, answer, funnel) -> None:
    tiny = {"r": Choice(values=(2, 4, 8))}
    config = settings(space=tiny, evolution={"population": 2, "generations": 9})
    evolution = run(Evolution(config), answer)
    assert [line["S0_sanity"] for line in funnel(evolution)] == [2, 1]


def test_promote_by_one_objective(settings, answer) -> None:
    config = settings(evolution={"promote_by": "task_skill", "generations": 1})
    evolution = run(Evolution(config), answer)
    stages = [[r for r in evolution.results if r.stage_index == index] for index in range(4)]
    for here, beyond in itertools.pairwise(stages[1:]):
        ranked = sorted(here, key=lambda r: r.objectives["task_skill"], reverse=True)
        assert {r.genome.id for r in beyond} == {r.genome.id for r in ranked[: len(beyond)]}


@pytest.mark.parametrize(
    ("population", "message"),
    [
        ([], "got no genome"),
        ([Genome(id="a"), Genome(id="b"), Genome(id="a")], "got a more than once"),
    ],
)
def test_a_population_given_has_different_genomes(settings, population, message: str) -> None:
    with pytest.raises(CoralXError, match=message):
        Evolution(settings(), population)


@pytest.mark.parametrize("generations", [2, 3])
def test_genomes_that_will_breed_must_lie_in_the_space(settings, generations: int) -> None:
    config = settings(evolution={"generations": generations})
    with pytest.raises(ConfigError, match="r must be one of 2, 4, 8, 16, got 77"):
        Evolution(config, [Genome(id="a", lora_cfg=LoRAConfig(r=77))])


@pytest.mark.parametrize(
    "change",
    [{"genome": Genome(id="stranger")}, {"stage": "S2_serious"}, {"generation": 1}],
)
def test_a_result_nobody_asked_for_is_refused(settings, answer, change) -> None:
    evolution = Evolution(settings())
    result = answers(evolution, answer)[0].model_copy(update=change)
    with pytest.raises(CoralXError, match=r"must be one that was asked for.*written by another"):
        evolution.tell(result)
    assert evolution.results == []


EXPLOITING = {"exploit_below": 0.5, "generations": 2}


def is_copy(job, place: int) -> bool:
    return bool(job.stage_index) and job.starts[place].kind == "inherit"


def test_exploit_puts_copies_of_the_best_in_the_places_of_the_worst(
    settings, answer, funnel
) -> None:
    evolution = Evolution(settings(evolution=EXPLOITING))
    copies = 0
    while not evolution.finished:
        jobs = evolution.ask(1000)
        left = {(r.genome.id, r.stage_index): r for r in evolution.results}
        for job in jobs:
            for place, genome in enumerate(job.genomes):
                if not is_copy(job, place):
                    continue
                copies += 1
                (model,) = genome.parents
                assert (genome.id, job.stage_index - 1) not in left
                source = left[model, job.stage_index - 1]
                assert job.starts[place].checkpoint == source.checkpoint, "that stage's own weights"
                assert model in {g.id for job in jobs for g in job.genomes}, "the model goes on"
                assert space.key(genome) != space.key(source.genome)
                space.check(settings().space, genome)
        for result in answers(evolution, answer):
            evolution.tell(result)
    assert copies == 2 * (4 + 2), "half of 8 after S0 and of 4 after S1, in both generations"
    counts = {"S0_sanity": 8, "S1_shakeout": 8, "S2_serious": 4, "S3_finisher": 1}
    assert funnel(evolution) == [counts] * 2
    known = {result.genome.id for result in evolution.results}
    assert all(set(closed.population) <= known for closed in evolution.closed)


@hypothesis_settings(max_examples=15)
@given(st.randoms(use_true_random=False))
def test_the_checkpoint_of_a_copys_model_is_referred_to_until_the_copy_is_told(
    settings, answer, shuffler
) -> None:
    """Checkpoint deleted before exploit: the model itself may be long past that checkpoint."""
    config = settings(evolution=EXPLOITING, training={"pack_size": 1})
    evolution = Evolution(config)
    while not evolution.finished:
        jobs = evolution.ask(1000)
        shuffler.shuffle(jobs)
        for place, job in enumerate(jobs):
            needed = {name for other in jobs[place:] for s in other.starts for name in s.sources}
            assert needed <= evolution.references()
            for result in answer(job):
                evolution.tell(result)


@hypothesis_settings(max_examples=15)
@given(st.randoms(use_true_random=False), st.integers(0, 41))
def test_a_journal_with_copies_is_replayed_to_the_same_end(settings, answer, shuffler, cut) -> None:
    config = settings(evolution=EXPLOITING)
    whole = run(Evolution(config), answer, shuffler)
    resumed = Evolution(config)
    for result in whole.results[:cut]:
        resumed.tell(result)
    assert run(resumed, answer).closed == whole.closed


def test_adaptive_budgets_share_out_each_generations_steps_by_its_diversity(
    settings, answer
) -> None:
    plain = settings(evolution={"generations": 2})
    evolution = Evolution(settings(hyperband={"adaptive_budgets": True}, evolution=EXPLOITING))
    explores: list[bool] = []
    planned = budget.plan(plain.hyperband.stages, 8, 1000, 2).hyperband_steps
    spent: dict[tuple[int, str], float] = {}
    while not evolution.finished:
        for job in evolution.ask(1000):
            steps = len(job.genomes) * stage_steps(job.stage, 1000)
            spent[job.generation, job.stage.name] = steps
            assert job.stage == evolution.stage
            if job.stage_index == 0:
                diversity = space.relative_diversity(plain.space, job.genomes)
                explores.append(diversity > 0.8)
            for result in answer(job):
                evolution.tell(result)
    for generation in (0, 1):
        shares = [steps / planned for (born, _), steps in spent.items() if born == generation]
        explore, exploit = [0.1, 0.4, 0.3, 0.2], [0.05, 0.2, 0.35, 0.4]
        assert shares == pytest.approx(explore if explores[generation] else exploit)


def test_each_generation_is_budgeted_by_its_own_size_and_diversity(settings, answer) -> None:
    """Five of a cube's eight corners are given, so that its three last are the children."""
    cube = {name: Choice(values=("u", "v")) for name in "abc"}
    corners = ("uuu", "uuv", "uvu", "vuu", "vvu")
    genomes = [space.build(dict(zip("abc", genes, strict=True))) for genes in corners]
    config = settings(
        space=cube, hyperband={"adaptive_budgets": True}, evolution={"generations": 2}
    )
    evolution = Evolution(config, genomes)
    sizes: dict[int, int] = {}
    shares: dict[int, tuple[float, ...]] = {}
    spent: dict[int, list[float]] = {0: [], 1: []}
    while not evolution.finished:
        (job,) = evolution.ask(9)
        if job.stage_index == 0:
            sizes[job.generation] = len(job.genomes)
            explores = space.relative_diversity(cube, job.genomes) > budget.EXPLORE_ABOVE
            shares[job.generation] = budget.EXPLORE if explores else budget.EXPLOIT
        spent[job.generation].append(len(job.genomes) * stage_steps(job.stage, 1000))
        for result in answer(job):
            evolution.tell(result)
    assert sizes == {0: 5, 1: 3}
    assert shares == {0: budget.EXPLORE, 1: budget.EXPLOIT}
    for generation, size in sizes.items():
        planned = budget.plan(config.hyperband.stages, size, 1000, 2).hyperband_steps
        found = [steps / planned for steps in spent[generation]]
        assert found == pytest.approx(shares[generation])


def test_a_diverse_generation_explores(settings) -> None:
    """Two genomes that differ in all but one of the space's genes are more than 0.8 apart."""
    values = {name: Choice(values=(0, 1)) for name in "abcdefg"}
    ends = {"r": Choice(values=(2, 64))}
    genomes = [space.build({"r": r, **dict.fromkeys(values, i)}) for i, r in enumerate((2, 64))]
    config = settings(space=values | ends, hyperband={"adaptive_budgets": True})
    before, now = config.hyperband.stages, Evolution(config, genomes).stage
    total = sum(s.genomes * s.steps_per_genome for s in budget.plan(before, 2, 1, 1).stages)
    assert now.epoch_budget == pytest.approx(0.1 * total / (2 * 0.05))
    assert now.model_copy(update={"epoch_budget": 0.05}) == before[0]
