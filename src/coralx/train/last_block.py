"""The last block, for the one token of each row that is pooled.

What the classification layer sees depends on one token of the last block's output, so its
queries, its attention output and its MLP are computed for that token alone; keys and values still
for all. The same function and the same gradients for about a sixth of the block's work.

Letters: N sequences, T tokens, D features, H heads, E features of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.models.llama.modeling_llama import rotate_half


def run_bert(block: Any, hidden: Tensor, mask: Tensor, place: int) -> Tensor:
    """The output of a BERT block at token `place` of each row: (N, T, D) -> (N, 1, D).

    Args:
        mask: (N, T), True where a token carries meaning.
    """
    inner = block.attention.self
    own = hidden[:, place : place + 1]
    query = _split(inner.query(own), inner.attention_head_size)
    key, value = (_split(part(hidden), inner.attention_head_size)
                  for part in (inner.key, inner.value))  # fmt: skip
    context = _attend(query, key, value, mask, inner.scaling)
    return block.feed_forward_chunk(block.attention.output(context, own))  # type: ignore[no-any-return]


def run_distilbert(block: Any, hidden: Tensor, mask: Tensor, place: int) -> Tensor:
    """As `run_bert`, of a DistilBERT block."""
    inner = block.attention
    width = inner.dim // inner.n_heads
    own = hidden[:, place : place + 1]
    query = _split(inner.q_lin(own), width)
    key, value = (_split(part(hidden), width) for part in (inner.k_lin, inner.v_lin))
    after = inner.out_lin(_attend(query, key, value, mask, width**-0.5))
    after = block.sa_layer_norm(after + own)
    return block.output_layer_norm(block.ffn(after) + after)  # type: ignore[no-any-return]


def run_decoder(
    block: Any, hidden: Tensor, mask: Tensor, last: Tensor, rotary: tuple[Tensor, Tensor]
) -> Tensor:
    """The output of a Llama-like block at each row's last token: (N, T, D) -> (N, 1, D). One of
    Gemma norms what leaves its attention and its MLP, too.

    Args:
        mask: (N, T), True where a token carries meaning.
        last: (N,) place of each row's last token that carries meaning.
        rotary: cosines and sines of all positions, (1, T, E) each.
    """
    inner = block.self_attn
    rows = torch.arange(len(hidden), device=hidden.device)
    normed = block.input_layernorm(hidden)
    query = _split(inner.q_proj(normed[rows, last][:, None]), inner.head_dim)
    key, value = (_split(part(normed), inner.head_dim) for part in (inner.k_proj, inner.v_proj))
    if hasattr(inner, "q_norm"):  # qwen3, gemma3_text
        query, key = inner.q_norm(query), inner.k_norm(key)
    cosine, sine = rotary
    key = _rotate(key, cosine[:, None], sine[:, None])
    query = _rotate(query, cosine[0, last][:, None, None], sine[0, last][:, None, None])
    after = inner.o_proj(_attend(query, key, value, mask, inner.scaling))
    own = hidden[rows, last][:, None]
    if hasattr(block, "pre_feedforward_layernorm"):  # gemma3_text
        after = own + block.post_attention_layernorm(after)
        inside = block.mlp(block.pre_feedforward_layernorm(after))
        return after + block.post_feedforward_layernorm(inside)  # type: ignore[no-any-return]
    after = own + after
    return after + block.mlp(block.post_attention_layernorm(after))  # type: ignore[no-any-return]


def find_last(mask: Tensor) -> Tensor:
    """The place of each row's last token that carries meaning: (N, T) -> (N,)."""
    return mask.shape[1] - 1 - mask.flip(1).int().argmax(1)


def _split(x: Tensor, width: int) -> Tensor:
    """(N, T, H E) -> (N, H, T, E)."""
    return x.view(*x.shape[:2], -1, width).transpose(1, 2)


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021, arXiv:2104.09864)."""
    turned: Tensor = rotate_half(x)
    return x * cosine + turned * sine


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Attention of one query per row: (N, H, 1, E) -> (N, 1, H E). Few heads may share keys."""
    seen = mask[:, None, None, :]
    context = functional.scaled_dot_product_attention(
        query, key, value, attn_mask=seen, scale=scale, enable_gqa=key.shape[1] < query.shape[1]
    )
    return context.transpose(1, 2).flatten(2)
