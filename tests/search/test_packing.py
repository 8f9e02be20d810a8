"""Packs: sizes, depths, memory."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coralx.records import Genome, LoRAConfig, ModelShape
from coralx.search import packing

SHAPE = ModelShape(layers=6, hidden=384, intermediate=1536, vocab=30522)


def genome(name: str, r: int = 8, layers: int | str = 2) -> Genome:
    return Genome(id=name, lora_cfg=LoRAConfig.model_validate({"r": r, "layers": layers}))


def shown(packs) -> list[str]:
    return ["".join(member.id for member in members) for members in packs]


def test_packs_are_sorted_by_depth_and_rank_and_cut_at_size() -> None:
    genomes = [
        genome("a", 16, 1),
        genome("b", 2, 3),
        genome("c", 4, 1),
        genome("d", 2, "all"),
        genome("e", 8, 1),
    ]
    assert shown(packing.pack(genomes, 2)) == ["db", "ce", "a"]
    assert shown(packing.pack(genomes, 8)) == ["dbcea"]


def test_the_memory_budget_cuts_packs_and_a_lone_giant_still_trains() -> None:
    genomes = [genome("a", 2), genome("b", 2), genome("c", 2), genome("d", 64)]

    def cost(adapters) -> float:
        return sum(adapter.r for adapter in adapters)

    assert shown(packing.pack(genomes, 8, cost, 4)) == ["ab", "c", "d"]
    assert shown(packing.pack(genomes, 8, cost, 70)) == ["abcd"]


def test_grown_adapters_count_as_grown() -> None:
    genomes = [genome("a", 2), genome("b", 4)]
    grown = {"a": LoRAConfig(r=32, layers=2)}
    assert shown(packing.pack(genomes, 8, adapters=grown)) == ["ba"]


@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 3, "all"]), st.sampled_from([2, 4, 8])), max_size=12),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
def test_every_genome_is_in_one_pack_in_any_order(kinds, size: int, shuffler) -> None:
    genomes = [genome(f"{i:02d}", r, layers) for i, (layers, r) in enumerate(kinds)]
    cost = functools.partial(packing.added_bytes, shape=SHAPE, rows=8, tokens=64)
    packs = packing.pack(genomes, size, cost, 1.6e8)
    assert sorted(g.id for members in packs for g in members) == [g.id for g in genomes]
    for members in packs:
        assert len(members) <= size
        assert len(members) == 1 or cost([g.lora_cfg for g in members]) <= 1.6e8
    shuffled = list(genomes)
    shuffler.shuffle(shuffled)
    assert packing.pack(shuffled, size, cost, 1.6e8) == packs


def test_base_bytes_of_minilm() -> None:
    # 30522 x 384 embeddings and 6 blocks of 4 x 384^2 + 2 x 384 x 1536, in fp32: 22.3 M weights.
    assert packing.base_bytes(SHAPE) == 4 * (30522 * 384 + 6 * (4 * 384**2 + 2 * 384 * 1536))
    assert packing.base_bytes(SHAPE) == pytest.approx(22.3e6 * 4, rel=0.01)


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
    passing = 2 * 14  # of both genomes in the last block, more than twice 8 of one below
    expected = 16 * trained + 5 * 3 * 4 * (block + adapted + passing)
    assert packing.added_bytes(adapters, tiny, rows=5, tokens=3) == expected


@pytest.mark.parametrize("change", [{"r": 16}, {"layers": 3}, {"target_modules": ("all-linear",)}])
def test_a_larger_adapter_costs_more(change) -> None:
    cost = functools.partial(packing.added_bytes, shape=SHAPE, rows=8, tokens=64)
    small = LoRAConfig(r=8, layers=2)
    assert cost([small]) < cost([small.model_copy(update=change)]) < cost([small] * 4)
