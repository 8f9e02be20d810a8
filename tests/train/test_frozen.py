"""Frozen matrix products in bfloat16: how far off they are, and where they are not used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from coralx.config import load_config
from coralx.records import Genome, Job, LoRAConfig, Start
from coralx.train.frozen import FrozenProducts, choose_products
from coralx.train.worker import Worker

CPU = torch.device("cpu")
ROUNDING = 2**-7  # of the largest output: 8 bits of mantissa, twice


def _layer(bias: bool = True) -> tuple[nn.Linear, Tensor]:
    torch.manual_seed(0)
    layer = nn.Linear(48, 32, bias=bias).requires_grad_(False)
    return layer, torch.randn(3, 5, 48, requires_grad=True)


@pytest.mark.parametrize("bias", [True, False])
def test_products_in_float32_are_those_of_the_layer(bias: bool) -> None:
    layer, x = _layer(bias)
    assert torch.equal(FrozenProducts(torch.float32).apply(layer, x), layer(x))


@pytest.mark.parametrize("bias", [True, False])
def test_products_in_bfloat16_are_off_by_rounding_alone(bias: bool) -> None:
    layer, x = _layer(bias)
    expected, found = layer(x), FrozenProducts(torch.bfloat16).apply(layer, x)
    assert found.dtype == torch.float32
    assert not torch.equal(found, expected)
    assert (found - expected).abs().max() <= ROUNDING * expected.abs().max()


def test_each_layer_is_multiplied_by_its_own_weights() -> None:
    products = FrozenProducts(torch.bfloat16)
    one, x = _layer()
    other = nn.Linear(48, 32).requires_grad_(False)  # of the same shape
    for layer in (one, other, one):
        expected = layer(x)
        apart = products.apply(layer, x) - expected
        assert apart.abs().max() <= ROUNDING * expected.abs().max()


def test_gradients_pass_through_products_in_bfloat16() -> None:
    layer, x = _layer()
    weights = torch.randn(3, 5, 32)
    (layer(x) * weights).sum().backward()
    expected, x.grad = x.grad, None
    (FrozenProducts(torch.bfloat16).apply(layer, x) * weights).sum().backward()
    assert x.grad is not None
    assert expected is not None
    assert (x.grad - expected).abs().max() <= ROUNDING * expected.abs().max()
    assert layer.weight.grad is None


def test_exact_products_end_with_the_block_whatever_happens_in_it() -> None:
    layer, x = _layer()
    products = FrozenProducts(torch.bfloat16)
    rounded = products.apply(layer, x)

    def fail_within() -> None:
        with products.exact():
            assert torch.equal(products.apply(layer, x), layer(x))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_within()
    assert torch.equal(products.apply(layer, x), rounded)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": False}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_auto_asks_what_the_processor_can_do(
    known: dict[str, bool], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert choose_products("auto", torch.float32, CPU) == expected


def test_auto_is_float32_where_torch_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert choose_products("auto", torch.float32, CPU) == torch.float32


@pytest.mark.parametrize("native", [True, False])
def test_auto_asks_a_gpu_what_it_does_without_emulation(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: native or including_emulation,
    )
    chosen = choose_products("auto", torch.float32, torch.device("cuda"))
    assert chosen == (torch.bfloat16 if native else torch.float32)


def test_what_was_asked_for_is_done_but_for_a_base_in_bfloat16() -> None:
    assert choose_products("bfloat16", torch.float32, CPU) == torch.bfloat16
    assert choose_products("float32", torch.float32, CPU) == torch.float32
    assert choose_products("float32", torch.bfloat16, CPU) == torch.bfloat16


@pytest.fixture(scope="module")
def rounding_worker(tmp_path_factory: pytest.TempPathFactory) -> Worker:
    settings = {
        "data": {"max_rows": 64, "max_tokens": 16},
        "training": {"frozen_products": "bfloat16", "attack_rows": 2, "bootstrap_draws": 0},
        "hyperband": {
            "training_stages": [
                {"name": "S", "epoch_budget": 1.0, "data_percentage": 100, "survival_rate": 1.0}
            ]
        },
    }
    return Worker(load_config(None, settings), tmp_path_factory.mktemp("run") / "checkpoints")


def test_a_genome_trained_on_rounded_products_is_tested_on_exact_ones(
    rounding_worker: Worker, tmp_path: Path
) -> None:
    worker, genome = rounding_worker, Genome(lora_cfg=LoRAConfig(layers=1), learning_rate=1e-3)
    stage = worker.config.hyperband.stages[0]
    job = Job(
        id="one", generation=0, stage=stage, stage_index=0, genomes=(genome,), starts=(Start(),)
    )
    (result,) = worker.train(job)
    tested = worker.test(result).objectives
    exact = worker.config.model_dump()
    exact["training"]["frozen_products"] = "float32"
    other = Worker(load_config(exact), worker.bench.checkpoints)
    assert other.test(result).objectives == tested
    assert worker.numerics()["products"] == "bfloat16"
    assert other.numerics()["products"] == "float32"
    (again,) = Worker(load_config(exact), tmp_path / "checkpoints").train(job)
    assert again.objectives["memory"] == result.objectives["memory"]
    assert [p.loss for p in again.curve] != [p.loss for p in result.curve]
    losses = zip(again.curve, result.curve, strict=True)
    assert all(abs(one.loss - two.loss) < 0.02 for one, two in losses)
