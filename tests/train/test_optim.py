"""Schedules, clipping and AdamW of each genome against torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from coralx.train import optim
from coralx.train.adapters import PackedAdapters, Weights
from coralx.train.optim import AllAtOnce, PackOptimizer, RowByRow, Schedule

CPU = torch.device("cpu")
DECAYS = (0.0, 0.1, 0.01)
SCHEDULES = (
    Schedule(1e-2, warmup=3),
    Schedule(3e-3, warmup=0, decay_from=4, end=8),
    Schedule(2e-2, warmup=1),
)


def _weights(seed: int) -> Weights:
    stream = torch.Generator().manual_seed(seed)
    shapes = {"a": (seed + 1, 4), "b": (3, seed + 1), "head": (1, 4)}
    a, b, head = (torch.randn(shape, generator=stream) for shape in shapes.values())
    return Weights({"0.q": (a, b)}, {"head.weight": head})


@pytest.fixture
def pack() -> PackedAdapters:
    weights = [_weights(seed) for seed in range(3)]
    return PackedAdapters(weights, [1.0] * 3, [0.0] * 3, range(3), CPU)


def _optimizer(pack: PackedAdapters, steps: tuple[int, ...] = (0, 0, 0)) -> PackOptimizer:
    return PackOptimizer(pack, SCHEDULES, DECAYS, steps)


def _step(optimizer: PackOptimizer) -> None:
    optimizer.begin_step()
    optimizer.step()


@pytest.fixture(params=[RowByRow, AllAtOnce])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The update of a CPU and that of a GPU."""
    monkeypatch.setattr(optim, "RowByRow", request.param)


def _fill_gradients(pack: PackedAdapters, seed: int) -> None:
    stream = torch.Generator().manual_seed(seed)
    pack.gradients.copy_(torch.randn(pack.gradients.shape, generator=stream))


def test_warm_up_rises_to_the_peak_in_equal_steps() -> None:
    schedule = Schedule(8e-3, warmup=4)
    assert [schedule.rate(i) for i in range(6)] == pytest.approx([2e-3, 4e-3, 6e-3] + [8e-3] * 3)


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    assert [Schedule(8e-3, warmup=0).rate(i) for i in (0, 1)] == [8e-3, 8e-3]


def test_the_last_stage_falls_to_zero_in_equal_steps() -> None:
    schedule = Schedule(8e-3, warmup=2, decay_from=3, end=7)
    rates = [schedule.rate(i) for i in range(7)]
    assert rates == pytest.approx([4e-3, 8e-3, 8e-3, 8e-3, 6e-3, 4e-3, 2e-3])


def test_warm_up_and_fall_multiply_where_they_overlap() -> None:
    schedule = Schedule(8e-3, warmup=4, decay_from=1, end=5)
    assert [schedule.rate(i) for i in range(5)] == pytest.approx([2e-3, 4e-3, 4.5e-3, 4e-3, 2e-3])


@pytest.mark.parametrize("limit", [0.5, 3.0, 1e6])
def test_clipping_is_that_of_torch_for_each_genome(pack: PackedAdapters, limit: float) -> None:
    _fill_gradients(pack, 0)
    alone = [g.clone() for g in pack.gradients]
    norms = _optimizer(pack).clip(limit)
    for k, gradient in enumerate(alone):
        parameter = nn.Parameter(torch.zeros_like(gradient))
        parameter.grad = gradient
        norm = nn.utils.clip_grad_norm_([parameter], limit)
        torch.testing.assert_close(norms[k], norm)
        torch.testing.assert_close(pack.gradients[k], parameter.grad)


def test_no_limit_measures_norms_and_leaves_gradients(pack: PackedAdapters) -> None:
    pack.gradients.fill_(2.0)
    norms = _optimizer(pack).clip(None)
    assert norms.tolist() == pytest.approx([2 * pack.gradients.shape[1] ** 0.5] * 3)
    assert (pack.gradients == 2).all()


def test_a_nan_gradient_is_clipped_in_its_own_row(pack: PackedAdapters) -> None:
    pack.gradients.fill_(2.0)
    pack.gradients[1, 0] = float("nan")
    norms = _optimizer(pack).clip(1.0)
    assert norms.isnan().tolist() == [False, True, False]
    assert pack.gradients[[0, 2]].norm(dim=1).tolist() == pytest.approx([1, 1])


@pytest.mark.usefixtures("either")
def test_a_pack_steps_as_so_many_optimizers_of_torch(pack: PackedAdapters) -> None:
    alone = [nn.Parameter(row.clone()) for row in pack.values]
    theirs = [
        torch.optim.AdamW([p], lr=0.0, weight_decay=d) for p, d in zip(alone, DECAYS, strict=True)
    ]
    optimizer = _optimizer(pack)
    for position in range(6):
        _fill_gradients(pack, position)
        for k, (parameter, own) in enumerate(zip(alone, theirs, strict=True)):
            parameter.grad = pack.gradients[k].clone()
            own.param_groups[0]["lr"] = SCHEDULES[k].rate(position)
            own.step()
        _step(optimizer)
    torch.testing.assert_close(pack.values, torch.stack(list(alone)).detach())
    assert [optimizer.count(k) for k in range(3)] == [6, 6, 6]


@pytest.mark.usefixtures("either")
def test_the_tensors_of_the_pack_see_the_step(pack: PackedAdapters) -> None:
    before = pack.lora["0.q"][0].detach().clone()
    pack.gradients.fill_(1.0)
    _step(_optimizer(pack))
    moved = (before - pack.lora["0.q"][0].detach())[0, 0]
    assert moved.tolist() == pytest.approx([1e-2 / 3] * 4, rel=1e-3)  # a third of the peak


@pytest.mark.usefixtures("either")
def test_a_genome_continues_from_its_moments_and_count(pack: PackedAdapters) -> None:
    through = nn.Parameter(pack.values[0].clone())
    theirs = torch.optim.AdamW([through], lr=1e-2, weight_decay=0.0)
    for position in range(3):
        through.grad = torch.full_like(through, 0.5 - position)
        if position == 2:
            pack.values[0] = through.detach()
            optimizer = _optimizer(pack, (2, 0, 0))
            optimizer.first[0] = theirs.state[through]["exp_avg"]
            optimizer.second[0] = theirs.state[through]["exp_avg_sq"]
        theirs.step()
    pack.gradients[0] = through.grad
    _step(optimizer)
    torch.testing.assert_close(pack.values[0], through.detach())
    assert optimizer.count(0) == 3
