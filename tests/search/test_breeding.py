"""Whole generations of children."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from coralx.config import DEFAULT_SPACE, Choice
from coralx.search import breeding, space
from coralx.settings.sections import EvolutionSettings

SEEDS = st.integers(0, 2**63 - 1)


def keys_of(genomes) -> set[space.Key]:
    return {space.key(genome) for genome in genomes}


def chance(settings, place: int, purpose=breeding.Purpose.BREED):
    return breeding.stream(settings.seed, place, purpose)


@given(SEEDS)
def test_children_are_new_in_the_space_and_reproducible(seed: int) -> None:
    settings = EvolutionSettings(seed=seed)
    parents = breeding.draw_founders(DEFAULT_SPACE, settings)
    children = breeding.breed(
        DEFAULT_SPACE, settings, parents, 8, keys_of(parents), 1, chance(settings, 1)
    )
    keys = keys_of((*parents, *children))
    assert (len(parents), len(children), len(keys)) == (8, 8, 16)
    for child in children:
        space.check(DEFAULT_SPACE, child)
        assert child.generation == 1
        assert set(child.parents) <= {parent.id for parent in parents}
    assert children == breeding.breed(
        DEFAULT_SPACE, settings, parents, 8, keys_of(parents), 1, chance(settings, 1)
    )


def test_the_better_parent_is_named_first() -> None:
    settings = EvolutionSettings(population=6, crossover_rate=1)
    parents = breeding.draw_founders(DEFAULT_SPACE, settings)
    place = {parent.id: index for index, parent in enumerate(parents)}
    children = breeding.breed(
        DEFAULT_SPACE, settings, parents, 50, keys_of(parents), 1, chance(settings, 1)
    )
    places = [[place[name] for name in child.parents] for child in children]
    assert all(ranks == sorted(ranks) for ranks in places)
    assert any(len(ranks) == 2 for ranks in places)


def test_a_space_used_up_leaves_places_empty() -> None:
    tiny = {"r": Choice(values=(2, 4, 8))}
    settings = EvolutionSettings(population=2)
    parents = breeding.draw_founders(tiny, settings)
    children = breeding.breed(tiny, settings, parents, 2, keys_of(parents), 1, chance(settings, 1))
    assert len(children) == 1
    everyone = (*parents, *children)
    assert {genome.lora_cfg.r for genome in everyone} == {2, 4, 8}
    assert (
        breeding.breed(tiny, settings, everyone, 2, keys_of(everyone), 2, chance(settings, 2)) == ()
    )


def test_streams_differ_by_each_of_their_keys() -> None:
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    draws = {breeding.stream(s, g, breeding.Purpose(p)).random() for s, g, p in keys}
    assert len(draws) == 4
    same = np.random.default_rng([5, 2, 1]).random()
    assert breeding.stream(5, 2, breeding.Purpose.BREED).random() == same


@given(SEEDS, st.sampled_from([0.0, 0.25, 0.5]))
def test_exploit_replaces_the_lowest_share_by_copies_of_the_highest(seed: int, share) -> None:
    settings = EvolutionSettings(seed=seed, exploit_below=share)
    ranked = breeding.draw_founders(DEFAULT_SPACE, settings)
    known = keys_of(ranked)
    entering = breeding.exploit(DEFAULT_SPACE, settings, ranked, known, 3, 1)
    few = int(8 * share)
    assert entering[: 8 - few] == ranked[: 8 - few]
    for copy in entering[8 - few :]:
        assert copy.parents[0] in {genome.id for genome in ranked[:few]}
        assert copy.generation == 3
    assert len(keys_of(entering) | known) == 8 + few, "genes that are new"
    assert entering == breeding.exploit(DEFAULT_SPACE, settings, ranked, known, 3, 1)
    if few:
        assert entering != breeding.exploit(DEFAULT_SPACE, settings, ranked, known, 3, 2)


def test_models_are_drawn_from_the_whole_top_share() -> None:
    found = set()
    for seed in range(20):
        settings = EvolutionSettings(seed=seed, exploit_below=0.5)
        ranked = breeding.draw_founders(DEFAULT_SPACE, settings)
        entering = breeding.exploit(DEFAULT_SPACE, settings, ranked, keys_of(ranked), 0, 0)
        names = [genome.id for genome in ranked]
        found |= {names.index(copy.parents[0]) for copy in entering[4:]}
    assert found == {0, 1, 2, 3}


def test_a_repeat_is_mutated_at_the_rate_of_the_settings() -> None:
    settings = EvolutionSettings(exploit_below=0.5, mutation_rate=1)
    ranked = breeding.draw_founders(DEFAULT_SPACE, settings)
    entering = breeding.exploit(DEFAULT_SPACE, settings, ranked, keys_of(ranked), 0, 0)
    models = {genome.id: genome.genes() for genome in ranked}
    for copy in entering[4:]:
        model = models[copy.parents[0]]
        assert all(value != model[n] for n, value in copy.genes().items() if n in DEFAULT_SPACE)


def test_a_genome_stays_where_its_models_copy_would_be_nothing_new() -> None:
    tiny = {"r": Choice(values=(2, 4))}
    settings = EvolutionSettings(population=2, exploit_below=0.5)
    ranked = breeding.draw_founders(tiny, settings)
    assert breeding.exploit(tiny, settings, ranked, keys_of(ranked), 0, 0) == ranked


def test_newcomers_are_drawn_until_there_are_parents() -> None:
    settings = EvolutionSettings()
    drawn = breeding.breed(
        DEFAULT_SPACE, settings, (), 4, set(), 2, chance(settings, 16, breeding.Purpose.ARRIVE)
    )
    assert {genome.parents for genome in drawn} == {()}
    born = breeding.breed(
        DEFAULT_SPACE,
        settings,
        drawn,
        4,
        keys_of(drawn),
        2,
        chance(settings, 20, breeding.Purpose.ARRIVE),
    )
    names = {genome.id for genome in drawn}
    assert all(genome.parents and set(genome.parents) <= names for genome in born)
    assert len(keys_of((*drawn, *born))) == 8
    assert born != breeding.breed(
        DEFAULT_SPACE,
        settings,
        drawn,
        4,
        keys_of(drawn),
        2,
        chance(settings, 24, breeding.Purpose.ARRIVE),
    )


def test_two_copies_of_exploit_never_have_the_same_genes() -> None:
    """One set of genes is left, so one place is filled and the other genome stays."""
    tiny = {"r": Choice(values=(2, 4, 8, 16, 32))}
    settings = EvolutionSettings(population=4, exploit_below=0.5)
    ranked = breeding.draw_founders(tiny, settings)
    entering = breeding.exploit(tiny, settings, ranked, keys_of(ranked), 0, 0)
    assert len(keys_of(entering)) == 4
    assert {genome.lora_cfg.r for genome in (*ranked, *entering)} == {2, 4, 8, 16, 32}
