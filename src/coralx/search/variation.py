"""Variation: how a child's genes come from those of its parents."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

from coralx.records import GeneValue, Genome
from coralx.search.space import (
    Genes,
    Space,
    active,
    at,
    build,
    count,
    draw,
    is_number,
    ladder,
    position,
    settle,
)
from coralx.settings.genes import Choice, Float, Gene, Integer
from coralx.settings.sections import EvolutionSettings

if TYPE_CHECKING:
    from numpy.random import Generator

# Standard deviation of a numeric gene's step, as a share of its range on its own scale. The usual
# choice for real-coded mutation: most steps stay near, one in three crosses a fifth of the range.
STEP = 0.2


def make_child(
    space: Space,
    better: Genome,
    worse: Genome,
    settings: EvolutionSettings,
    rng: Generator,
    generation: int,
) -> Genome:
    """A child: crossed from both parents with `crossover_rate`, else copied; then mutated.

    Its `parents` are the better one first; the worse one is named if they were crossed, even
    where chance took none of its genes.
    """
    crosses = rng.random() < settings.crossover_rate and better.id != worse.id
    genes = cross(space, better.genes(), worse.genes(), rng) if crosses else better.genes()
    parents = (better.id, worse.id) if crosses else (better.id,)
    return build(mutate(space, genes, settings.mutation_rate, rng), parents, generation)


def cross(space: Space, a: Genes, b: Genes, rng: Generator) -> dict[str, GeneValue]:
    """Uniform crossover: each gene of the space from either parent, as likely; others from a.

    A gene that becomes active where the parent that gave it had it at rest is drawn.
    """
    from_b = {name: b[name] for name in sorted(space) if rng.random() < 0.5 and name in b}
    on_in_a, on_in_b = active(space, a), active(space, b)
    chosen = {name for name in space if name in (on_in_b if name in from_b else on_in_a)}
    return settle(space, {**a, **from_b}, chosen, rng)


def mutate(space: Space, genes: Genes, rate: float, rng: Generator) -> dict[str, GeneValue]:
    """The genes with each active one of the space changed with probability `rate`, at least one.

    A gene that becomes active by that is drawn. Nothing changes where no gene has a second value.
    """
    on = active(space, genes)
    names = [name for name in sorted(on) if count(space[name]) > 1]
    if not names:
        return dict(genes)
    chosen = [name for name in names if rng.random() < rate]
    chosen = chosen or [names[int(rng.integers(len(names)))]]
    changed = {name: _step(space[name], genes.get(name), rng) for name in chosen}
    return settle(space, {**genes, **changed}, on, rng)


def _step(gene: Gene, value: GeneValue, rng: Generator) -> GeneValue:
    """Another value of the gene: near the old one where the gene has an order."""
    if not isinstance(gene, Choice):  # a genome from outside the space may lack the gene
        return _walk(gene, value, rng) if is_number(value) else draw(gene, rng)
    rungs = ladder(gene)
    if rungs and is_number(value):
        return _neighbour(rungs, value, rng)
    others = [other for other in gene.values if other != value]
    return others[int(rng.integers(len(others)))]


def _neighbour(rungs: list[int | float], value: float, rng: Generator) -> int | float:
    """The value next below or next above, as likely; at an end, the only neighbour there is."""
    below = bisect.bisect_left(rungs, value) - 1
    above = bisect.bisect_right(rungs, value)
    places = [place for place in (below, above) if 0 <= place < len(rungs)]
    return rungs[places[int(rng.integers(len(places)))]]


def _walk(gene: Integer | Float, value: float, rng: Generator) -> int | float:
    """A gaussian step, clipped to the range; mirrored where clipping would undo it."""
    here = position(gene, value)
    step = STEP * float(rng.standard_normal())
    if isinstance(gene, Integer):  # a step too small to reach the next whole number goes there
        least = 1 / (gene.high - gene.low)
        step = max(abs(step), least) * (1 if step > 0 else -1)
    there = min(max(here + step, 0.0), 1.0)
    if there == here:
        there = min(max(here - step, 0.0), 1.0)
    return at(gene, there)
