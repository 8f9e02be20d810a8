"""The adapters' share of a linear layer, with its gradients written out.

Autograd would lay out some of these products with the rank, 2 to 64, as the innermost size of a
large result; on a CPU that costs two to four times the others. Here the rank is innermost in none
but the small ones, so B is kept as (R, out), as wide as A.

Letters: K genomes, N tokens of each, R rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def add_low_rank(
    out: Tensor, x: Tensor, a: Tensor, b: Tensor, scales: Tensor, dropped: Tensor | None
) -> Tensor:
    """out + scales (x, zero where dropped) A^T B, added in place.

    Args:
        out: (K x N, ..., out); not needed by anybody as it was.
        x: (K, N, in), what enters the layer.
        a, b: (K, R, in) and (K, R, out).
        scales: (K, 1, 1), those of dropout included.
        dropped: (K, N, in), True where dropout leaves x out; None leaves nothing out.
    """
    added: Tensor = _AddLowRank.apply(out, x, a, b, scales, dropped)  # type: ignore[no-untyped-call]
    return added


class _AddLowRank(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        out: Tensor,
        x: Tensor,
        a: Tensor,
        b: Tensor,
        scales: Tensor,
        dropped: Tensor | None,
    ) -> Tensor:
        kept = x if dropped is None else _leave_out(x, dropped)
        low = torch.bmm(kept, a.transpose(1, 2)).mul_(scales)
        out.view(*low.shape[:2], -1).baddbmm_(low, b)
        ctx.save_for_backward(kept, a, b, low, scales, dropped)
        ctx.mark_dirty(out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        kept, a, b, low, scales, dropped = ctx.saved_tensors
        wide = gradient.reshape(*low.shape[:2], -1)
        narrow = torch.bmm(wide, b.transpose(1, 2)).mul_(scales)
        to_x = None
        if ctx.needs_input_grad[1]:
            to_x = torch.bmm(narrow, a)
            to_x = to_x if dropped is None else _leave_out(to_x, dropped)
        to_a = torch.bmm(narrow.transpose(1, 2), kept)
        to_b = torch.bmm(low.transpose(1, 2), wide)
        return gradient, to_x, to_a, to_b, None, None


def _leave_out(x: Tensor, dropped: Tensor) -> Tensor:
    """x, zero where dropped. On a CPU `masked_fill` branches at every value: it takes five times as
    long as this does."""
    if x.device.type != "cpu":
        return x.masked_fill(dropped, 0)
    return dropped.logical_not().view(torch.uint8).to(x.dtype).mul_(x)
