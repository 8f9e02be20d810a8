"""The search space: draw a genome, check one against it, measure how diverse some are.

A space maps gene names onto gene kinds (`coralx.settings.genes.Gene`). Names of `LoRAConfig` and
`Genome` fields set those fields; any other name becomes an entry of `Genome.extra`. A gene whose
`when` is not met is inactive: it is at rest, neither drawn nor mutated nor counted.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, TypeGuard

from coralx.errors import ConfigError
from coralx.records import TRAINING_GENES, GeneValue, Genome, LoRAConfig
from coralx.settings.genes import Choice, Float, Gene, Integer

if TYPE_CHECKING:
    from numpy.random import Generator

Space = Mapping[str, Gene]
Genes = Mapping[str, GeneValue]
Key = tuple[tuple[str, GeneValue], ...]


class _Inactive(Enum):
    INACTIVE = "inactive"


INACTIVE = _Inactive.INACTIVE  # in place of a value, of a gene that is at rest

DEFAULTS = Genome().genes()
# Below this many possible genomes per genome wanted, repeats are likely: draw without replacement.
_SPARSE = 10


def sample(space: Space, rng: Generator, generation: int = 0) -> Genome:
    """A genome with each active gene drawn independently and uniformly on its own scale."""
    return build(settle(space, {}, (), rng), generation=generation)


def sample_distinct(space: Space, count: int, rng: Generator) -> tuple[Genome, ...]:
    """`count` genomes of generation 0, no two with the same genes.

    Raises:
        ConfigError: the space holds fewer than `count` genomes.
    """
    total = size(space, enough=_SPARSE * count)
    if total < count:
        rule = f"population {count} needs as many different genomes, the space holds {total:.0f}"
        raise ConfigError("space", [f"{rule}; widen a gene or lower evolution.population"])
    if total <= _SPARSE * count:
        places = rng.choice(int(total), size=count, replace=False)
        return tuple(build(_nth(space, int(place))) for place in places)
    found: dict[Key, Genome] = {}
    while len(found) < count:  # at most one draw in ten is a repeat
        genome = sample(space, rng)
        found.setdefault(key(genome), genome)
    return tuple(found.values())


def build(genes: Genes, parents: Sequence[str] = (), generation: int = 0) -> Genome:
    """The genome that has these genes; those not given take the record's defaults."""
    lora = {name: genes[name] for name in LoRAConfig.model_fields if name in genes}
    training = {name: genes[name] for name in TRAINING_GENES if name in genes}
    extra = {name: genes[name] for name in genes if name not in lora and name not in training}
    facts = {"lora_cfg": lora, **training, "extra": extra}
    return Genome.model_validate({**facts, "parents": tuple(parents), "generation": generation})


def check(space: Space, genome: Genome) -> None:
    """Pass if every gene of the space has, in this genome, a value the space allows; inactive ones
    must be at rest.

    Raises:
        ConfigError: naming each gene that does not, the rule and the value.
    """
    genes = genome.genes()
    on = active(space, genes)
    problems = [
        f"{name} must be {rule}, got {genes.get(name)!r} in genome {genome.id}"
        for name, gene in sorted(space.items())
        if (rule := _broken_rule(name, gene, genes.get(name), name in on))
    ]
    if problems:
        raise ConfigError("space", problems)


def diversity(space: Space, genomes: Sequence[Genome]) -> float:
    """Mean pairwise distance, 0..1; 0 for fewer than two genomes.

    The distance of two genomes, 0 (equal genes) to 1, is the mean over the space's genes. That of a
    gene is |difference| / range for numbers (of logarithms on a log scale, of places in the list
    for a choice among numbers) and 0 or 1 for other choices; 1 where it is active in one of them
    alone, 0 where it is in neither.
    """
    if len(genomes) < 2 or not space:
        return 0.0
    live = [_live_genes(space, genome) for genome in genomes]
    spreads = [_spread(gene, [genes[name] for genes in live]) for name, gene in space.items()]
    return math.fsum(spreads) / len(spreads)


def relative_diversity(space: Space, genomes: Sequence[Genome]) -> float:
    """Diversity as a share, 0..1, of what so many genomes can reach."""
    most = largest_diversity(space, len(genomes))
    return diversity(space, genomes) / most if most else 0.0


def largest_diversity(space: Space, count: int) -> float:
    """The largest mean pairwise distance of `count` genomes, each gene at its own maximum.

    A gene's is reached where they part evenly into groups that are 1 apart: at both ends of numbers
    (two groups), at all values of other choices, and at rest. 4/7 for eight at two ends.
    """
    if count < 2 or not space:
        return 0.0
    reached = [_part_evenly(count, _groups(space, name)) for name in space]
    return math.fsum(reached) / math.comb(count, 2) / len(space)


