"""The memory that packs are reckoned to take."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest

from coralx.records import LoRAConfig, ModelShape
from coralx.search import footprint

SHAPE = ModelShape(layers=6, hidden=384, intermediate=1536, vocab=30522)


def test_base_bytes_of_minilm() -> None:
    # 30522 x 384 embeddings and 6 blocks of 4 x 384^2 + 2 x 384 x 1536, in fp32: 22.3 M weights.
    assert footprint.base_bytes(SHAPE) == 4 * (30522 * 384 + 6 * (4 * 384**2 + 2 * 384 * 1536))
    assert footprint.base_bytes(SHAPE) == pytest.approx(22.3e6 * 4, rel=0.01)


def test_estimate_by_hand() -> None:
    tiny = ModelShape(layers=2, hidden=4, intermediate=8, vocab=10)
    adapters = [
        LoRAConfig(r=2, layers=1, target_modules=("query", "up")),
        LoRAConfig(r=1, layers="all", target_modules=("all-linear",)),
    ]
    # In and out of query, key, value and output are 8, of up and down 12. In the last block query
    # and up are padded to rank 2; each genome has a classification layer of 4 + 1.
    trained = 2 * (2 * 8 + 2 * 12 + 3 * 8 + 12) + 2 * (4 * 8 + 2 * 12) + 2 * 5
    block = 6 * 4 + 8  # of the second genome alone, per token
    adapted = 4 + 3 * 1 + (4 + 1) + (4 + 1) + (8 + 1)  # inputs, and the rank of each
    # Back through the last block for both genomes, more than 14 each and the first's 4 on the way
    # there, or than twice 8 of one below.
    passing = 2 * 24
    expected = 16 * trained + 5 * 3 * 4 * (block + adapted + passing)
    assert footprint.added_bytes(adapters, tiny, rows=5, tokens=3) == expected
    # Evaluation passes 2 x 14 + 4 in the last block, more than 3 x 4 + 2 x 8 below it, and keeps
    # nothing, so it needs more rows to be the larger.
    assert footprint.added_bytes(adapters, tiny, rows=5, tokens=3, evaluated=5) == expected
    evaluating = 16 * trained + 50 * 3 * 4 * 32
    assert footprint.added_bytes(adapters, tiny, rows=5, tokens=3, evaluated=50) == evaluating


def test_a_layer_before_the_last_is_trained_by_every_genome() -> None:
    cost = functools.partial(footprint.added_bytes, [LoRAConfig()] * 3, rows=8, tokens=64)
    more = cost(replace(SHAPE, deep_head=True)) - cost(SHAPE)
    assert more == 16 * 3 * (384 * 384 + 384)


@pytest.mark.parametrize("change", [{"r": 16}, {"layers": 3}, {"target_modules": ("all-linear",)}])
def test_a_larger_adapter_costs_more(change) -> None:
    cost = functools.partial(footprint.added_bytes, shape=SHAPE, rows=8, tokens=64)
    small = LoRAConfig(r=8, layers=2)
    assert cost([small]) < cost([small.model_copy(update=change)]) < cost([small] * 4)
