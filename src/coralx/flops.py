"""The FLOPs of training one genome, counted from the sizes of its linear layers: what is computed,
no more. Training counts its steps so, and a plan those to come.

Counted are the products of the blocks' linear layers and of the adapters, 2 FLOPs a multiply-add;
not those of attention and of the distances that DeBERTa's looks at, nor of what takes in a token or
a picture of each row alone (pooler, classification layer, projector). The backward pass ends where
nothing below learns: where rows of text enter, queries, keys and values are taken of the frozen
prefix, which needs no gradient. Image tokens, which a projector that learns has made, do.
"""

from __future__ import annotations

from collections.abc import Mapping

Sides = tuple[int, int]  # what goes into a linear layer and what comes out

_ATTENTION = ("query", "key", "value", "qkv")
_OF_ALL_TOKENS = ("key", "value")  # in the last block; the rest is for one token of each row


def training_flops(
    block: Mapping[str, Sides],
    ranks: Mapping[str, int],
    height: int,
    rows: float,
    tokens: float,
    pictured: bool,
    whole: bool = False,
) -> float:
    """Of one forward and one backward pass, whatever trains beside the genome.

    Args:
        block: the linear layers of a block by role, as `query`, `up`.
        ranks: of the adapters, by role.
        height: how many blocks are adapted; the last ones.
        rows, tokens: that pass; padding and image tokens are tokens.
        pictured: whether there are image tokens among them.
        whole: all of the last block is for all tokens.
    """
    every = dict.fromkeys(block, tokens)
    last = {role: tokens if whole or role in _OF_ALL_TOKENS else rows for role in block}
    if height == 1:
        return _pass(block, ranks, last, pictured)
    lowest, upper = (_pass(block, ranks, every, flows) for flows in (pictured, True))
    return lowest + (height - 2) * upper + _pass(block, ranks, last, True)


def _pass(
    block: Mapping[str, Sides], ranks: Mapping[str, int], seen: Mapping[str, float], flows: bool
) -> float:
    """Of one block, forward and back; `seen`: tokens of each layer, `flows`: whether what enters
    the block needs a gradient."""
    needed = _need_gradient(ranks, flows)
    total = 0.0
    for role, (into, out) in block.items():
        back = needed[role]
        frozen = (1 + back) * into * out
        own = ranks.get(role, 0) * ((2 + back) * into + 3 * out)
        total += 2.0 * seen[role] * (frozen + own)
    return total


def _need_gradient(ranks: Mapping[str, int], flows: bool) -> dict[str, bool]:
    """Of which layers the input needs a gradient: something that learns lies before them."""
    attended = flows or any(role in ranks for role in _ATTENTION)
    after = attended or "output" in ranks
    inside = after or "gate" in ranks or "up" in ranks
    entering = dict.fromkeys(_ATTENTION, flows)
    return {**entering, "output": attended, "gate": after, "up": after, "down": inside}
