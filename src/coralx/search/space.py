"""The search space: draw a genome, check one against it, measure how far two are apart.

A space maps gene names onto gene kinds (`coralx.genes.Gene`). Names of `LoRAConfig` and `Genome`
fields set those fields; any other name becomes an entry of `Genome.extra`.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from coralx.errors import ConfigError
from coralx.genes import TRAINING_GENES, Choice, Float, Gene, Integer
from coralx.records import GeneValue, Genome, LoRAConfig

if TYPE_CHECKING:
    from numpy.random import Generator

Space = Mapping[str, Gene]
Genes = Mapping[str, GeneValue]
Key = tuple[tuple[str, GeneValue], ...]

# Below this many possible genomes per genome wanted, repeats are likely: draw without replacement.
_SPARSE = 10


def sample(space: Space, rng: Generator, generation: int = 0) -> Genome:
    """A genome with each gene drawn independently and uniformly on its own scale.

    Raises:
        ConfigError: a value drawn is not one the gene's field can take.
    """
    genes = {name: draw(name, space[name], rng) for name in sorted(space)}
    return build(genes, generation=generation)


def sample_distinct(space: Space, count: int, rng: Generator) -> tuple[Genome, ...]:
    """`count` genomes of generation 0, no two with the same genes.

    Raises:
        ConfigError: the space holds fewer than `count` genomes.
    """
    total = size(space)
    if total < count:
        rule = f"population {count} needs as many different genomes, the space holds {total:.0f}"
        raise ConfigError("space", [f"{rule}; widen a gene or lower evolution.population"])
    if total <= _SPARSE * count:
        places = rng.choice(int(total), size=count, replace=False)
        return tuple(build(_nth(space, int(place))) for place in places)
    found: dict[Any, Genome] = {}
    while len(found) < count:  # at most one draw in ten is a repeat
        genome = sample(space, rng)
        found.setdefault(key(genome), genome)
    return tuple(found.values())


def build(genes: Genes, parents: Sequence[str] = (), generation: int = 0) -> Genome:
    """The genome that has these genes; those not given take the record's defaults.

    Raises:
        ConfigError: a gene's value is not one its field can take; every such gene is named.
    """
    lora = {name: genes[name] for name in LoRAConfig.model_fields if name in genes}
    if isinstance(modules := lora.get("target_modules"), str):
        lora["target_modules"] = (modules,)
    training = {name: genes[name] for name in TRAINING_GENES if name in genes}
    extra = {name: genes[name] for name in genes if name not in lora and name not in training}
    facts = {"lora_cfg": lora, **training, "extra": extra}
    try:
        return Genome.model_validate({**facts, "parents": tuple(parents), "generation": generation})
    except ValidationError as error:
        raise ConfigError("space", [_explain(item) for item in error.errors()]) from None


def check(space: Space, genome: Genome) -> None:
    """Pass if every gene of the space has, in this genome, a value the space allows.

    Raises:
        ConfigError: naming each gene that does not, the rule and the value.
    """
    genes = genome.genes()
    problems = [
        f"{name} must be {_rule(name, gene)}, got {genes.get(name)!r} in genome {genome.id}"
        for name, gene in sorted(space.items())
        if not _allows(name, gene, genes.get(name))
    ]
    if problems:
        raise ConfigError("space", problems)


def distance(space: Space, a: Genome, b: Genome) -> float:
    """How different two genomes are, 0 (equal genes) to 1: the mean over the space's genes.

    A gene's distance is |difference| / range for numbers (of logarithms on a log scale, of places
    in the list for a choice among numbers) and 0 or 1 for other choices.
    """
    ours, theirs = a.genes(), b.genes()
    gaps = [_gap(name, gene, ours.get(name), theirs.get(name)) for name, gene in space.items()]
    return math.fsum(gaps) / len(gaps) if gaps else 0.0


def diversity(space: Space, genomes: Sequence[Genome]) -> float:
    """Mean pairwise distance, 0..1; 0 for fewer than two genomes."""
    if len(genomes) < 2 or not space:
        return 0.0
    all_genes = [genome.genes() for genome in genomes]
    spreads = [
        _spread(name, gene, [genes.get(name) for genes in all_genes])
        for name, gene in space.items()
    ]
    return math.fsum(spreads) / len(spreads)


def key(genome: Genome) -> Key:
    """Equal for two genomes exactly when their genes are, whatever their lineage."""
    return tuple(sorted(genome.genes().items()))


def size(space: Space) -> float:
    """How many different genomes the space holds; infinity where a gene is continuous."""
    return math.prod(count(name, gene) for name, gene in space.items())


def count(name: str, gene: Gene) -> float:
    """How many values a gene can take; infinity for a continuous one."""
    if isinstance(gene, Choice):
        return len(values(name, gene))
    if isinstance(gene, Integer):
        return gene.high - gene.low + 1
    return math.inf if gene.low < gene.high else 1


def draw(name: str, gene: Gene, rng: Generator) -> GeneValue:
    """One value of the gene, uniform on its own scale."""
    if isinstance(gene, Float):
        return at(gene, rng.random())
    return _pick(name, gene, int(rng.integers(int(count(name, gene)))))


def values(name: str, gene: Choice) -> tuple[GeneValue, ...]:
    """The different values of a choice. One module name alone stands for a list of one."""
    if name == "target_modules":
        return tuple(dict.fromkeys((v,) if isinstance(v, str) else v for v in gene.values))
    return tuple(dict.fromkeys(gene.values))


def ladder(gene: Choice) -> list[int | float] | None:
    """The values of a choice among numbers, low to high; None if they have no order."""
    numbers = [v for v in gene.values if isinstance(v, int | float) and not isinstance(v, bool)]
    return sorted(set(numbers)) if len(numbers) == len(gene.values) else None


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


def _pick(name: str, gene: Choice | Integer, place: int) -> GeneValue:
    return values(name, gene)[place] if isinstance(gene, Choice) else gene.low + place


def _nth(space: Space, place: int) -> dict[str, GeneValue]:
    """The genes of the place-th genome of a finite space (mixed radix, genes in name order)."""
    genes: dict[str, GeneValue] = {}
    for name in sorted(space):
        gene = space[name]
        place, digit = divmod(place, int(count(name, gene)))
        genes[name] = at(gene, 0.0) if isinstance(gene, Float) else _pick(name, gene, digit)
    return genes


def _gap(name: str, gene: Gene, a: GeneValue, b: GeneValue) -> float:
    if a == b:
        return 0.0
    if isinstance(gene, Choice):
        rungs = ladder(gene)
        if rungs is None or a not in rungs or b not in rungs:
            return 1.0
        return abs(rungs.index(a) - rungs.index(b)) / (len(rungs) - 1)
    if isinstance(a, int | float) and isinstance(b, int | float):
        return abs(position(gene, a) - position(gene, b))
    return 1.0


def _spread(name: str, gene: Gene, found: Sequence[GeneValue]) -> float:
    """Mean pairwise gap of one gene. Equal values are counted, not paired: populations grow."""
    pairs = itertools.combinations(Counter(found).items(), 2)
    gaps = (n * m * _gap(name, gene, a, b) for (a, n), (b, m) in pairs)
    return math.fsum(gaps) / math.comb(len(found), 2)


def _allows(name: str, gene: Gene, value: GeneValue) -> bool:
    if isinstance(gene, Choice):
        return value in values(name, gene)
    number = isinstance(value, int if isinstance(gene, Integer) else int | float)
    return number and not isinstance(value, bool) and gene.low <= value <= gene.high  # type: ignore[operator]


def _rule(name: str, gene: Gene) -> str:
    if isinstance(gene, Choice):
        return f"one of {', '.join(repr(value) for value in values(name, gene))}"
    kind = "a whole number" if isinstance(gene, Integer) else "a number"
    return f"{kind} from {gene.low} to {gene.high}"


def _explain(item: Any) -> str:
    place = ".".join(str(part) for part in item["loc"] if part != "lora_cfg")
    message = item["msg"].removeprefix("Value error, ")
    return f"{place or 'genome'}: {message}, got {item.get('input')!r}; change the gene's values"
