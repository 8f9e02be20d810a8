"""Whole generations of children."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from coralx.config import DEFAULT_SPACE, Choice, EvolutionSettings
from coralx.search import breeding, space

SEEDS = st.integers(0, 2**63 - 1)


@given(SEEDS)
def test_children_are_new_in_the_space_and_reproducible(seed: int) -> None:
    settings = EvolutionSettings(seed=seed)
    parents = breeding.found(DEFAULT_SPACE, settings)
    children = breeding.breed(DEFAULT_SPACE, settings, parents, 8, parents, 1)
    keys = {space.key(genome) for genome in (*parents, *children)}
    assert (len(parents), len(children), len(keys)) == (8, 8, 16)
    for child in children:
        space.check(DEFAULT_SPACE, child)
        assert child.generation == 1
        assert set(child.parents) <= {parent.id for parent in parents}
    assert children == breeding.breed(DEFAULT_SPACE, settings, parents, 8, parents, 1)


def test_the_better_parent_is_named_first() -> None:
    settings = EvolutionSettings(population=6, crossover_rate=1)
    parents = breeding.found(DEFAULT_SPACE, settings)
    place = {parent.id: index for index, parent in enumerate(parents)}
    children = breeding.breed(DEFAULT_SPACE, settings, parents, 50, parents, 1)
    places = [[place[name] for name in child.parents] for child in children]
    assert all(ranks == sorted(ranks) for ranks in places)
    assert any(len(ranks) == 2 for ranks in places)


def test_a_space_used_up_leaves_places_empty() -> None:
    tiny = {"r": Choice(values=(2, 4, 8))}
    settings = EvolutionSettings(population=2)
    parents = breeding.found(tiny, settings)
    children = breeding.breed(tiny, settings, parents, 2, parents, 1)
    assert len(children) == 1
    everyone = (*parents, *children)
    assert {genome.lora_cfg.r for genome in everyone} == {2, 4, 8}
    assert breeding.breed(tiny, settings, everyone, 2, everyone, 2) == ()


def test_streams_differ_by_each_of_their_keys() -> None:
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    draws = {breeding.stream(s, g, breeding.Purpose(p)).random() for s, g, p in keys}
    assert len(draws) == 4
    same = np.random.default_rng([5, 2, 1]).random()
    assert breeding.stream(5, 2, breeding.Purpose.BREED).random() == same
