"""Packing: which genomes train together on one copy of the base model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from coralx.records import Genome, LoRAConfig

# Bytes of peak memory that a pack of these adapters adds: `footprint.added_bytes`, shape bound.
PackCost = Callable[[Sequence[LoRAConfig]], float]


def pack(
    genomes: Sequence[Genome],
    max_size: int,
    cost: PackCost | None = None,
    budget_bytes: float = math.inf,
    adapters: Mapping[str, LoRAConfig] | None = None,
) -> list[tuple[Genome, ...]]:
    """Every genome in exactly one pack; the same packs whatever order they come in.

    Genomes are sorted by depth (`layers`; the deepest first, as they enter a pack), rank and id,
    and cut greedily. A pack has at most `max_size` genomes, and `cost` of its adapters is at most
    `budget_bytes`. Depths may differ: each genome joins the pack's computation at its own lowest
    block. A single genome over the budget still forms a pack: whether it really fits, training
    finds out. Ranks are alike within a pack because they are padded to its largest. `adapters`
    holds, by genome id, adapters that differ from the gene, such as grown ones.
    """
    trained = {genome.id: (adapters or {}).get(genome.id, genome.lora_cfg) for genome in genomes}

    def depth(genome: Genome) -> float:
        layers = trained[genome.id].layers
        return math.inf if layers == "all" else layers

    def fits(members: Sequence[Genome]) -> bool:
        if len(members) > max_size:
            return False
        return cost is None or cost([trained[g.id] for g in members]) <= budget_bytes

    packs: list[tuple[Genome, ...]] = []
    for genome in sorted(genomes, key=lambda g: (-depth(g), trained[g.id].r, g.id)):
        if packs and fits((*packs[-1], genome)):
            packs[-1] += (genome,)
        else:
            packs.append((genome,))
    return packs
