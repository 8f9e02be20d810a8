"""The pack's layout, its product, its dropout streams and fresh weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from coralx.train.adapters import (
    AdaptedLinear,
    AtWork,
    PackedAdapters,
    Weights,
    new_weights,
)
from coralx.train.frozen import FrozenProducts

CPU = torch.device("cpu")
EXACT = FrozenProducts(torch.float32)
pytestmark = pytest.mark.filterwarnings("ignore:grad and param do not obey")
Q, UP = "0.attn.q", "11.mlp.up"


def _draw(rank: int, targets: tuple[str, ...], seed: int) -> Weights:
    """Random A (rank, 6), B (5, rank) and a head of 4."""
    stream = torch.Generator().manual_seed(seed)
    lora = {
        target: (
            torch.randn(rank, 6, generator=stream),
            torch.randn(5, rank, generator=stream),
        )
        for target in targets
    }
    return Weights(lora, {"head.weight": torch.randn(1, 4, generator=stream)})


@pytest.fixture
def weights() -> list[Weights]:
    return [_draw(2, (Q,), 0), _draw(5, (Q, UP), 1), _draw(1, (UP,), 2)]


@pytest.fixture
def pack(weights: list[Weights]) -> PackedAdapters:
    return PackedAdapters(weights, [2.0, 0.5, 3.0], [0.0, 0.3, 0.6], [10, 11, 12], CPU)


def _rows(seed: int = 0) -> Tensor:
    """Three genomes x two rows x three tokens x six features."""
    return torch.randn(6, 3, 6, generator=torch.Generator().manual_seed(seed))


def _add(pack: PackedAdapters, target: str, start: float = 0.0) -> Tensor:
    """What a layer of five outputs gives for `_rows`, were its own output `start`."""
    return pack.add(torch.full((6, 3, 5), start), _rows(), target)


def test_scale_times_b_a_x_is_added_for_each_genome(
    pack: PackedAdapters, weights: list[Weights]
) -> None:
    x, found = _rows(), _add(pack, Q, start=7.0) - 7
    for k, scale in ((0, 2.0), (1, 0.5)):
        a, b = weights[k].lora[Q]
        expected = scale * x[2 * k : 2 * k + 2] @ (b @ a).T
        torch.testing.assert_close(found[2 * k : 2 * k + 2], expected, atol=1e-5, rtol=1e-5)
    assert not found[4:].any()  # the third genome does not adapt this layer


def test_nothing_is_added_to_a_layer_that_nobody_adapts(pack: PackedAdapters) -> None:
    out = torch.ones(6, 3, 5)
    assert pack.add(out, _rows(), "3.attn.q") is out


def test_an_adapted_linear_adds_what_the_pack_at_work_does(pack: PackedAdapters) -> None:
    base = nn.Linear(6, 5)
    at_work = AtWork()
    layer, x = AdaptedLinear(Q, base, EXACT, at_work), _rows()
    assert torch.equal(layer(x), base(x))
    at_work.pack = pack
    torch.testing.assert_close(layer(x), base(x) + _add(pack, Q))


def test_take_gives_back_what_was_put_in(pack: PackedAdapters, weights: list[Weights]) -> None:
    for k, own in enumerate(weights):
        found = pack.take(k, own)
        assert found.lora.keys() == own.lora.keys()
        for target, (a, b) in own.lora.items():
            assert torch.equal(found.lora[target][0], a)
            assert torch.equal(found.lora[target][1], b)
        assert torch.equal(found.extra["head.weight"], own.extra["head.weight"])


def test_take_copies(pack: PackedAdapters, weights: list[Weights]) -> None:
    found = pack.take(0, weights[0])
    pack.values.zero_()
    assert torch.equal(found.lora[Q][0], weights[0].lora[Q][0])


def test_put_writes_one_genome_and_no_other(pack: PackedAdapters, weights: list[Weights]) -> None:
    before, other = pack.values.clone(), _draw(2, (Q,), 9)
    pack.put(0, other)
    assert torch.equal(pack.take(0, other).lora[Q][1], other.lora[Q][1])
    assert torch.equal(pack.lora[Q][0][0, :2], other.lora[Q][0])  # the tensors see it
    assert torch.equal(pack.values[1:], before[1:])
    elsewhere = torch.zeros_like(pack.values)
    pack.put(1, weights[1], elsewhere)
    assert torch.equal(pack.take(1, weights[1], elsewhere).lora[UP][0], weights[1].lora[UP][0])
    assert torch.equal(pack.values[1:], before[1:])


def test_the_flat_rows_hold_each_tensor_once(pack: PackedAdapters) -> None:
    assert pack.values.shape == (3, 2 * (5 * 6 + 5 * 5) + 4)
    assert list(pack.lora) == [Q, UP]  # by block number, not by spelling


def test_gradients_land_in_the_flat_rows_of_their_genome(pack: PackedAdapters) -> None:
    found = _add(pack, Q)
    found[2:4].square().sum().backward()  # the loss of genome 1 alone
    touched = pack.gradients.abs().sum(dim=1) > 0
    assert touched.tolist() == [False, True, False]
    pack.begin_step(1)
    assert not pack.gradients.any()


def test_padding_has_no_gradient(pack: PackedAdapters) -> None:
    found = _add(pack, Q)
    found.square().sum().backward()
    a, b = pack.lora[Q]
    assert a.grad is not None
    assert b.grad is not None
    assert not a.grad[0, 2:].any()
    assert not b.grad[0, 2:].any()
    assert not a.grad[2].any()
    assert a.grad[0, :2].any()


def test_one_genomes_nan_reaches_no_other(pack: PackedAdapters, weights: list[Weights]) -> None:
    healthy = _add(pack, UP)
    with torch.no_grad():
        pack.values[1] = float("nan")
    broken = _add(pack, UP)
    assert torch.equal(healthy[[0, 1, 4, 5]], broken[[0, 1, 4, 5]])
    assert broken[2:4].isnan().all()


def _drop(pack: PackedAdapters, step: int, target: str = Q) -> Tensor:
    pack.training = True
    pack.begin_step(step)
    dropped = pack.dropout(torch.ones(pack.size, 40, 50), target)
    assert dropped is not None
    return dropped


def test_dropout_has_each_genomes_own_probability(pack: PackedAdapters) -> None:
    shares = _drop(pack, 0).float().mean(dim=(1, 2))
    # The third genome does not adapt this layer, so nothing is dropped for it.
    assert shares.tolist() == pytest.approx([0.0, 0.3, 0.0], abs=0.04)


def test_what_dropout_keeps_counts_for_what_it_leaves_out(
    pack: PackedAdapters, weights: list[Weights]
) -> None:
    dropped = pack.dropout(x := _rows().view(3, 6, 6), Q)
    assert dropped is None
    pack.training = True
    dropped = pack.dropout(x, Q)
    assert dropped is not None
    a, b = weights[1].lora[Q]
    expected = 0.5 / 0.7 * x[1].masked_fill(dropped[1], 0) @ (b @ a).T
    torch.testing.assert_close(_add(pack, Q)[2:4].view(6, 5), expected)


def test_dropout_is_off_outside_training(pack: PackedAdapters) -> None:
    assert pack.dropout(torch.ones(3, 4, 5), Q) is None


def test_dropout_streams_differ_by_step_layer_and_seed(pack: PackedAdapters) -> None:
    first = _drop(pack, 0)[1]
    assert torch.equal(first, _drop(pack, 0)[1])
    assert not torch.equal(first, _drop(pack, 1)[1])
    assert not torch.equal(first, _drop(pack, 0, UP)[1])
    twins = PackedAdapters([_draw(2, (Q,), 0)] * 2, [1.0] * 2, [0.3] * 2, [1, 2], CPU)
    assert not torch.equal(*_drop(twins, 0))


def test_a_dropout_stream_is_the_same_in_any_pack(
    pack: PackedAdapters, weights: list[Weights]
) -> None:
    alone = PackedAdapters([weights[1]], [0.5], [0.3], [11], CPU)
    assert torch.equal(_drop(pack, 7)[1], _drop(alone, 7)[0])


@pytest.fixture
def fresh() -> Weights:
    sizes = {Q: (400, 30), UP: (30, 70)}
    layers = {t: AdaptedLinear(t, nn.Linear(*size), EXACT, AtWork()) for t, size in sizes.items()}
    stream = torch.Generator().manual_seed(0)
    given = {"head.bias": torch.zeros(1)}
    return new_weights([Q, UP], 8, layers.__getitem__, 300, 500, stream, given)


def test_fresh_weights_change_nothing_and_have_the_spread_of_peft(fresh: Weights) -> None:
    for target, width, out in ((Q, 400, 30), (UP, 30, 70)):
        a, b = fresh.lora[target]
        assert a.shape == (8, width)
        assert b.shape == (out, 8)
        assert not b.any()
        reference = torch.empty(8, width)
        nn.init.kaiming_uniform_(reference, a=5**0.5)
        assert a.abs().max() <= width**-0.5
        assert a.std().item() == pytest.approx(reference.std().item(), rel=0.15)


def test_fresh_head_and_projector(fresh: Weights) -> None:
    assert fresh.extra["head.weight"].shape == (1, 300)
    assert fresh.extra["head.weight"].std().item() == pytest.approx(0.02, rel=0.15)
    assert fresh.extra["head.bias"].tolist() == [0]
    assert fresh.extra["projector.weight"].shape == (300, 500)
    assert fresh.extra["projector.weight"].std().item() == pytest.approx(500**-0.5, rel=0.05)
    assert not fresh.extra["projector.bias"].any()


def test_fresh_weights_for_text_alone_have_no_projector_and_depend_on_the_seed() -> None:
    layers = {Q: AdaptedLinear(Q, nn.Linear(6, 5), EXACT, AtWork())}
    one, same, other = (
        new_weights([Q], 2, layers.__getitem__, 4, None, stream, {})
        for stream in (torch.Generator().manual_seed(seed) for seed in (0, 0, 1))
    )
    assert set(one.extra) == {"head.weight"}
    assert torch.equal(one.lora[Q][0], same.lora[Q][0])
    assert not torch.equal(one.lora[Q][0], other.lora[Q][0])
