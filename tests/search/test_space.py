"""Drawing, building, checking and comparing genomes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from coralx.config import DEFAULT_SPACE, Choice, Float, Integer, load_config
from coralx.errors import ConfigError
from coralx.records import Genome, LoRAConfig
from coralx.search import space

SEEDS = st.integers(0, 2**32)


@given(SEEDS)
def test_samples_lie_in_the_space(seed: int) -> None:
    space.check(DEFAULT_SPACE, space.sample(DEFAULT_SPACE, np.random.default_rng(seed)))


def test_same_seed_same_genome_whatever_the_order_of_genes() -> None:
    backwards = dict(reversed(DEFAULT_SPACE.items()))
    one = space.sample(DEFAULT_SPACE, np.random.default_rng(3))
    two = space.sample(backwards, np.random.default_rng(3))
    assert one == two
    assert one.id == two.id


def test_log_genes_are_uniform_in_the_logarithm() -> None:
    genes = {"learning_rate": Float(low=1e-4, high=1e-2, log=True)}
    rng = np.random.default_rng(0)
    rates = [space.sample(genes, rng).learning_rate for _ in range(2000)]
    assert np.mean(np.array(rates) < 1e-3) == pytest.approx(0.5, abs=0.05)


def test_build_sends_each_gene_to_its_place() -> None:
    genome = space.build(
        {"r": 4, "target_modules": "all-linear", "warmup": 0.2, "schedule": "cosine"},
        parents=["a", "b"],
        generation=2,
    )
    assert genome.lora_cfg == LoRAConfig(r=4, target_modules=("all-linear",))
    assert (genome.warmup, genome.extra) == (0.2, {"schedule": "cosine"})
    assert genome.learning_rate == Genome().learning_rate
    assert (genome.parents, genome.generation) == (("a", "b"), 2)


def test_build_undoes_genes() -> None:
    genome = space.sample(DEFAULT_SPACE, np.random.default_rng(1), generation=4)
    assert space.build(genome.genes(), generation=4) == genome


@pytest.mark.parametrize(
    ("gene", "value", "rule"),
    [
        (Choice(values=(2, 4)), 8, "r must be one of 2, 4, got 8"),
        (Integer(low=2, high=6), 8, "r must be a whole number from 2 to 6, got 8"),
        (Float(low=1.0, high=2.5), 8, "r must be a number from 1.0 to 2.5, got 8"),
    ],
)
def test_check_names_gene_rule_and_value(gene, value: int, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        space.check({"r": gene}, Genome(lora_cfg=LoRAConfig(r=value)))


def test_check_refuses_a_missing_gene() -> None:
    with pytest.raises(ConfigError, match=r"speed must be a number from 0\.0 to 1\.0, got None"):
        space.check({"speed": Float(low=0, high=1)}, Genome())


def distance(genes: space.Space, a: Genome, b: Genome) -> float:
    return space.diversity(genes, [a, b])


def test_distance_by_hand() -> None:
    genes = {
        "r": Choice(values=(2, 4, 8, 16)),  # places 0 and 2 of 0..3: 2/3
        "target_modules": Choice(values=(("query",), ("value",))),  # differs: 1
        "learning_rate": Float(low=1e-4, high=1e-2, log=True),  # one decade of two: 1/2
        "use_rslora": Choice(values=(False, True)),  # equal: 0
        "layers": Integer(low=1, high=5),  # 1 of 4
    }
    a = space.build({"r": 2, "target_modules": ("query",), "learning_rate": 1e-4, "layers": 2})
    b = space.build({"r": 8, "target_modules": ("value",), "learning_rate": 1e-3, "layers": 3})
    assert distance(genes, a, b) == pytest.approx((2 / 3 + 1 + 1 / 2 + 0 + 1 / 4) / 5)


def test_booleans_are_not_an_ordered_choice() -> None:
    assert space.ladder(Choice(values=(False, True))) is None
    assert space.ladder(Choice(values=(16, 2, 8))) == [2, 8, 16]
    assert space.ladder(Choice(values=(1, 2, "all"))) is None


@given(SEEDS)
def test_distance_is_a_bounded_symmetric_premetric(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (space.sample(DEFAULT_SPACE, rng) for _ in range(2))
    assert distance(DEFAULT_SPACE, a, a) == 0
    assert 0 <= distance(DEFAULT_SPACE, a, b) <= 1
    assert distance(DEFAULT_SPACE, a, b) == distance(DEFAULT_SPACE, b, a)


@given(SEEDS, st.integers(2, 9))
def test_diversity_is_the_mean_pairwise_distance(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    genomes = [space.sample(DEFAULT_SPACE, rng) for _ in range(count)]
    pairs = [(i, j) for i in range(count) for j in range(i)]
    gaps = [distance(DEFAULT_SPACE, genomes[i], genomes[j]) for i, j in pairs]
    assert space.diversity(DEFAULT_SPACE, genomes) == pytest.approx(np.mean(gaps))


def test_the_largest_diversity_by_hand() -> None:
    """Numbers part into two ends, other choices into all values, conditional genes rest as well."""
    numbers = {"r": Choice(values=(2, 4, 8)), "alpha": Float(low=1, high=2)}
    assert space.largest_diversity(numbers, 2) == 1
    assert space.largest_diversity(numbers, 3) == pytest.approx(2 / 3)
    assert space.largest_diversity(numbers, 8) == pytest.approx(16 / 28)
    words = {"mine": Choice(values=("a", "b", "c"))}
    assert space.largest_diversity(words, 3) == 1
    assert space.largest_diversity(words, 5) == pytest.approx((2 * 2 + 2 + 2) / 10)
    constant = {"r": Choice(values=(4,)), "alpha": Float(low=8, high=8)}
    assert space.largest_diversity(constant, 5) == 0
    assert space.relative_diversity(constant, [Genome()] * 5) == 0
    assert space.largest_diversity(words, 1) == space.largest_diversity({}, 4) == 0
    # rsLoRA on and off; alpha 8, 16 or at rest; mine at its ends or at rest; r 2 and 4: of 3
    assert space.largest_diversity(CONDITIONAL, 3) == pytest.approx((2 + 3 + 3 + 2) / 3 / 4)
    always = {**CONDITIONAL, "alpha": Choice(values=(8, 16), when={"use_rslora": (True, False)})}
    assert space.largest_diversity(always, 3) == pytest.approx((2 + 2 + 3 + 2) / 3 / 4)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_nothing_is_more_diverse_than_the_largest_and_ends_reach_it(count: int) -> None:
    genes = {"r": Choice(values=(2, 4, 8)), "mine": Choice(values=("a", "b"))}
    genomes = [space.build({"r": r, "mine": m}) for r in (2, 4, 8) for m in "ab"]
    found = [
        space.relative_diversity(genes, some)
        for some in itertools.combinations_with_replacement(genomes, count)
    ]
    assert max(found) == pytest.approx(1)


def test_eight_at_the_ends_of_the_default_space_are_as_diverse_as_can_be() -> None:
    assert space.largest_diversity(DEFAULT_SPACE, 8) == pytest.approx((7 * 4 / 7 + 6 / 7) / 8)


def test_diversity_of_fewer_than_two_is_zero() -> None:
    assert space.diversity(DEFAULT_SPACE, []) == 0
    assert space.diversity(DEFAULT_SPACE, [Genome()]) == 0


def test_sample_distinct_uses_a_small_space_to_the_last_genome() -> None:
    genes = {"r": Choice(values=(2, 4)), "layers": Integer(low=1, high=3)}
    assert space.size(genes) == 6
    found = space.sample_distinct(genes, 6, np.random.default_rng(0))
    assert len({(g.lora_cfg.r, g.lora_cfg.layers) for g in found}) == 6
    with pytest.raises(ConfigError, match=r"population 7 .* the space holds 6"):
        space.sample_distinct(genes, 7, np.random.default_rng(0))


@given(SEEDS)
def test_sample_distinct_never_repeats(seed: int) -> None:
    genes = {"r": Integer(low=1, high=200)}
    found = space.sample_distinct(genes, 15, np.random.default_rng(seed))
    assert len({g.id for g in found}) == 15


@pytest.mark.parametrize("twins", [(0, False, 1), (True, 2, 1), (1, 1.0)])
def test_values_that_are_equal_under_two_names_are_refused(twins) -> None:
    with pytest.raises(ConfigError, match=r"space\.mine.*equal under two names, got .* keep one"):
        load_config({"space": {"mine": {"kind": "choice", "values": twins}}})


def test_ends_further_apart_than_floats_go_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"space\.mine\.high: high - low must be finite, got -1e\+308 to 1e\+308"
    ):
        load_config({"space": {"mine": {"kind": "float", "low": -1e308, "high": 1e308}}})


def test_size_of_a_continuous_space_is_infinite() -> None:
    assert space.size(DEFAULT_SPACE) == math.inf
    assert space.size({"alpha": Float(low=8, high=8), "r": Choice(values=(2, 2, 4))}) == 2


@given(st.floats(0, 1))
def test_at_and_position_are_inverses(place: float) -> None:
    gene = Float(low=3e-4, high=1e-2, log=True)
    assert gene.low <= space.at(gene, place) <= gene.high
    assert space.position(gene, space.at(gene, place)) == pytest.approx(place, abs=1e-9)


RS = (False, True)
CONDITIONAL = {  # alpha counts with rsLoRA alone, `mine` only where alpha does and is 16
    "use_rslora": Choice(values=RS),
    "alpha": Choice(values=(8, 16), when={"use_rslora": (True,)}),
    "mine": Integer(low=1, high=3, when={"alpha": (16,)}),
    "r": Choice(values=(2, 4)),
}


def test_conditional_genes_are_counted_drawn_and_left_at_rest() -> None:
    # r x (no rsLoRA, or rsLoRA with alpha 8, or with alpha 16 and one of three of mine)
    assert space.size(CONDITIONAL) == 2 * (1 + 1 + 3)
    found = space.sample_distinct(CONDITIONAL, 10, np.random.default_rng(0))
    assert len({space.key(genome) for genome in found}) == 10
    for genome in found:
        space.check(CONDITIONAL, genome)
        lora, mine = genome.lora_cfg, genome.extra["mine"]
        assert lora.use_rslora or lora.alpha == LoRAConfig().alpha
        assert (mine is not None) == (lora.use_rslora and lora.alpha == 16)
    with pytest.raises(ConfigError, match=r"population 11 .* the space holds 10"):
        space.sample_distinct(CONDITIONAL, 11, np.random.default_rng(0))


def test_conditions_may_make_more_forms_than_can_be_gone_through() -> None:
    genes = {f"g{i:02}": Choice(values=(1, 2)) for i in range(60)}
    genes["last"] = Choice(values=(1, 2), when=dict.fromkeys(genes, (1,)))
    found = space.sample_distinct(genes, 10, np.random.default_rng(0))
    assert len({space.key(genome) for genome in found}) == 10


@given(SEEDS)
def test_drawn_genomes_respect_conditions(seed: int) -> None:
    genome = space.sample(CONDITIONAL, np.random.default_rng(seed))
    space.check(CONDITIONAL, genome)
    assert space.build(genome.genes()) == genome


@pytest.mark.parametrize(
    ("genes", "rule"),
    [
        ({"use_rslora": False, "alpha": 8, "mine": None}, r"alpha must be 16\.0 while its `when`"),
        ({"use_rslora": False, "mine": 2}, "mine must be None while its `when` is not met, got 2"),
        ({"use_rslora": True, "alpha": 16, "mine": None}, "mine must be a whole number from 1 to"),
    ],
)
def test_check_knows_conditions(genes, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        space.check(CONDITIONAL, space.build({"r": 2, **genes}))


def test_distance_of_conditional_genes() -> None:
    off = space.build({"use_rslora": False, "r": 2, "mine": None})
    low = space.build({"use_rslora": True, "alpha": 8, "r": 2, "mine": None})
    one = space.build({"use_rslora": True, "alpha": 16, "r": 2, "mine": 1})
    two = space.build({"use_rslora": True, "alpha": 16, "r": 4, "mine": 2})
    assert distance(CONDITIONAL, off, off) == 0
    assert distance(CONDITIONAL, off, low) == 2 / 4  # rsLoRA differs, alpha counts in one
    assert distance(CONDITIONAL, low, one) == 2 / 4  # alpha differs, mine counts in one
    assert distance(CONDITIONAL, one, two) == (1 + 1 / 2) / 4
    genomes = [off, low, one, two]
    pairs = [(i, j) for i in range(4) for j in range(i)]
    gaps = [distance(CONDITIONAL, genomes[i], genomes[j]) for i, j in pairs]
    assert space.diversity(CONDITIONAL, genomes) == pytest.approx(np.mean(gaps))


def test_conditions_come_from_yaml_and_are_checked() -> None:
    def load(text: str) -> dict:
        return load_config({"space": yaml.safe_load(text)}).space

    tower = "r: {kind: choice, values: [2, 4], when: {target_modules: [all-linear]}}\n"
    targets = "target_modules: {kind: choice, values: [[query], [all-linear]]}\n"
    assert load(tower + targets)["r"].when == {"target_modules": (("all-linear",),)}
    for text, message in (
        (tower, r"space\.r\.when\.target_modules: must be a gene of the space that is a choice"),
        (tower + targets.replace("[all-linear]", "[value]"), "must list values of target_modules"),
        ("r: {kind: choice, values: [2], when: {r: [2]}}", "circle, got r -> r"),
        ("r: {kind: choice, values: [2], when: {alpa: []}}", r"when\.alpa: must not be empty"),
    ):
        with pytest.raises(ConfigError, match=message):
            load(text)


def test_a_module_named_alone_stands_for_a_list_of_one() -> None:
    def load(*modules: object) -> dict:
        targets = {"kind": "choice", "values": modules}
        ranks = {"kind": "choice", "values": [2, 4], "when": {"target_modules": modules[:1]}}
        return load_config({"space": {"target_modules": targets, "r": ranks}}).space

    lone, listed = load("query", ["query"], "value"), load(["query"], ["value"])
    assert lone == listed
    drawn = space.sample_distinct(lone, 3, np.random.default_rng(0))
    assert [genome.id for genome in drawn] == ["57ccbaac8669", "c2a3d4cc12ce", "fded58594079"]
    assert LoRAConfig.model_validate({"target_modules": "key"}).target_modules == ("key",)
