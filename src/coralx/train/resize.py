"""Weight surgery in the space of the update dW = scale x B A: grow, shrink, transplant.

Letters: R rank; A (R, in), B (out, R).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from coralx.train.adapters import Weights


@dataclass(frozen=True)
class Moments:
    """AdamW's running means of the gradient and of its square, shaped like the weights."""

    first: Weights
    second: Weights
    step: int


def grow(weights: Weights, old_scale: float, new_scale: float, fresh: Weights) -> Weights:
    """The same function at the higher rank of `fresh`, from which new rows of A come."""
    return Weights(transplant(weights, old_scale, new_scale, fresh).lora, weights.extra)


def grow_moments(moments: Moments, rank: int, old_scale: float, new_scale: float) -> Moments:
    """AdamW's moments for `grow`: the gradient of a rescaled B is rescaled inversely."""
    factor = new_scale / old_scale

    def widen(part: Weights, power: int) -> Weights:
        lora = {}
        for target, (a, b) in part.lora.items():
            old = a.shape[0]
            new_a, new_b = a.new_zeros(rank, a.shape[1]), b.new_zeros(b.shape[0], rank)
            new_a[:old], new_b[:, :old] = a, b * factor**power
            lora[target] = (new_a, new_b)
        return Weights(lora, part.extra)

    return Moments(widen(moments.first, 1), widen(moments.second, 2), moments.step)


def transplant(parent: Weights, old_scale: float, new_scale: float, fresh: Weights) -> Weights:
    """A parent's update carried into a child of other rank, scale or targets.

    Targets that both have are carried over in dW space: exactly when the rank is kept or grows
    (new columns of B are zero, old ones rescaled: new_scale x B' A' = old_scale x B A), by
    truncated SVD (the best approximation of that rank, Eckart & Young 1936) when it shrinks.
    Targets of the child alone keep their `fresh` weights, whose B is zero. The classification
    layer and projector are the parent's where it has them.
    """
    lora = {}
    for target, (fresh_a, fresh_b) in fresh.lora.items():
        if target not in parent.lora:
            lora[target] = (fresh_a, fresh_b)
            continue
        a, b = parent.lora[target]
        rank = fresh_a.shape[0]
        if rank < a.shape[0]:
            a, b = truncate(a, b, rank)
        new_a, new_b = fresh_a.clone(), torch.zeros_like(fresh_b)
        new_a[: a.shape[0]] = a
        new_b[:, : b.shape[1]] = b * (old_scale / new_scale)
        lora[target] = (new_a, new_b)
    return Weights(lora, {**fresh.extra, **parent.extra})


def truncate(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The pair of rank `rank` nearest to B A in Frobenius norm, through two small QR factors; of
    min(in, out), which is exact, where that is less."""
    q_b, r_b = torch.linalg.qr(b.double())
    q_a, r_a = torch.linalg.qr(a.double().T)
    u, s, vh = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    root = s[:rank].sqrt()
    new_b = (q_b @ u[:, :rank]) * root
    new_a = root[:, None] * (vh[:rank] @ q_a.T)
    return new_a.to(a.dtype), new_b.to(b.dtype)
