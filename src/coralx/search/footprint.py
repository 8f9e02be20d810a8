"""The memory that a pack will take, reckoned from the model's shape before it is tried.

A forecast, which decides who trains together. What serving an adapter takes is measured:
`coralx.train.memory`, objective P4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from coralx.records import FUSED_ROLES, LoRAConfig, ModelShape

# Weight, gradient and AdamW's two moments of a trained parameter, in fp32.
_BYTES_PER_TRAINED = 16
_FP32_BYTES = 4
_ATTENTION = ("query", "key", "value")
_LOCAL = 2 / 3  # of ModernBERT's blocks attend to near tokens alone, by a mask of all pairs
# What enters a linear, by its role; to others something of their own does.
_ENTERS = {**dict.fromkeys((*_ATTENTION, "qkv"), "attention"), "gate": "mlp", "up": "mlp"}


def added_bytes(
    adapters: Sequence[LoRAConfig], shape: ModelShape, rows: int, tokens: int, evaluated: int = 0
) -> int:
    """Peak bytes that a pack of K adapters adds to the base: trained weights + the larger of what
    training takes with `rows` rows of `tokens` tokens per genome and what evaluation takes with
    `evaluated` of them.

    Training takes activations kept for the backward pass + the largest passing, evaluation the
    largest passing alone. Ranks are padded to the largest of those that adapt a layer. A genome is
    present from its lowest adapted block up. When the backward pass reaches the blocks below it,
    what the last block kept is gone, so it counts only where it is alone.

    Within 10 % of what is measured for packs of a BERT encoder and 15 % for those of ModernBERT, of
    DeBERTa and of decoders of up to 1,536 tokens, evaluation within 10 % for all
    (tests/train/test_memory.py).
    But too much in training by a quarter where few blocks of a decoder adapt their MLPs alone, by
    up to a half where an encoder adapts its last block alone; too little by up to a third where a
    qwen3 or a gemma3_text in bfloat16 adapts keys of its last block alone; and too much in
    evaluation by a fifth where texts are so long that DeBERTa's far distances share vectors. Module
    names that are not roles count as hidden x intermediate. Where cores outnumber `evaluated`, each
    still evaluates a row. What training measures is P4, not this.
    """
    depths = [adapted_blocks(adapter, shape) for adapter in adapters]
    trained = len(adapters) * (1 + shape.hidden + shape.hidden * _beside(shape))
    below, alone = 0.0, 0.0
    for height in range(1, max(depths) + 1):  # 1: the last block
        linears = _adapted(adapters, depths, height, shape)
        trained += len(adapters) * sum(
            rank * sum(_sides(n, shape)) for n, (rank, _) in linears.items()
        )
        if height > 1 or shape.fused:
            below += sum(depth >= height for depth in depths) * _kept(linears, shape, tokens)
        elif max(depths) == 1:
            alone = len(adapters) * _kept(linears, shape, tokens, last=True)
    count, above = len(adapters), sum(depth > 1 for depth in depths)
    if shape.fused:  # its last block is like the others
        training = below + count * _passing(shape, tokens)
        scoring = count * _scoring(shape, tokens)
    else:
        # Genomes that join others in the last block stay a while as they entered it.
        forward = count * _scoring_last(shape) + (above and count - above) * shape.hidden
        if above:
            backward = max(above * _passing(shape, tokens), count * _returning(shape))
        else:
            backward = alone + count * _passing_last(shape)
        training = below + max(forward, backward)
        scoring = max(above * _scoring(shape, tokens), forward)
    values = max(rows * training, evaluated * scoring) * tokens
    return trained * _BYTES_PER_TRAINED + round(values * shape.value_bytes)


def base_bytes(shape: ModelShape) -> int:
    """Bytes of the frozen base: token embeddings and the linears of all blocks."""
    block = block_parameters(shape)
    return (shape.vocab * shape.hidden + shape.layers * block) * shape.value_bytes


def block_parameters(shape: ModelShape) -> int:
    """Weights of one block's linears."""
    return sum(math.prod(sides) for sides in block_linears(shape).values())


def block_linears(shape: ModelShape) -> dict[str, tuple[int, int]]:
    """The linears of one block by role, four of attention and two or three of the MLP: what goes in
    and what comes out."""
    return {name: _sides(name, shape) for name in adapted_linears(("all-linear",), shape)}


def adapted_blocks(adapter: LoRAConfig, shape: ModelShape) -> int:
    """How many blocks of the model the adapter reaches, the last one first."""
    return shape.layers if adapter.layers == "all" else min(adapter.layers, shape.layers)


def adapted_linears(names: Sequence[str], shape: ModelShape) -> Sequence[str]:
    """The linears of a block that these names adapt, by role; what is no role as it is named."""
    if "all-linear" not in names:
        return tuple(dict.fromkeys(map(_fuse, names))) if shape.fused else names
    if shape.fused:
        return ("qkv", "output", "up", "down")
    return (*_ATTENTION, "output", *(["gate"] if shape.decoder else []), "up", "down")


def _beside(shape: ModelShape) -> int:
    """Values that a genome trains for each feature beside its adapters and the last linear."""
    deep = shape.hidden + 1 if shape.deep_head else 0
    return shape.vision + bool(shape.vision) + deep


def _adapted(
    adapters: Sequence[LoRAConfig], depths: Sequence[int], height: int, shape: ModelShape
) -> dict[str, tuple[int, bool]]:
    """The linears that a block adapts for anybody: their padded rank, and whether any drops."""
    found: dict[str, tuple[int, bool]] = {}
    for adapter, depth in zip(adapters, depths, strict=True):
        for name in adapted_linears(adapter.target_modules, shape) if depth >= height else ():
            rank, drops = found.get(name, (0, False))
            found[name] = (max(rank, adapter.r), drops or adapter.dropout > 0)
    return found


