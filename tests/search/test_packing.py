"""Packs: sizes, depths, budgets."""

from __future__ import annotations

import functools

from hypothesis import given
from hypothesis import strategies as st

from coralx.records import Genome, LoRAConfig, ModelShape
from coralx.search import footprint, packing

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
    cost = functools.partial(footprint.added_bytes, shape=SHAPE, rows=8, tokens=64)
    packs = packing.pack(genomes, size, cost, 1.6e8)
    assert sorted(g.id for members in packs for g in members) == [g.id for g in genomes]
    for members in packs:
        assert len(members) <= size
        assert len(members) == 1 or cost([g.lora_cfg for g in members]) <= 1.6e8
    shuffled = list(genomes)
    shuffler.shuffle(shuffled)
    assert packing.pack(shuffled, size, cost, 1.6e8) == packs
