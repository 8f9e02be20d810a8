"""Mutation, crossover and breeding of one child."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from coralx.config import DEFAULT_SPACE, Choice, Float, Integer
from coralx.search import space, variation
from coralx.settings.sections import EvolutionSettings

SEEDS = st.integers(0, 2**32)


@given(SEEDS, st.floats(0, 1))
def test_mutation_stays_in_the_space_and_changes_a_gene(seed: int, rate: float) -> None:
    rng = np.random.default_rng(seed)
    before = space.sample(DEFAULT_SPACE, rng)
    after = space.build(variation.mutate(DEFAULT_SPACE, before.genes(), rate, rng))
    space.check(DEFAULT_SPACE, after)
    assert space.key(after) != space.key(before)


def test_mutation_rate_is_per_gene() -> None:
    rng = np.random.default_rng(0)
    genes = space.sample(DEFAULT_SPACE, rng).genes()
    changed = [
        sum(variation.mutate(DEFAULT_SPACE, genes, 0.5, rng)[n] != genes[n] for n in DEFAULT_SPACE)
        for _ in range(500)
    ]
    assert abs(np.mean(changed) - 0.5 * len(DEFAULT_SPACE)) < 0.25
    for name, value in variation.mutate(DEFAULT_SPACE, genes, 1.0, rng).items():
        assert (value != genes[name]) == (name in DEFAULT_SPACE)


@given(SEEDS)
def test_rate_zero_changes_exactly_one_gene(seed: int) -> None:
    rng = np.random.default_rng(seed)
    genes = space.sample(DEFAULT_SPACE, rng).genes()
    after = variation.mutate(DEFAULT_SPACE, genes, 0.0, rng)
    assert sum(after[name] != genes[name] for name in genes) == 1


@given(SEEDS, st.sampled_from([2, 4, 8, 16]))
def test_ordered_choice_moves_to_a_neighbour(seed: int, rank: int) -> None:
    gene = {"r": Choice(values=(16, 2, 8, 4))}
    after = variation.mutate(gene, {"r": rank}, 1.0, np.random.default_rng(seed))["r"]
    assert after in {rank * 2, rank // 2} & {2, 4, 8, 16}


@given(SEEDS, st.integers(1, 4))
def test_integer_moves_at_least_one(seed: int, value: int) -> None:
    gene = {"layers": Integer(low=1, high=4)}
    after = variation.mutate(gene, {"layers": value}, 1.0, np.random.default_rng(seed))["layers"]
    assert after != value
    assert 1 <= after <= 4  # type: ignore[operator]


@given(SEEDS, st.sampled_from([1e-4, 1e-2]))
def test_float_at_a_bound_is_mirrored_not_stuck(seed: int, value: float) -> None:
    gene = {"learning_rate": Float(low=1e-4, high=1e-2, log=True)}
    rng = np.random.default_rng(seed)
    after = variation.mutate(gene, {"learning_rate": value}, 1.0, rng)["learning_rate"]
    assert after != value
    assert 1e-4 <= after <= 1e-2  # type: ignore[operator]


def test_float_step_is_a_fifth_of_the_range() -> None:
    gene = {"alpha": Float(low=0, high=10)}
    rng = np.random.default_rng(0)
    steps = [variation.mutate(gene, {"alpha": 5.0}, 1.0, rng)["alpha"] - 5 for _ in range(2000)]  # type: ignore[operator]
    assert abs(np.std(steps) - 2.0) < 0.15


def test_a_space_of_constants_changes_nothing() -> None:
    constant = {"r": Choice(values=(4,)), "alpha": Float(low=8, high=8)}
    assert variation.mutate(constant, {"r": 4}, 1.0, np.random.default_rng(0)) == {"r": 4}


def test_values_from_outside_the_space_mutate_into_it() -> None:
    rng = np.random.default_rng(0)
    genes = {"r": Choice(values=(2, 4)), "speed": Float(low=0, high=1)}
    after = variation.mutate(genes, {"r": 64}, 1.0, rng)
    assert after["r"] == 4
    assert 0 <= after["speed"] <= 1  # type: ignore[operator]


@given(SEEDS)
def test_crossover_takes_each_gene_from_a_parent(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (space.sample(DEFAULT_SPACE, rng).genes() for _ in range(2))
    child = variation.cross(DEFAULT_SPACE, a, b, rng)
    assert all(child[name] in (a[name], b[name]) for name in DEFAULT_SPACE)


def test_crossover_takes_from_both_alike_and_keeps_other_genes_of_a() -> None:
    rng = np.random.default_rng(0)
    a, b = {"r": 2, "warmup": 0.3}, {"r": 4, "warmup": 0.9}
    taken = [variation.cross({"r": DEFAULT_SPACE["r"]}, a, b, rng) for _ in range(400)]
    assert all(child["warmup"] == 0.3 for child in taken)
    assert abs(np.mean([child["r"] == 4 for child in taken]) - 0.5) < 0.1


def test_a_child_names_the_parents_that_gave_genes() -> None:
    rng = np.random.default_rng(0)
    a, b = (space.sample(DEFAULT_SPACE, rng) for _ in range(2))
    always, never = EvolutionSettings(crossover_rate=1), EvolutionSettings(crossover_rate=0)
    crossed = variation.make_child(DEFAULT_SPACE, a, b, always, rng, 3)
    assert (crossed.parents, crossed.generation) == ((a.id, b.id), 3)
    assert variation.make_child(DEFAULT_SPACE, a, b, never, rng, 1).parents == (a.id,)
    assert variation.make_child(DEFAULT_SPACE, a, a, always, rng, 1).parents == (a.id,)


CONDITIONAL = {  # alpha counts with rsLoRA alone, `mine` only where alpha does and is 16
    "use_rslora": Choice(values=(False, True)),
    "alpha": Choice(values=(8, 16), when={"use_rslora": (True,)}),
    "mine": Integer(low=1, high=3, when={"alpha": (16,)}),
    "r": Choice(values=(2, 4)),
}


@given(SEEDS, st.floats(0, 1))
def test_children_keep_inactive_genes_at_rest_and_change_an_active_one(seed: int, rate) -> None:
    rng = np.random.default_rng(seed)
    a, b = (space.sample(CONDITIONAL, rng) for _ in range(2))
    crossed = space.build(variation.cross(CONDITIONAL, a.genes(), b.genes(), rng))
    space.check(CONDITIONAL, crossed)
    after = space.build(variation.mutate(CONDITIONAL, crossed.genes(), rate, rng))
    space.check(CONDITIONAL, after)
    assert space.key(after) != space.key(crossed)


def test_a_gene_that_becomes_active_is_drawn_not_left_at_its_default() -> None:
    rng = np.random.default_rng(0)
    off = space.build({"use_rslora": False, "r": 2, "mine": None}).genes()
    after = [variation.mutate(CONDITIONAL, off, 1.0, rng) for _ in range(200)]
    assert {genes["alpha"] for genes in after} == {8, 16}
    assert {genes["mine"] for genes in after} == {None, 1, 2, 3}
