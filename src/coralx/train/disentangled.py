"""A block of DeBERTa, whose attention sees contents and distances apart (He et al. 2021,
arXiv:2006.03654, eq. 4), for packs: vectors that stand for distances go through the same adapted
layers as the tokens do, so every genome has its own.

Letters: N sequences, T tokens, Q of them that ask, D features, H heads, E features of a head,
P genomes, S distances.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position


class Distances:
    """The vectors that stand for distances between tokens, of an encoder of DeBERTa.

    Args:
        positions: the most tokens that a text has.
    """

    def __init__(self, encoder: Any, positions: int) -> None:
        self._encoder = encoder
        self._reach = positions - 1
        apart = torch.arange(-self._reach, positions)
        if encoder.position_buckets > 0:  # far ones share a vector
            most = encoder.max_relative_positions
            apart = make_log_bucket_position(apart, encoder.position_buckets, most).long()
        self.span = len(encoder.rel_embeddings.weight) // 2
        self._places = apart.clamp(-self.span, self.span - 1).to(
            encoder.rel_embeddings.weight.device
        )
        self._known: list[int] = self._places.tolist()

    def between(self, positions: Tensor, others: Tensor) -> Tensor:
        """Signed distances, or the buckets of far ones, of all pairs: (Q,), (T,) -> (Q, T)."""
        places = self._places.to(positions.device)  # the baseline moves its model when it has one
        return places[positions[:, None] - others + self._reach]

    def vectors(self, tokens: int) -> tuple[Tensor, int]:
        """Those of all distances in a text of so many tokens: (S, D), and the first one's."""
        first, last = (self._known[self._reach + end] for end in (1 - tokens, tokens - 1))
        found = self._encoder.rel_embeddings.weight[first + self.span : last + self.span + 1]
        return (self._encoder.LayerNorm(found) if self._normed else found), first

    @property
    def _normed(self) -> bool:
        return "layer_norm" in self._encoder.norm_rel_ebd


def run_deberta(
    block: Any, hidden: Tensor, mask: Tensor, vectors: Tensor, places: Tensor, asking: slice
) -> Tensor:
    """The output of a block at tokens `asking` of each row: (N, T, D) -> (N, Q, D).

    Args:
        mask: (N, T), True where a token carries meaning.
        vectors: (S, D), of distances.
        places: (Q, T), which of them lies between a token that asks and one that it looks at.
    """
    own = hidden[:, asking]
    context = _attend(block.attention.self, own, hidden, mask, vectors, places)
    after = block.attention.output(context, own)
    return block.output(block.intermediate(after), after)  # type: ignore[no-any-return]


def _attend(
    inner: Any, own: Tensor, hidden: Tensor, mask: Tensor, vectors: Tensor, places: Tensor
) -> Tensor:
    """What tokens that ask find in others: (N, Q, D), (N, T, D) -> (N, Q, H E)."""
    heads, kinds = inner.num_attention_heads, {"c2p", "p2c"}.intersection(inner.pos_att_type)
    query, key = _split(inner.query_proj(own), heads), _split(inner.key_proj(hidden), heads)
    scores = query @ key.transpose(2, 3)
    if "c2p" in kinds:
        scores = scores + _look_up(query, inner.key_proj.share(vectors), places)
    if "p2c" in kinds:
        asked = _look_up(key, inner.query_proj.share(vectors), places.t())
        scores = scores + asked.transpose(2, 3)
    scores = scores * (query.shape[3] * (1 + len(kinds))) ** -0.5
    scores = scores.masked_fill(~mask[:, None, None], torch.finfo(scores.dtype).min)
    found: Tensor = scores.softmax(3) @ _split(inner.value_proj(hidden), heads)
    return found.transpose(1, 2).flatten(2)


def _look_up(tokens: Tensor, shared: Tensor, places: Tensor) -> Tensor:
    """How much each token goes with the vector between it and each of U others:
    (N, H, T, E), (P, S, H E), (T, U) -> (N, H, T, U)."""
    count, heads = tokens.shape[:2]
    grouped = tokens.view(len(shared), -1, *tokens.shape[1:])
    if places.shape[1] == 1:  # in the last block
        near = _split(shared[:, places[:, 0]], heads)
        return torch.einsum("pbhte,phte->pbht", grouped, near).flatten(0, 1)[..., None]
    every = torch.einsum("pbhte,phse->pbhts", grouped, _split(shared, heads)).flatten(0, 1)
    return _Choice.apply(every, places.expand(count, heads, *places.shape))  # type: ignore[no-any-return, no-untyped-call]


class _Choice(torch.autograd.Function):
    """`gather` along the last axis. Torch's own keeps all of its input for the backward pass."""

    @staticmethod
    def forward(ctx: Any, every: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.size = every.shape[-1]
        return every.gather(-1, places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        every = gradient.new_zeros(*gradient.shape[:-1], ctx.size)
        return every.scatter_add_(-1, places, gradient), None


def _split(x: Tensor, heads: int) -> Tensor:
    """(N, T, H E) -> (N, H, T, E)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)
