"""Breeding: how the genomes of a generation come about, none with genes seen before."""

from __future__ import annotations

from collections.abc import Collection, Container, Sequence
from enum import IntEnum

import numpy as np
from numpy.random import Generator

from coralx.records import Genome
from coralx.search import variation
from coralx.search.budget import share_of
from coralx.search.selection import tournament
from coralx.search.space import Key, Space, build, key, sample, sample_distinct
from coralx.settings.sections import EvolutionSettings

# How often a child that repeats known genes is mutated again before its place stays empty, which
# happens only where the space around its parents is all but used up.
TRIES = 64


class Purpose(IntEnum):
    """What a stream of random numbers is for. Streams with different purposes are independent."""

    FOUND = 0
    BREED = 1
    EXPLOIT = 2
    ARRIVE = 3


def stream(seed: int, place: int, purpose: Purpose, stage: int | None = None) -> Generator:
    """The random numbers of one purpose in one generation, or of the genome of this number: a
    function of these alone."""
    return np.random.default_rng([seed, place, purpose, *([] if stage is None else [stage])])


def draw_founders(space: Space, settings: EvolutionSettings) -> tuple[Genome, ...]:
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
    known: Collection[Key],
    generation: int,
    rng: Generator,
) -> tuple[Genome, ...]:
    """Up to `count` newcomers, fewer where the space is used up: children of the parents, who come
    best first, or drawn while there are no parents.

    Each child has two parents, both chosen by tournament, and genes that are not in `known` and
    that no other newcomer has.
    """
    own: dict[Key, Genome] = {}
    for _ in range(count):
        if parents:
            draft = _conceive(space, settings, parents, rng, generation)
        else:
            draft = sample(space, rng, generation)
        child = _make_new(space, settings, draft, (known, own), rng)
        if child is not None:
            own[key(child)] = child
    return tuple(own.values())


def exploit(
    space: Space,
    settings: EvolutionSettings,
    ranked: Sequence[Genome],
    known: Collection[Key],
    generation: int,
    stage_index: int,
) -> tuple[Genome, ...]:
    """The genomes that enter a stage: those that come here, best first, but for the lowest share
    `evolution.exploit_below`, which mutated copies of the best replace.

    Truncation selection of PBT (Jaderberg et al. 2017, arXiv:1711.09846): each model is drawn from
    the top share as large. It is its copy's only parent. A genome stays where no mutation of its
    model gives genes that are new.
    """
    few = share_of(len(ranked), settings.exploit_below)
    if not few:
        return tuple(ranked)
    rng = stream(settings.seed, generation, Purpose.EXPLOIT, stage_index)
    own: set[Key] = set()
    entering = list(ranked)
    for place in range(len(ranked) - few, len(ranked)):
        model = ranked[int(rng.integers(few))]
        same = build(model.genes(), (model.id,), generation)
        copy = _make_new(space, settings, same, (known, own), rng)
        if copy is not None:
            own.add(key(copy))
            entering[place] = copy
    return tuple(entering)


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
    return variation.make_child(space, better, worse, settings, rng, generation)


def _make_new(
    space: Space,
    settings: EvolutionSettings,
    child: Genome,
    seen: Sequence[Container[Key]],
    rng: Generator,
) -> Genome | None:
    """The child, mutated again until its genes are new; None if `TRIES` mutations do not do it."""
    for _ in range(TRIES):
        genes = key(child)
        if not any(genes in known for known in seen):
            return child
        changed = variation.mutate(space, child.genes(), settings.mutation_rate, rng)
        child = build(changed, child.parents, child.generation)
    return None