def _kept(
    linears: Mapping[str, tuple[int, bool]], shape: ModelShape, tokens: int, last: bool = False
) -> float:
    """Values a block keeps per token for the backward pass: the base's and the adapters'.

    An adapter keeps its input, with dropout a copy of it and a byte a value for what was dropped,
    and its low-rank output; linears that the same enters share an undropped input.
    """
    total = _kept_by_base(shape, tokens, last)
    dropped = 1 + 1 / shape.value_bytes
    inputs = {}
    for name, (rank, drops) in linears.items():
        if last and name not in ("key", "value"):
            continue
        width, _ = _sides(name, shape)
        total += rank + (width * dropped if drops else 0)
        if not drops and not (shape.decoder and name == "output"):  # there it is the context itself
            inputs[_ENTERS.get(name, name)] = width
    return total + sum(inputs.values())


def _kept_by_base(shape: ModelShape, tokens: int, last: bool) -> float:
    """In an encoder attention keeps query, key, value and context, two norms their inputs, the
    activation function its own: 6 x hidden + intermediate; DeBERTa's each head's weights of all
    pairs of tokens, too, and something of distances. In a decoder norms keep theirs in fp32, keys
    and values are repeated until they are as wide as queries, attention keeps its mask of all
    pairs of tokens, and the MLP gate, its activation and the way up; a Gemma has four norms.
    ModernBERT likewise, with all of the linear that makes keys, queries and values. The last block
    keeps keys, values and its input alone, as all else is for one token a row; in a decoder not
    even that, as it enters by a norm that nothing trains.
    """
    if shape.fused:
        return 8 * shape.hidden + _LOCAL * tokens + 3 * shape.intermediate
    if not shape.decoder:
        apart = 1.25 * shape.hidden if shape.apart else 0  # of distances, among them
        kept = 6 * shape.hidden + apart + shape.apart * tokens + shape.intermediate
        return 3 * shape.hidden if last else kept
    norm = shape.hidden * _FP32_BYTES / shape.value_bytes
    queries, keys = (_sides(name, shape)[1] for name in ("query", "key"))
    norms = 4 if shape.sandwiched else 2
    return 2 * keys if last else norms * norm + 4 * queries + tokens + 3 * shape.intermediate


def _passing(shape: ModelShape, tokens: int) -> float:
    """Values per token that pass at once beside what is kept where a block has most of them: in its
    MLP, or where DeBERTa's attention has something for all pairs of tokens."""
    mlp = (3 if shape.decoder or shape.fused else 2) * shape.intermediate
    return max(mlp, 2.5 * shape.apart * tokens)


def _passing_last(shape: ModelShape) -> float:
    """The same of the last block: before its one token is taken out."""
    if not shape.decoder:
        return 3.5 * shape.hidden
    return shape.hidden + max(shape.hidden * _FP32_BYTES / shape.value_bytes, 4 * _keys(shape))


def _returning(shape: ModelShape) -> float:
    """Values per token that pass at once while gradients go back through the last block to those
    below it, of all genomes as they are one matrix: about six times the block's input, in a decoder
    in fp32 as its norm is."""
    times = 7.5 if shape.apart else 6
    return times * shape.hidden * (_FP32_BYTES / shape.value_bytes if shape.decoder else 1)


def _scoring(shape: ModelShape, tokens: int) -> float:
    """Values per token that pass at once where nothing is kept, in a block below the last one.

    What entered the first of them stays beside the block's input and what its MLP or attention
    works on. A decoder holds a mask of all pairs of tokens, a byte for each, and attention makes
    values of it, beside queries, keys, values, these two repeated, and the context.
    """
    if shape.fused:
        mlp = 5 * shape.hidden + 4 * shape.intermediate
        return max(mlp, 9 * shape.hidden + tokens) + 2 * tokens / shape.value_bytes
    if shape.apart:  # pairs of tokens thrice, and of each with all distances, twice as many
        return 4.3 * shape.hidden + max(2 * shape.intermediate, 5 * shape.apart * tokens)
    if not shape.decoder:
        return 3 * shape.hidden + 2 * shape.intermediate
    queries, keys = _sides("query", shape)[1], _keys(shape)
    mlp = 4 * shape.hidden + 3 * shape.intermediate
    repeated = 2 * queries if keys < queries else 0
    attention = 3 * shape.hidden + 2 * (queries + keys) + repeated + tokens
    return max(mlp, attention) + tokens / shape.value_bytes


def _scoring_last(shape: ModelShape) -> float:
    """The same of the last block: keys and values beside its input or, in a decoder, more where it
    is normed in fp32 or keys are turned by their position."""
    if not shape.decoder:
        return 4.4 * shape.hidden if shape.apart else _passing_last(shape)
    norm = 1 + 2 * _FP32_BYTES / shape.value_bytes
    return max(norm * shape.hidden, 2 * shape.hidden + 6 * _keys(shape))


def _keys(shape: ModelShape) -> int:
    """How wide keys are."""
    return _sides("key", shape)[1]


def _fuse(name: str) -> str:
    """The role of the linear that does a role's work where linears are fused."""
    return FUSED_ROLES.get(name, name)


def _sides(name: str, shape: ModelShape) -> tuple[int, int]:
    """What goes into a linear and what comes out."""
    if name == "qkv":
        inner = 3 * shape.hidden
    elif name == "up" and shape.fused:
        inner = 2 * shape.intermediate
    elif name in ("query", "output"):
        inner = shape.queries or shape.hidden
    elif name in ("key", "value"):
        inner = shape.keys or shape.hidden
    else:
        inner = shape.intermediate
    sides = (shape.hidden, inner)
    return sides[::-1] if name in ("output", "down") else sides
