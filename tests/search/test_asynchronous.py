"""Promotion without waiting: rungs, stragglers, order of arrival, replay."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from coralx.config import Choice, load_config
from coralx.errors import ConfigError, CoralXError, ExtinctError
from coralx.records import Genome, Job, ModelShape, Start, Stop, TrainingResult
from coralx.search import budget, selection, space
from coralx.search.asktell import Search
from coralx.search.asynchronous import AsynchronousEvolution, _ranked_now
from coralx.search.evolution import Evolution, new_search
from coralx.settings.sections import HyperbandSettings

NAN_STOP = Stop(gate="non_finite", value=None, limit=None, reason="loss is nan at step 3")
RANDOMS = st.randoms(use_true_random=False)
SEEDED = random.Random


class Workers:
    """So many workers that are done in random order; remembers all that they were given."""

    def __init__(self, count: int, rng: random.Random, answer, spoil=lambda result: result) -> None:
        self.count, self._rng, self._answer, self._spoil = count, rng, answer, spoil
        self.given: list[Job] = []
        self.facts: list[Job | TrainingResult] = []  # as a journal has them

    def step(self, search: Search) -> list[Job]:
        """Take what is new, then finish one of the jobs under way; the new ones."""
        jobs = search.ask(self.count)
        known = {job.id for job in self.given}
        fresh = [job for job in jobs if job.id not in known]
        self.given += fresh
        self.facts += fresh
        for result in self._answer(self._rng.choice(jobs)):
            kept = search.tell(self._spoil(result))
            assert kept is not None
            self.facts.append(kept)
        return fresh

    def run(self, search: Search) -> Search:
        while not search.finished:
            self.step(search)
        return search


def replay(facts: Iterable[Job | TrainingResult], search: Search) -> None:
    """As a resumed run does it."""
    for fact in facts:
        if isinstance(fact, Job):
            search.recall(fact)
        else:
            search.tell(TrainingResult.model_validate_json(fact.model_dump_json()))


@pytest.fixture(scope="session")
def asha(settings):
    """The defaults of the tests, promoted asynchronously."""

    def make(**sections):
        hyperband = {"promotion": "asha", **sections.pop("hyperband", {})}
        return settings(hyperband=hyperband, **sections)

    return make


def test_the_setting_picks_the_search(settings, asha) -> None:
    assert isinstance(new_search(settings()), Evolution)
    assert isinstance(new_search(asha()), AsynchronousEvolution)


def test_every_way_to_promote_has_a_search_of_its_own(settings) -> None:
    """One that was forgotten is an error, not a search by halving."""
    ways = get_args(HyperbandSettings.model_fields["promotion"].annotation)
    kinds = {type(new_search(settings(hyperband={"promotion": way}))) for way in ways}
    assert len(kinds) == len(ways)
    config = settings()
    other = config.hyperband.model_copy(update={"promotion": "other"})
    with pytest.raises(KeyError):
        new_search(config.model_copy(update={"hyperband": other}))


def test_one_worker_with_whole_packs_spends_what_halving_spends(
    settings, asha, answer, funnel
) -> None:
    for population in (8, 4, 3):  # of 3 or 4 the share of S2 is none: one goes on all the same
        sections = {"evolution": {"population": population}}
        waiting = Workers(1, SEEDED(0), answer).run(Evolution(settings(**sections)))
        search = Workers(1, SEEDED(0), answer).run(new_search(asha(**sections)))
        assert funnel(search) == funnel(waiting)


@hypothesis_settings(max_examples=25)
@given(RANDOMS, st.integers(1, 30), st.integers(1, 4))
def test_each_genome_that_goes_on_is_of_the_best_share_told_by_then(
    asha, answer, funnel, rng, workers: int, pack: int
) -> None:
    config = asha(training={"pack_size": pack}, evolution={"population": 12})
    search, crew = new_search(config), Workers(workers, rng, answer)
    while not search.finished:
        told = list(search.results)
        for job in crew.step(search):
            if job.stage_index:
                here = (job.generation, job.stage_index - 1)
                rung = [r for r in told if (r.generation, r.stage_index) == here]
                share = config.hyperband.stages[here[1]].survival_rate
                places = budget.survivors(len(rung), share)
                tie_break = config.evolution.tie_break
                best = selection.promote(rung, places, config.objectives, "rank", tie_break)
                assert {g.id for g in job.genomes} <= {r.genome.id for r in best}
    trained = [(result.genome.id, result.stage) for result in search.results]
    assert len(set(trained)) == len(trained)
    keys = {space.key(result.genome) for result in search.results}
    assert len(keys) == 36, "population x generations, all different"
    assert (
        funnel(search)
        == [{"S0_sanity": 12, "S1_shakeout": 12, "S2_serious": 6, "S3_finisher": 1}] * 3
    )


def test_nobody_waits_for_a_straggler(asha, answer, funnel) -> None:
    search = new_search(asha(training={"pack_size": 1}))
    straggler = search.ask(1)[0]
    while len(jobs := search.ask(2)) == 2:
        assert jobs[0] == straggler
        for result in answer(jobs[1]):
            search.tell(result)
    assert jobs == [straggler]
    begun = {result.genome.id for result in search.results}
    assert len(begun) == 23, "all but the straggler itself"
    assert funnel(search)[2]["S3_finisher"] == 1
    for result in answer(straggler):
        search.tell(result)
    assert search.ask(1) != []


@hypothesis_settings(max_examples=40)
@given(RANDOMS, st.integers(1, 12), st.floats(0, 1), st.sampled_from([1, 3]))
def test_a_journal_cut_anywhere_goes_on_with_the_same_jobs(
    asha, answer, rng, workers: int, share: float, pack: int
) -> None:
    config = asha(training={"pack_size": pack})
    crew, search = Workers(workers, rng, answer), new_search(config)
    while not search.finished and (not crew.facts or rng.random() > 0.02 * share):
        crew.step(search)
    again = new_search(config)
    replay(crew.facts, again)
    assert again.finished == search.finished
    assert again.closed == search.closed
    assert again.references() == search.references()
    assert again.ask(workers) == search.ask(workers)
    one, two = (Workers(workers, SEEDED(1), answer) for _ in range(2))
    assert one.run(again).closed == two.run(search).closed
    assert one.given[workers:] == two.given[workers:]


def test_a_large_rung_cut_while_its_last_are_given_goes_on_with_the_same_jobs(asha, answer) -> None:
    """Who goes on by a rank among all of a generation at rest is found at once and given in several
    jobs: once one of these is open the generation rests no more, and a new look finds nobody."""
    plain = {"epoch_budget": 0.1, "data_percentage": 100}
    stages = [
        {"name": "all_go_on", "survival_rate": 1.0, **plain},
        {"name": "last", "survival_rate": 0.1, **plain},
    ]
    config = asha(
        hyperband={"training_stages": stages, "grow_rank_at": None},
        training={"pack_size": 1},
        evolution={"population": 67, "generations": 2},
    )
    crew = Workers(3, SEEDED(0), answer)
    crew.run(new_search(config))
    for end in range(len(crew.facts) - 30, len(crew.facts)):
        known, later = crew.facts[:end], crew.facts[end:]
        if isinstance(known[-1], Job):
            search = new_search(config)
            replay(known, search)
            given = list(itertools.takewhile(lambda fact: isinstance(fact, Job), later))
            assert [job for job in search.ask(3) if job not in known] == given, f"cut at {end}"


@hypothesis_settings(max_examples=20)
@given(RANDOMS, st.integers(1, 12))
def test_results_in_their_order_are_enough_to_know_the_same(
    asha, answer, funnel, rng, workers: int
) -> None:
    config = asha(training={"pack_size": 2})
    search = Workers(workers, rng, answer).run(new_search(config))
    again = new_search(config)
    for result in search.results:
        assert again.tell(result) == result
    assert again.finished
    assert (again.closed, again.front()) == (search.closed, search.front())
    assert funnel(again) == funnel(search)


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_with_one_worker_results_alone_lead_to_the_same_end(asha, answer, cut: int) -> None:
    whole = Workers(1, SEEDED(0), answer).run(new_search(asha()))
    jobs = list(dict.fromkeys(result.job for result in whole.results))[:cut]
    again = new_search(asha())
    for result in whole.results:
        if result.job in jobs:
            again.tell(result)
    Workers(1, SEEDED(0), answer).run(again)
    assert again.results == whole.results
    assert again.closed == whole.closed


def tell(search: Search, answer, rung: tuple[int, int], genomes, **facts) -> None:
    """Results of a stage and generation that are told without having been asked for."""
    stage_index, generation = rung
    job = Job(
        id="told",
        generation=generation,
        stage=load_config().hyperband.stages[stage_index],
        stage_index=stage_index,
        genomes=genomes,
        starts=tuple(Start() for _ in genomes),
    )
    for result in answer(job, **facts):
        search.tell(result)


def test_the_highest_rung_goes_first_and_of_equals_the_oldest_generation(asha, answer) -> None:
    """Told: S0 of the founders, S0 and S1 of generation 1, S0 of one of generation 2."""
    config = asha(training={"pack_size": 1}, evolution={"population": 4})
    search, founders = new_search(config), new_search(config)._founders

    def bear(generation: int, count: int) -> tuple[Genome, ...]:
        parents = (founders[0].id,)
        names = [f"g{generation}-{place}" for place in range(count)]
        return tuple(Genome(id=name, parents=parents, generation=generation) for name in names)

    tell(search, answer, (0, 0), founders)
    tell(search, answer, (0, 2), bear(2, 1))
    tell(search, answer, (0, 1), bear(1, 4))
    tell(search, answer, (1, 1), bear(1, 4))
    found = [(job.stage_index, job.generation) for job in search.ask(8)]
    assert found == [(2, 1)] * 2 + [(1, 0)] * 4 + [(1, 2), (0, 2)]


def test_the_last_call_of_a_generation_waits_for_all_that_are_under_way(asha, answer) -> None:
    """The first of two told in S2 would be the best so far; alone it is called at the end."""
    config = asha(training={"pack_size": 1}, evolution={"population": 4, "generations": 1})
    search = new_search(config)
    while not any(r.stage_index == 2 for r in search.results):
        jobs = search.ask(4)
        for result in answer(max(jobs, key=lambda job: job.stage_index)):
            search.tell(result)
    assert all(job.stage_index < 3 for job in search.ask(4))
    Workers(4, SEEDED(0), answer).run(search)
    assert sum(result.stage_index == 3 for result in search.results) == 1


def test_a_parent_that_a_gate_stopped_since_does_not_breed(asha, answer) -> None:
    """Of 32 genomes who may breed is reckoned anew after every second result alone."""
    config = asha(training={"pack_size": 1}, evolution={"population": 32})
    search, founders = new_search(config), new_search(config)._founders
    best, *others = founders
    perfect = {"task_skill": 1.0, "false_positive_cost": 0.0}
    tell(search, answer, (0, 0), (best,), objectives=perfect)
    tell(search, answer, (0, 0), tuple(others))
    tell(search, answer, (1, 0), (best,), objectives=perfect, stopped=NAN_STOP)
    jobs = search.ask(31 + 32)
    children = [job.genomes[0] for job in jobs if job.generation == 1]
    assert len(children) == 32
    assert best.id not in {parent for child in children for parent in child.parents}


@hypothesis_settings(max_examples=10)
@given(RANDOMS, st.integers(1, 8))
def test_all_that_is_undominated_only_gains(asha, answer, rng, workers: int) -> None:
    """The front itself can lose hypervolume: a genome stands there for its latest result."""
    config = asha(training={"pack_size": 1})
    search = Workers(workers, rng, answer).run(new_search(config))
    full = [result for result in search.results if result.stage_index >= 2]
    names, volumes = config.objectives, []
    for count in range(1, len(full) + 1):
        points = selection.points(full[:count], names, 2)
        volumes.append(selection.hypervolume(points, names))
        shown = {result.genome.id for result in selection.latest(points)}
        assert shown == {result.genome.id for result in points}
    assert volumes == sorted(volumes)
    in_full = [c for c in search.closed if set(c.front_stages) <= {"S2_serious", "S3_finisher"}]
    assert all(closed.hypervolume <= volumes[-1] for closed in in_full)


def test_ask_is_idempotent_and_bounded(asha, answer) -> None:
    search = new_search(asha(training={"pack_size": 1}))
    jobs = search.ask(5)
    assert len({job.id for job in jobs}) == 5
    assert search.ask(5) == jobs
    assert search.ask(3) == jobs[:3]
    assert search.ask(0) == []
    search.tell(answer(jobs[1])[0])
    assert search.ask(4) == [jobs[0], *jobs[2:]]


def test_a_pack_told_in_part_stays_whole_and_telling_twice_changes_nothing(asha, answer) -> None:
    search = new_search(asha())
    (job,) = search.ask(1)
    first, *rest = answer(job)
    assert search.tell(first) == first
    assert search.tell(first.model_copy(update={"objectives": {}})) is None
    assert search.ask(1) == [job]
    for result in rest:
        search.tell(result)
    assert job not in search.ask(1)


@hypothesis_settings(max_examples=15)
@given(RANDOMS, st.integers(1, 20))
def test_what_a_job_starts_from_was_referred_to_before(asha, answer, rng, workers: int) -> None:
    config = asha(training={"pack_size": 1}, evolution={"generations": 6})
    search, crew = new_search(config), Workers(workers, rng, answer)
    sizes = []
    while not search.finished:
        kept = search.references()
        sizes.append(len(kept - {r.checkpoint for r in search.front()}))
        for job in crew.step(search):
            assert {name for start in job.starts for name in start.sources} <= kept
            if job.stage_index == 0 and job.generation and kept:
                assert job.genomes[0].parents, "born of those told so far"
    # Of eight each: generations that a worker is at, one being born, parents and candidates.
    assert max(sizes) <= 8 * (workers + 3), "bounded but for the front, however long the run"
    assert {r.checkpoint for r in search.front()} <= search.references()


def test_memory_bounds_packs(asha) -> None:
    shape = ModelShape(layers=6, hidden=384, intermediate=1536, vocab=30522)
    search = new_search(asha(training={"memory_budget_gb": 0.11}), shape=shape)
    jobs = search.ask(2)
    packed = [genome.id for job in jobs for genome in job.genomes]
    founders = {genome.id for genome in new_search(asha()).ask(1)[0].genomes}
    assert len(founders) == 8
    assert 2 <= len(packed) == len(set(packed)) < 8
    assert set(packed) <= founders


def test_extinction_lists_every_reason(asha, answer) -> None:
    crew = Workers(3, SEEDED(0), answer, lambda r: r.model_copy(update={"stopped": NAN_STOP}))
    search = new_search(asha(training={"pack_size": 1}))
    with pytest.raises(ExtinctError) as caught:
        crew.run(search)
    reasons = str(caught.value)
    assert reasons.count("loss is nan at step 3") == len(search.results) >= 8
    assert all(result.genome.id in reasons for result in search.results)
    assert search.finished
    assert (search.ask(5), search.front()) == ([], [])


def test_a_founder_that_still_trains_may_yet_pass(asha, answer) -> None:
    """Stragglers: as many newcomers have failed as there are founders, but one founder is left."""
    search = new_search(asha(training={"pack_size": 1}))
    straggler = search.ask(1)[0]
    while len({result.genome.id for result in search.results}) < 12:
        job = next(job for job in search.ask(4) if job != straggler)
        search.tell(answer(job, stopped=NAN_STOP)[0])
    search.tell(answer(straggler)[0])
    assert not search.finished
    assert any(job.stage_index == 1 for job in search.ask(4))


def test_given_genomes_start_fresh_whatever_lineage_they_have(asha, answer) -> None:
    parent = Genome(id="a")
    child = Genome(id="b", learning_rate=2e-3, parents=("a",), generation=1)
    config = asha(training={"pack_size": 1}, evolution={"generations": 1})
    search = Workers(1, SEEDED(0), answer).run(new_search(config, [parent, child]))
    first = [result.start.kind for result in search.results if result.stage_index == 0]
    assert first == ["fresh", "fresh"]


def test_what_comes_after_extinction_was_not_asked_for(asha, answer) -> None:
    search = new_search(asha(training={"pack_size": 1}, evolution={"population": 2}))
    one, two, newcomer = search.ask(3)
    search.tell(answer(one, stopped=NAN_STOP)[0])
    with pytest.raises(ExtinctError):
        search.tell(answer(two, stopped=NAN_STOP)[0])
    with pytest.raises(CoralXError, match="must be one that was asked for"):
        search.tell(answer(newcomer)[0])
    assert len(search.results) == 2


def test_it_ends_early_where_the_space_is_used_up(asha, answer, funnel) -> None:
    tiny = {"r": Choice(values=(2, 4, 8))}
    config = asha(space=tiny, evolution={"population": 2, "generations": 9})
    search = Workers(2, SEEDED(0), answer).run(new_search(config))
    assert [line["S0_sanity"] for line in funnel(search)] == [2, 1]
    assert [generation.index for generation in search.closed] == [0, 1]


def test_a_population_given_is_all_that_trains(asha, answer, funnel) -> None:
    genomes = [Genome(id=name) for name in "abcd"]
    config = asha(evolution={"generations": 1}, training={"pack_size": 1})
    search = Workers(4, SEEDED(3), answer).run(new_search(config, genomes))
    assert {result.genome.id for result in search.results} == set("abcd")
    assert list(funnel(search)[0].values()) == [4, 4, 2, 1]


def test_a_later_result_of_a_genome_that_was_stopped_is_refused(asha, answer) -> None:
    search = new_search(asha())
    result = answer(search.ask(1)[0])[0]
    search.tell(result.model_copy(update={"stopped": NAN_STOP}))
    later = result.model_copy(update={"stage": "S1_shakeout", "stage_index": 1})
    with pytest.raises(CoralXError, match="must be one that was asked for"):
        search.tell(later)


@pytest.mark.parametrize("asked", [True, False])
@pytest.mark.parametrize(
    "change",
    [{"genome": Genome(id="stranger")}, {"stage": "S2_serious"}, {"generation": 1},
     {"stage_index": 1, "stage": "S1_shakeout"}, {"stage_index": 9}],
)  # fmt: skip
def test_a_result_nobody_asked_for_is_refused(asha, answer, change, asked: bool) -> None:
    search = new_search(asha())
    job = new_search(asha()).ask(1)[0]
    if asked:
        search.ask(1)
    with pytest.raises(CoralXError, match="must be one that was asked for"):
        search.tell(answer(job)[0].model_copy(update=change))
    assert search.results == []


def test_what_needs_closing_stages_is_refused() -> None:
    with pytest.raises(ConfigError, match="exploit_below: acts when a stage closes"):
        load_config({"evolution": {"exploit_below": 0.2}, "hyperband": {"promotion": "asha"}})


@given(st.integers(1, 10**6))
def test_a_large_rung_is_ranked_in_steps(told: int) -> None:
    ranked = _ranked_now(told)
    assert told * 15 / 16 < ranked <= told
    assert ranked == told or told > 32
    assert _ranked_now(told + 1) >= ranked