def key(genome: Genome) -> Key:
    """Equal for two genomes exactly when their genes are, whatever their lineage."""
    return tuple(sorted(genome.genes().items()))


def size(space: Space, enough: float = math.inf) -> float:
    """How many different genomes the space holds; infinity where a gene is continuous. Nothing is
    counted beyond `enough`: conditions can make more forms of a genome than can be gone through."""
    total = 0.0
    for _, free in _forms(space):
        total += _count_form(space, free)
        if total > enough:
            break
    return total


def ordered(space: Space) -> list[str]:
    """The names of the genes, each after those that its `when` names, else alphabetically."""
    names: list[str] = []
    while later := [name for name in sorted(space) if name not in names]:
        names += [name for name in later if not space[name].when.keys() & set(later)]
    return names


def active(space: Space, genes: Genes) -> set[str]:
    """The genes that count: all that their `when` names do, and have one of its values."""
    found: set[str] = set()
    for name in ordered(space):
        if _is_met(space[name], genes, found):
            found.add(name)
    return found


def rest(name: str) -> GeneValue:
    """The value of an inactive gene: its field's default, None for a user's own."""
    return DEFAULTS.get(name)


def settle(
    space: Space, genes: Genes, chosen: Container[str], rng: Generator
) -> dict[str, GeneValue]:
    """The genes with inactive ones put to rest, and active ones drawn unless they are `chosen`:
    have a value that was meant to be."""
    settled = dict(genes)
    found: set[str] = set()
    for name in ordered(space):
        if not _is_met(space[name], settled, found):
            settled[name] = rest(name)
            continue
        found.add(name)
        if name not in chosen:
            settled[name] = draw(space[name], rng)
    return settled


def count(gene: Gene) -> float:
    """How many values a gene can take; infinity for a continuous one."""
    if isinstance(gene, Choice):
        return len(gene.values)
    if isinstance(gene, Integer):
        return gene.high - gene.low + 1
    return math.inf if gene.low < gene.high else 1


def draw(gene: Gene, rng: Generator) -> GeneValue:
    """One value of the gene, uniform on its own scale."""
    if isinstance(gene, Float):
        return at(gene, rng.random())
    return _pick(gene, int(rng.integers(int(count(gene)))))


def ladder(gene: Choice) -> list[int | float] | None:
    """The values of a choice among numbers, low to high; None if they have no order."""
    numbers = [value for value in gene.values if is_number(value)]
    return sorted(set(numbers)) if len(numbers) == len(gene.values) else None


def has_order(gene: Gene) -> bool:
    """Whether its values are numbers, some nearer to one another than others."""
    return not isinstance(gene, Choice) or ladder(gene) is not None


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a number, and not a truth, which Python counts as one."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def position(gene: Integer | Float, value: float) -> float:
    """Where a value lies between low (0) and high (1), on the gene's scale; clipped."""
    if gene.low == gene.high:
        return 0.0
    low, high, here = gene.low, gene.high, min(max(value, gene.low), gene.high)
    if isinstance(gene, Float) and gene.log:
        low, high, here = math.log(low), math.log(high), math.log(here)
    return (here - low) / (high - low)


def at(gene: Integer | Float, place: float) -> int | float:
    """The value at a place 0..1 between low and high: the inverse of `position`."""
    if isinstance(gene, Integer):
        return round(gene.low + place * (gene.high - gene.low))
    if gene.log:
        value = math.exp(math.log(gene.low) * (1 - place) + math.log(gene.high) * place)
    else:
        value = gene.low * (1 - place) + gene.high * place
    return min(max(value, gene.low), gene.high)


def _pick(gene: Choice | Integer, place: int) -> GeneValue:
    return gene.values[place] if isinstance(gene, Choice) else gene.low + place


def _is_met(gene: Gene, genes: Genes, found: Container[str]) -> bool:
    return all(other in found and genes.get(other) in few for other, few in gene.when.items())


