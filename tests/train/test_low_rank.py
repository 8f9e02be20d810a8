"""The adapters' share of a layer and its gradients, against numerical ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from coralx.train.low_rank import add_low_rank

K, N, R, IN, OUT = 2, 6, 3, 4, 5


def _draw(*size: int, seed: int) -> Tensor:
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=stream, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("seen", [True, False])
def test_the_gradients_are_the_numerical_ones(rate: float, seen: bool) -> None:
    x, a, b = _draw(K, N, IN, seed=0), _draw(K, R, IN, seed=1), _draw(K, R, OUT, seed=2)
    out = _draw(2 * K, N // 2, OUT, seed=3)
    scales = torch.tensor([[[2.0]], [[0.5]]], dtype=torch.float64)
    dropped = _draw(K, N, IN, seed=4) < 0 if rate else None
    x.requires_grad_(seen)  # what comes from the frozen prefix needs no gradient

    def product(out: Tensor, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return add_low_rank(out.clone(), x, a, b, scales, dropped)

    assert torch.autograd.gradcheck(product, (out, x, a, b))
    kept = x if dropped is None else x.masked_fill(dropped, 0)
    expected = out + (scales * kept @ a.mT @ b).view_as(out)
    torch.testing.assert_close(product(out, x, a, b), expected)
