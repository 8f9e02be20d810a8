"""Breeding: how the genomes of a generation come about, none with genes seen before."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from enum import IntEnum

import numpy as np
from numpy.random import Generator

from coralx.config import EvolutionSettings
from coralx.records import Genome
from coralx.search import variation
from coralx.search.selection import tournament
from coralx.search.space import Key, Space, build, key, sample_distinct

# How often a child that repeats known genes is mutated again before its place stays empty, which
# happens only where the space around its parents is all but used up.
TRIES = 64


class Purpose(IntEnum):
    """What a stream of random numbers is for. Streams with different purposes are independent."""

    FOUND = 0
    BREED = 1


def stream(seed: int, generation: int, purpose: Purpose) -> Generator:
    """The random numbers of one purpose in one generation: a function of these three alone."""
    return np.random.default_rng([seed, generation, purpose])


def found(space: Space, settings: EvolutionSettings) -> tuple[Genome, ...]:
    """The genomes of generation 0, drawn from the space.

    Raises:
        ConfigError: the space holds fewer different genomes than the population.
    """
    rng = stream(settings.seed, 0, Purpose.FOUND)
    return sample_distinct(space, settings.population, rng)


def breed(
    space: Space,
    settings: EvolutionSettings,
    parents: Sequence[Genome],
    count: int,
    known: Iterable[Genome],
    generation: int,
) -> tuple[Genome, ...]:
    """Up to `count` children of parents that come best first; fewer where the space is used up.

    Each child has two parents, both chosen by tournament, and genes that no genome in `known` and
    no other child has.
    """
    rng = stream(settings.seed, generation, Purpose.BREED)
    seen = {key(genome) for genome in known}
    children = []
    for _ in range(count):
        draft = _conceive(space, settings, parents, rng, generation)
        child = _make_new(space, settings, draft, seen, rng)
        if child is not None:
            seen.add(key(child))
            children.append(child)
    return tuple(children)


def _conceive(
    space: Space,
    settings: EvolutionSettings,
    parents: Sequence[Genome],
    rng: Generator,
    generation: int,
) -> Genome:
    places = range(len(parents))
    first = tournament(rng, places, settings.tournament_size)
    second = tournament(rng, places, settings.tournament_size)
    better, worse = parents[min(first, second)], parents[max(first, second)]
    return variation.breed(space, better, worse, settings, rng, generation)


def _make_new(
    space: Space,
    settings: EvolutionSettings,
    child: Genome,
    seen: Container[Key],
    rng: Generator,
) -> Genome | None:
    """The child, mutated again until its genes are new; None if `TRIES` mutations do not do it."""
    for _ in range(TRIES):
        if key(child) not in seen:
            return child
        changed = variation.mutate(space, child.genes(), settings.mutation_rate, rng)
        child = build(changed, child.parents, child.generation)
    return None
