"""Packing: which genomes train together on one copy of the base model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from coralx.records import Genome, LoRAConfig

# Bytes of peak memory that a pack of these adapters needs; `estimate_bytes` with its shape bound.
PackCost = Callable[[Sequence[LoRAConfig]], float]

# Weight, gradient and AdamW's two moments of a trained parameter, in fp32.
_BYTES_PER_TRAINED = 16


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a transformer encoder that its memory depends on.

    `layers` blocks of width `hidden`, with an MLP of width `intermediate` and `heads` attention
    heads; `vocab` token embeddings; `value_bytes` per weight and activation (4: fp32, 2: bf16).
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    vocab: int
    value_bytes: int = 4


def pack(
    genomes: Sequence[Genome],
    max_size: int,
    cost: PackCost | None = None,
    budget_bytes: float = math.inf,
    adapters: Mapping[str, LoRAConfig] | None = None,
) -> list[tuple[Genome, ...]]:
    """Every genome in exactly one pack; the same packs whatever order they come in.

    Genomes are sorted by depth (`layers`), rank and id and cut greedily. A pack has at most
    `max_size` genomes, and `cost` of its adapters is at most `budget_bytes`. Depths may differ:
    each genome joins the pack's computation at its own lowest block. A single genome over the
    budget still forms a pack: whether it really fits, training finds out. Ranks are alike within
    a pack because they are padded to its largest. `adapters` holds, by genome id, adapters that
    differ from the gene, such as grown ones.
    """
    trained = {genome.id: (adapters or {}).get(genome.id, genome.lora_cfg) for genome in genomes}

    def depth(genome: Genome) -> float:
        layers = trained[genome.id].layers
        return math.inf if layers == "all" else layers

    def fits(members: Sequence[Genome]) -> bool:
        if len(members) > max_size:
            return False
        return cost is None or cost([trained[g.id] for g in members]) <= budget_bytes

    ordered = sorted(genomes, key=lambda genome: (depth(genome), trained[genome.id].r, genome.id))
    return _cut(ordered, fits)


def estimate_bytes(
    adapters: Sequence[LoRAConfig], shape: ModelShape, rows: int, tokens: int
) -> int:
    """Peak bytes to train a pack of K adapters with `rows` rows of `tokens` tokens per genome.

    base (once) + adapters (weights, gradients, moments) + activations kept for the backward pass
    + the largest passing activation. An estimate for planning: ranks are padded to the pack's
    largest, activations are kept only in blocks from the deepest adapter up, and module names
    that are not roles count as hidden x intermediate. What training measures is P4, not this.
    """
    rank = max(adapter.r for adapter in adapters)
    deepest = max(_depth(adapter, shape) for adapter in adapters)
    trained = sum(_width(adapter, shape) * _depth(adapter, shape) for adapter in adapters) * rank
    seen = len(adapters) * rows * tokens * shape.value_bytes
    kept = deepest * _activations(shape, tokens)
    passing = 2 * shape.intermediate + shape.heads * tokens
    return base_bytes(shape) + trained * _BYTES_PER_TRAINED + seen * (kept + passing)


def base_bytes(shape: ModelShape) -> int:
    """Bytes of the frozen base: token embeddings, four attention matrices and two of the MLP."""
    block = 4 * shape.hidden**2 + 2 * shape.hidden * shape.intermediate
    return (shape.vocab * shape.hidden + shape.layers * block) * shape.value_bytes


def trained_parameters(adapter: LoRAConfig, shape: ModelShape) -> int:
    """Of the A and B of all linears that the adapter covers, by the same reckoning."""
    return _width(adapter, shape) * _depth(adapter, shape) * adapter.r


def _cut(
    genomes: list[Genome], fits: Callable[[Sequence[Genome]], bool]
) -> list[tuple[Genome, ...]]:
    packs: list[list[Genome]] = []
    for genome in genomes:
        if packs and fits([*packs[-1], genome]):
            packs[-1].append(genome)
        else:
            packs.append([genome])
    return [tuple(members) for members in packs]


def _activations(shape: ModelShape, tokens: int) -> int:
    """Values a block keeps per token: ten of width hidden (input, query, key, value, context,
    output, two norms, two sums), two of the MLP, and the scores before and after softmax."""
    return 10 * shape.hidden + 2 * shape.intermediate + 2 * shape.heads * tokens


def _depth(adapter: LoRAConfig, shape: ModelShape) -> int:
    return shape.layers if adapter.layers == "all" else min(adapter.layers, shape.layers)


def _width(adapter: LoRAConfig, shape: ModelShape) -> int:
    """Parameters of one block's adapters per unit of rank: in + out of each adapted linear."""
    square, oblong = 2 * shape.hidden, shape.hidden + shape.intermediate
    attention = {"query", "key", "value", "output"}
    if "all-linear" in adapter.target_modules:
        return 4 * square + 2 * oblong
    return sum(square if name in attention else oblong for name in adapter.target_modules)