def _forms(space: Space) -> Iterator[tuple[dict[str, GeneValue], list[str]]]:
    """Every combination of the genes that conditions depend on, all inactive genes at rest, with
    the names of the genes that are free then. Without conditions: one, with all genes free."""
    named = {other for gene in space.values() for other in gene.when}
    deciders = [(n, g) for n in ordered(space) if n in named and isinstance(g := space[n], Choice)]

    def combine(place: int, genes: dict[str, GeneValue]) -> Iterator[dict[str, GeneValue]]:
        if place == len(deciders):
            yield genes
            return
        name, gene = deciders[place]
        met = _is_met(gene, genes, active(space, genes))
        for value in gene.values if met else (rest(name),):
            yield from combine(place + 1, {**genes, name: value})

    for genes in combine(0, {}):
        on = active(space, genes)
        resting = {name: rest(name) for name in space if name not in on}
        yield {**genes, **resting}, sorted(on - genes.keys())


def _count_form(space: Space, free: Sequence[str]) -> float:
    return math.prod(count(space[name]) for name in free)


def _nth(space: Space, place: int) -> dict[str, GeneValue]:
    """The genes of the place-th genome of a finite space (mixed radix, genes in name order)."""
    forms = _forms(space)
    genes, free = next(forms)
    while place >= (held := int(_count_form(space, free))):
        place -= held
        genes, free = next(forms)
    for name in free:
        gene = space[name]
        place, digit = divmod(place, int(count(gene)))
        genes[name] = at(gene, 0.0) if isinstance(gene, Float) else _pick(gene, digit)
    return genes


def _live_genes(space: Space, genome: Genome) -> dict[str, GeneValue | _Inactive]:
    genes = genome.genes()
    on = active(space, genes)
    return {name: genes.get(name) if name in on else INACTIVE for name in space}


def _gap(gene: Gene, a: GeneValue | _Inactive, b: GeneValue | _Inactive) -> float:
    if a == b:
        return 0.0
    if a is INACTIVE or b is INACTIVE:
        return 1.0
    if isinstance(gene, Choice):
        rungs = ladder(gene)
        if rungs is None or a not in rungs or b not in rungs:
            return 1.0
        return abs(rungs.index(a) - rungs.index(b)) / (len(rungs) - 1)
    if isinstance(a, int | float) and isinstance(b, int | float):
        return abs(position(gene, a) - position(gene, b))
    return 1.0


def _spread(gene: Gene, found: Sequence[GeneValue | _Inactive]) -> float:
    """Mean pairwise gap of one gene, in n log n: populations grow."""
    here = [value for value in found if value is not INACTIVE]
    numbers = [value for value in here if is_number(value)]
    if isinstance(gene, Choice) or len(numbers) < len(here):  # few different values: counted
        pairs = itertools.combinations(Counter(found).items(), 2)
        gaps = math.fsum(n * m * _gap(gene, a, b) for (a, n), (b, m) in pairs)
        return gaps / math.comb(len(found), 2)
    # The sum of |x - y| over all pairs of k: the i-th smallest is added i times, taken k - 1 - i.
    last = len(here) - 1
    places = sorted(position(gene, number) for number in numbers)
    gaps = math.fsum((2 * i - last) * place for i, place in enumerate(places))
    return (gaps + len(here) * (len(found) - len(here))) / math.comb(len(found), 2)


def _part_evenly(number: int, groups: int) -> int:
    """Pairs of different groups (Turan's number)."""
    size, larger = divmod(number, groups)
    within = larger * math.comb(size + 1, 2) + (groups - larger) * math.comb(size, 2)
    return math.comb(number, 2) - within


def _groups(space: Space, name: str) -> int:
    """How many states of a gene are 1 apart from one another."""
    gene = space[name]
    states = min(count(gene), 2) if has_order(gene) else count(gene)
    return int(states) + _can_rest(space, name)


def _can_rest(space: Space, name: str) -> bool:
    """Whether some value of a gene that it depends on puts it to rest, or that one can rest."""
    return any(
        len(set(few)) < count(space[other]) or _can_rest(space, other)
        for other, few in space[name].when.items()
    )


def _broken_rule(name: str, gene: Gene, value: GeneValue, on: bool) -> str | None:
    if not on:
        resting = rest(name)
        return None if value == resting else f"{resting!r} while its `when` is not met"
    return None if _allows(gene, value) else _rule(gene)


def _allows(gene: Gene, value: GeneValue) -> bool:
    if isinstance(gene, Choice):
        return value in gene.values
    if not is_number(value) or (isinstance(gene, Integer) and not isinstance(value, int)):
        return False
    return gene.low <= value <= gene.high


def _rule(gene: Gene) -> str:
    if isinstance(gene, Choice):
        return f"one of {', '.join(repr(value) for value in gene.values)}"
    kind = "a whole number" if isinstance(gene, Integer) else "a number"
    return f"{kind} from {gene.low} to {gene.high}"
