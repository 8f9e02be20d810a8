"""Breeding in the space of the update: a child's start from the trained weights of its parents.

Each parent's dW = scale x B A is a task vector (Ilharco et al. 2022, arXiv:2212.04089); the
classification layer and projector are averaged by the same shares. The methods:

    average   the weighted mean (model soups, Wortsman et al. 2022, arXiv:2203.05482)
    ties      trim to the largest values, elect a sign for each place, mean of those that agree
              (Yadav et al. 2023, arXiv:2306.01708)
    dare      drop values at random, rescale the rest, weighted mean (Yu et al. 2023,
              arXiv:2311.03099)

Letters: R rank; A (R, in), B (out, R), dW (out, in).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from coralx.train.adapters import Weights, largest_difference
from coralx.train.resize import transplant, truncate

# Of two parents, the better one first; `rank` weighs the first of n by n, the last by 1.
SHARES = {"equal": (1 / 2, 1 / 2), "rank": (2 / 3, 1 / 3)}


@dataclass(frozen=True)
class Parent:
    """A trained adapter and its share in the child; the shares of all parents sum to 1."""

    weights: Weights
    scale: float
    share: float


def merge(
    parents: Sequence[Parent],
    scale: float,
    fresh: Weights,
    method: str,
    density: float,
    chance: Generator,
) -> Weights:
    """The parents' updates made one, at the rank and on the targets of `fresh`.

    A target that a parent does not adapt counts as dW = 0. Equal parents, and one that has the
    whole share, have nothing to reconcile: whatever the method, the child is then an heir
    (`transplant`), with the same function where its rank and targets allow.

    Args:
        scale: the child's.
        method: average, ties or dare.
        density: share of each parent's values that ties (the largest) and dare (random ones) keep.
        chance: what dare draws from.
    """
    first, *others = [parent for parent in parents if parent.share]
    if all(_equal(first, other) for other in others):
        return transplant(first.weights, first.scale, scale, fresh)
    parents, lora = [first, *others], {}
    for target, (a, b) in fresh.lora.items():
        if not any(target in parent.weights.lora for parent in parents):
            continue
        if method == "average":
            lora[target] = _stack(parents, target)
            continue
        updates = [_update(parent, target, (len(b), a.shape[1])) for parent in parents]
        shares = [parent.share for parent in parents]
        if method == "ties":
            merged = _ties(updates, shares, density)
        else:
            merged = _dare(updates, shares, density, chance)
        lora[target] = _factor(merged, len(a))
    return transplant(Weights(lora, _average_extra(parents)), 1.0, scale, fresh)


def _equal(one: Parent, other: Parent) -> bool:
    return one.scale == other.scale and largest_difference(one.weights, other.weights) == 0


def _stack(parents: Sequence[Parent], target: str) -> tuple[Tensor, Tensor]:
    """The weighted mean as one pair of factors whose rank is the sum of the parents' ranks."""
    known = [parent for parent in parents if target in parent.weights.lora]
    a = torch.cat([parent.weights.lora[target][0] for parent in known])
    parts = [parent.weights.lora[target][1] * (parent.scale * parent.share) for parent in known]
    return a, torch.cat(parts, dim=1)


def _update(parent: Parent, target: str, shape: tuple[int, int]) -> Tensor:
    """dW (out, in)."""
    if target not in parent.weights.lora:
        return torch.zeros(shape)
    a, b = parent.weights.lora[target]
    return parent.scale * (b @ a)


def _ties(updates: Sequence[Tensor], shares: Sequence[float], density: float) -> Tensor:
    """The mean of those that agree is weighted by their shares alone; peft's own `ties` would
    shrink or stretch it where not all agree."""
    from peft.utils.merge_utils import calculate_majority_sign_mask, prune

    kept = torch.stack([prune(update, density, "magnitude") for update in updates])
    agreed = torch.tensor(shares)[:, None, None] * calculate_majority_sign_mask(kept)
    total: Tensor = (kept * agreed).sum(0) / agreed.sum(0).clamp(min=1e-9)
    return total


def _dare(
    updates: Sequence[Tensor], shares: Sequence[float], density: float, chance: Generator
) -> Tensor:
    """Not peft's, which draws from torch's global stream."""
    total = torch.zeros_like(updates[0])
    for update, share in zip(updates, shares, strict=True):
        kept = torch.rand(update.shape, generator=chance) < density
        total += torch.where(kept, update * (share / density), 0.0)
    return total


def _factor(update: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest pair of that rank (Eckart & Young 1936): dW on its leading singular vectors.

    They are the eigenvectors of the smaller of dW dW^T and dW^T dW, found in a quarter of the
    time of an SVD of dW; that its condition is squared does not matter to the leading ones.
    """
    wide = update.double() if len(update) <= update.shape[1] else update.double().T
    leading = torch.linalg.eigh(wide @ wide.T).eigenvectors[:, -rank:]
    a, b = leading.T @ wide, leading
    if wide.shape != update.shape:
        a, b = b.T, a.T
    return truncate(a.to(update.dtype), b.to(update.dtype), rank)


def _average_extra(parents: Sequence[Parent]) -> dict[str, Tensor]:
    """Each tensor's mean over the parents that have it."""
    extra = {}
    for name in dict.fromkeys(name for parent in parents for name in parent.weights.extra):
        known = [(p.share, p.weights.extra[name]) for p in parents if name in p.weights.extra]
        total = sum(share for share, _ in known)
        extra[name] = torch.stack([value * (share / total) for share, value in known]).sum(0)
    return extra
