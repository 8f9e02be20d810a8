"""Surgery in dW space: what must stay the same does, and what shrinks loses the least."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from coralx.records import Genome, LoRAConfig
from coralx.train.adapters import Weights
from coralx.train.backbone import Backbone
from coralx.train.network import score
from coralx.train.prefix import EncodedRows
from coralx.train.resize import Moments, grow, grow_moments, transplant, truncate

Draw = Callable[..., Weights]


def _pair(seed: int, rank: int, width: int = 6, out: int = 5) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(rank, width, generator=stream), torch.randn(out, rank, generator=stream)


def _weights(pairs: dict[str, tuple[Tensor, Tensor]], **extra: Tensor) -> Weights:
    return Weights(pairs, extra)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize(("old", "new"), [(2, 4), (3, 16)])
def test_growth_leaves_the_logits_as_they_were(
    old: int,
    new: int,
    rslora: bool,
    backbone: Backbone,
    encoded_text: EncodedRows,
    draw_weights: Draw,
    build_pack: Callable[..., Any],
) -> None:
    small, large = (
        Genome(lora_cfg=LoRAConfig(r=r, use_rslora=rslora, target_modules=("all-linear",)))
        for r in (old, new)
    )
    weights = draw_weights(backbone, small, 1, spread=0.05)
    fresh = draw_weights(backbone, large, 2)
    scales = small.lora_cfg.scale, large.lora_cfg.scale
    grown = grow(weights, *scales, fresh)
    batch = encoded_text.batch(range(4))
    with torch.no_grad():
        before, after, without = (
            score(backbone, build_pack([g], [w], [0]), batch)
            for g, w in ((small, weights), (large, grown), (large, fresh))
        )
    assert (before - after).abs().max() <= 1e-6
    assert (before - without).abs().max() > 1e-2  # the update does count
    assert scales[0] != scales[1]


def test_growth_keeps_old_rows_and_takes_new_ones_from_fresh() -> None:
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0]])
    fresh = _weights({"0.q": (torch.tensor([[9.0, 9.0], [5.0, 6.0]]), torch.zeros(2, 2))})
    head = torch.ones(1)
    grown = grow(_weights({"0.q": (a, b)}, head=head), 8.0, 4.0, fresh)
    assert grown.lora["0.q"][0].tolist() == [[1, 2], [5, 6]]
    assert grown.lora["0.q"][1].tolist() == [[6, 0], [8, 0]]  # 3 x 8 / 4, 4 x 8 / 4
    assert grown.extra["head"] is head


def _gradients(a: Tensor, b: Tensor, scale: float, x: Tensor) -> tuple[Tensor, Tensor]:
    """Of the sum of squares of scale x B A x."""
    a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
    (scale * (x @ a.T) @ b.T).square().sum().backward()
    assert a.grad is not None
    assert b.grad is not None
    return a.grad, b.grad


def test_grown_moments_are_those_of_the_grown_network() -> None:
    """Had the gradient been taken after growth, the old rows' moments would be these."""
    a, b = _pair(0, 2)
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(1))
    weights, fresh = _weights({"0.q": (a, b)}), _weights({"0.q": _pair(2, 4)})
    grown = grow(weights, 8.0, 4.0, fresh)
    grad_a, grad_b = _gradients(a, b, 8.0, x)
    late_a, late_b = _gradients(*grown.lora["0.q"], 4.0, x)
    first = _weights({"0.q": (0.1 * grad_a, 0.1 * grad_b)})
    second = _weights({"0.q": (0.001 * grad_a**2, 0.001 * grad_b**2)})
    moved = grow_moments(Moments(first, second, 5), 4, 8.0, 4.0)
    new_a, new_b = moved.first.lora["0.q"]
    torch.testing.assert_close(new_a[:2], 0.1 * late_a[:2], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(new_b[:, :2], 0.1 * late_b[:, :2])
    torch.testing.assert_close(moved.second.lora["0.q"][0][:2], 0.001 * late_a[:2] ** 2)
    torch.testing.assert_close(moved.second.lora["0.q"][1][:, :2], 0.001 * late_b[:, :2] ** 2)
    assert not new_a[2:].any()
    assert not new_b[:, 2:].any()
    assert moved.step == 5


def test_one_step_of_adamw_after_growth_by_hand() -> None:
    """B = 2 with m = 0.3, v = 0.04 grows from scale 8 to 4: B = 4, m = 0.15, v = 0.01. With a
    gradient of 0.5 at step 3 (beta 0.9, 0.999) the new m is 0.185 and v 0.01024."""
    one = torch.ones(1, 1)
    parts = [_weights({"0.q": (0 * one, value * one)}) for value in (2.0, 0.3, 0.04)]
    grown = grow(parts[0], 8.0, 4.0, _weights({"0.q": (torch.ones(2, 1), torch.zeros(1, 2))}))
    moments = grow_moments(Moments(parts[1], parts[2], 2), 2, 8.0, 4.0)
    b = grown.lora["0.q"][1].clone().requires_grad_()
    b.grad = torch.tensor([[0.5, 0.0]])
    optimizer = torch.optim.AdamW([b], lr=0.1, weight_decay=0.0)
    optimizer.state[b] = {
        "step": torch.tensor(float(moments.step)),
        "exp_avg": moments.first.lora["0.q"][1],
        "exp_avg_sq": moments.second.lora["0.q"][1],
    }
    optimizer.step()
    first, second = 0.185 / (1 - 0.9**3), 0.01024 / (1 - 0.999**3)
    assert b[0, 0].item() == pytest.approx(4 - 0.1 * first / second**0.5, abs=1e-5)
    assert b[0, 1].item() == 0  # no gradient, no moment, no step


@pytest.mark.parametrize(("rank", "new_scale"), [(3, 2.0), (3, 0.5), (7, 2.0), (7, 1.0)])
def test_transplant_to_the_same_or_a_higher_rank_is_exact(rank: int, new_scale: float) -> None:
    a, b = _pair(0, 3)
    fresh = _weights({"0.q": (_pair(1, rank)[0], torch.zeros(5, rank))})
    new_a, new_b = transplant(_weights({"0.q": (a, b)}), 2.0, new_scale, fresh).lora["0.q"]
    torch.testing.assert_close(new_scale * new_b @ new_a, 2.0 * b @ a)
    assert torch.equal(new_a[:3], a)
    assert torch.equal(new_a[3:], fresh.lora["0.q"][0][3:])
    assert not new_b[:, 3:].any()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_transplant_to_a_lower_rank_is_the_best_of_that_rank(rank: int) -> None:
    a, b = _pair(0, 4)
    fresh = _weights({"0.q": (_pair(1, rank)[0], torch.zeros(5, rank))})
    new_a, new_b = transplant(_weights({"0.q": (a, b)}), 2.0, 0.5, fresh).lora["0.q"]
    u, s, vh = torch.linalg.svd(2.0 * b @ a)
    torch.testing.assert_close(0.5 * new_b @ new_a, (u[:, :rank] * s[:rank]) @ vh[:rank])
    assert new_a.shape == (rank, 6)
    assert new_b.shape == (5, rank)
    assert s[rank] > 0.1  # something was cut off


def test_truncation_copes_with_ranks_above_the_width() -> None:
    a, b = _pair(0, 9, width=4, out=3)
    new_a, new_b = truncate(a, b, 3)
    torch.testing.assert_close(new_b @ new_a, b @ a)


@pytest.mark.parametrize(("width", "out"), [(24, 16), (16, 24)])
def test_transplant_to_a_lower_rank_that_is_still_above_the_width_is_exact(
    width: int, out: int
) -> None:
    a, b = _pair(0, 30, width, out)
    fresh = _weights({"0.v": (_pair(1, 20, width)[0], torch.zeros(out, 20))})
    new_a, new_b = transplant(_weights({"0.v": (a, b)}), 2.0, 0.5, fresh).lora["0.v"]
    torch.testing.assert_close(0.5 * new_b @ new_a, 2.0 * b @ a, atol=1e-4, rtol=1e-4)
    assert (new_a.shape, new_b.shape) == ((20, width), (out, 20))
    assert torch.equal(new_a[16:], fresh.lora["0.v"][0][16:])
    assert not new_b[:, 16:].any()


def test_transplant_carries_only_what_both_adapt_and_the_head() -> None:
    parent = _weights({"0.q": _pair(0, 2), "0.k": _pair(1, 2)}, head=torch.full((1,), 7.0))
    fresh = _weights(
        {"0.q": (_pair(2, 2)[0], torch.zeros(5, 2)), "1.q": (_pair(3, 2)[0], torch.zeros(5, 2))},
        head=torch.zeros(1),
        projector=torch.full((1,), 3.0),
    )
    child = transplant(parent, 1.0, 1.0, fresh)
    assert set(child.lora) == {"0.q", "1.q"}
    assert torch.equal(child.lora["0.q"][1], parent.lora["0.q"][1])
    assert torch.equal(child.lora["1.q"][0], fresh.lora["1.q"][0])
    assert not child.lora["1.q"][1].any()
    assert child.extra["head"].item() == 7
    assert child.extra["projector"].item() == 3


def test_transplant_leaves_parent_and_fresh_as_they_were() -> None:
    parent, fresh = _weights({"0.q": _pair(0, 4)}), _weights({"0.q": _pair(1, 2)})
    before = [t.clone() for w in (parent, fresh) for t in w.lora["0.q"]]
    transplant(parent, 1.0, 2.0, fresh)
    after = [t for w in (parent, fresh) for t in w.lora["0.q"]]
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
