"""Stages: when they are examined, who leaves early, with which weights, and what they cost."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from coralx.records import Genome, LoRAConfig
from coralx.settings.sections import TrainingSettings
from coralx.train.adapters import PackedAdapters, Weights, largest_difference
from coralx.train.backbone import Backbone
from coralx.train.member import Member, StageWork, build_pack, empty_moments
from coralx.train.optim import PackOptimizer, RowByRow
from coralx.train.pack_run import Ground
from coralx.train.prefix import EncodedRows
from coralx.train.rows import Rows
from coralx.train.trainer import StageTrainer, examination_points, segments

STEPS = 12
Train = Callable[..., tuple[list[Member], list[tuple[int, int]]]]


@pytest.fixture(scope="module")
def train(
    backbone: Backbone, encoded_text: EncodedRows, draw_weights: Callable[..., Weights]
) -> Train:
    """Train two genomes on P1 that is told instead of measured: (members, steps observed)."""

    def run(told: Sequence[Sequence[float]], **plan: Any) -> Any:
        genomes = [Genome(id=name, learning_rate=1e-3, warmup=0.0) for name in "ab"]
        weights = [draw_weights(backbone, genome, k) for k, genome in enumerate(genomes)]
        members = [
            Member(genome, genome.lora_cfg, own, empty_moments(own))
            for genome, own in zip(genomes, weights, strict=True)
        ]
        labels = torch.from_numpy(encoded_text.rows.labels).float()
        trainer = StageTrainer(Ground(backbone, encoded_text, labels, TrainingSettings(), seed=0))
        facts = {"index": 0, "warmup_epoch": 4, "last": False, "patience": 2, "least_gain": 0.01}
        batches = [[i % 16, (i + 1) % 16] for i in range(STEPS)]
        examine_at = [0, *examination_points(STEPS, 4)]
        stage = StageWork(batches=batches, examine_at=examine_at, **{**facts, **plan})
        rounds = iter(told)
        seen: list[tuple[int, int]] = []

        def examine(pack: PackedAdapters) -> Sequence[float]:
            return next(rounds)[: pack.size]

        trainer.train(members, stage, examine, lambda *facts: seen.append(facts))
        return members, seen

    return run


def test_examinations_are_evenly_spaced_and_cut_the_stage() -> None:
    assert examination_points(12, 4) == [3, 6, 9, 12]
    assert examination_points(10, 4) == [3, 5, 8, 10]
    assert list(segments(10, [0, 3, 10])) == [(0, 3), (3, 10)]


def test_a_genome_leaves_when_it_stops_improving(train: Train) -> None:
    told = [[0.5, 0.5], [0.6, 0.505], [0.7, 0.509], [0.8], [0.9]]
    (a, b), seen = train(told)
    assert (a.left_early, b.left_early) == (False, True)
    assert (len(a.losses), len(b.losses)) == (12, 6)
    assert seen == [(step, 2 if step <= 6 else 1) for step in range(1, 13)]
    assert b.skills == {0: 0.5, 3: 0.505, 6: 0.509}


def test_who_leaves_early_goes_back_to_the_best_weights_seen(train: Train) -> None:
    (a, b), _ = train([[0.5, 0.9], [0.6, 0.8], [0.55, 0.7], [0.5]])
    assert a.left_early
    assert b.left_early
    assert a.moments.step == 3  # as examined at step 3
    assert b.moments.step == 0
    assert all(not second.any() for _, second in b.weights.lora.values())  # B as it began


def test_who_ends_an_annealed_stage_keeps_its_last_weights(train: Train) -> None:
    (a, b), _ = train([[0.5, 0.5], [0.9, 0.6], [0.7, 0.7], [0.92, 0.8], [0.8, 0.7]])
    assert (a.left_early, b.left_early) == (False, False)
    assert [m.moments.step for m in (a, b)] == [12, 12]


def test_without_patience_nobody_leaves_and_nothing_is_restored(train: Train) -> None:
    (a, b), _ = train([[0.5, 0.9], *[[0.4, 0.4]] * 4], patience=None)
    assert [len(m.losses) for m in (a, b)] == [12, 12]
    assert [m.moments.step for m in (a, b)] == [12, 12]


def test_who_leaves_does_not_change_who_stays(train: Train) -> None:
    (alone, _), _ = train([[0.5, 0.5], [0.6, 0.5], [0.7, 0.5], [0.8], [0.9]])
    (beside, _), _ = train([[0.5, 0.5], [0.6, 0.6], [0.7, 0.7], [0.8, 0.8], [0.9, 0.9]])
    for target, (a, b) in alone.weights.lora.items():
        torch.testing.assert_close(beside.weights.lora[target][0], a, atol=1e-5, rtol=0)
        torch.testing.assert_close(beside.weights.lora[target][1], b, atol=1e-5, rtol=0)


def test_two_lanes_train_as_one(train: Train, two_lanes: list[str]) -> None:
    told = [[0.5, 0.5], [0.6, 0.505], [0.7, 0.509], [0.8], [0.9]]
    beside, seen_beside = train(told)
    assert "lane-1" in two_lanes
    torch.set_num_threads(1)
    alone, seen = train(told)
    assert seen_beside == seen
    for one, two in zip(alone, beside, strict=True):
        assert one.skills == two.skills
        torch.testing.assert_close(two.losses, one.losses, atol=1e-5, rtol=0)
        for target, (_, b) in one.weights.lora.items():  # of some 1e-2 moved
            apart = (two.weights.lora[target][1] - b).abs()
            assert apart.max() < 5e-5  # AdamW makes much of the last bits of small gradients
            assert apart.mean() < 1e-6


def test_the_first_of_the_best_is_kept_and_no_number_never_is(train: Train) -> None:
    (a, b), _ = train([[0.5, math.nan], [0.6, 0.6], [0.6, 0.5], [0.6, 0.5]])
    assert a.left_early
    assert b.left_early
    assert [m.moments.step for m in (a, b)] == [3, 3]


def test_small_gains_add_up_to_one_that_counts(train: Train) -> None:
    """Of 0.006 each time, where 0.01 counts: what must be improved on is what last did."""
    (slow, flat), _ = train([[0.5 + 0.006 * i, 0.5] for i in range(5)])
    assert (slow.left_early, flat.left_early) == (False, True)


def test_seconds_are_shared_out(train: Train) -> None:
    def tell() -> Iterator[list[float]]:
        for i in range(5):
            time.sleep(0.05)
            yield [0.5 + i / 10] * 2

    began = time.perf_counter()
    members, _ = train(tell())
    wall = time.perf_counter() - began
    training = sum(member.seconds for member in members)
    examining = sum(member.eval_seconds for member in members)
    assert examining >= 5 * 0.05
    assert 0 < training <= wall - examining


def test_all_seconds_of_training_are_noted(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of packs that are made, and of steps."""
    for name, pause in (("__init__", 0.1), ("begin_step", 0.02)):
        usual = getattr(PackOptimizer, name)

        def wait(*of: Any, usual: Any = usual, pause: float = pause) -> None:
            time.sleep(pause)
            usual(*of)

        monkeypatch.setattr(PackOptimizer, name, wait)
    began = time.perf_counter()
    members, _ = train([[0.5, 0.5], [0.6, 0.6], [0.7, 0.7], [0.8, 0.8], [0.9, 0.9]])
    wall = time.perf_counter() - began
    assert 0.1 + STEPS * 0.02 <= sum(member.seconds for member in members) <= wall


def _make_member(backbone: Backbone, draw: Callable[..., Weights], **facts: Any) -> Member:
    """Of the last block alone, with a projector and dropout."""
    lora = LoRAConfig(r=2, layers=1, target_modules=("query", "value"), dropout=0.25)
    genome = Genome(**({"id": "a", "learning_rate": 1e-3, "warmup": 0.0} | facts), lora_cfg=lora)
    own = draw(backbone, genome, vision=1280)
    return Member(genome, lora, own, empty_moments(own))


def _train_alone(
    backbone: Backbone,
    encoded: EncodedRows,
    member: Member,
    batches: Sequence[Any],
    *rest: Any,
    **settings: Any,
) -> None:
    _train_pack(backbone, encoded, [member], batches, *rest, **settings)


def _train_pack(
    backbone: Backbone,
    encoded: EncodedRows,
    members: Sequence[Member],
    batches: Sequence[Any],
    index: int = 0,
    **settings: Any,
) -> None:
    labels = torch.from_numpy(encoded.rows.labels).float()
    plan = StageWork(batches, [], index, warmup_epoch=4, last=False, patience=None)
    trainer = StageTrainer(Ground(backbone, encoded, labels, TrainingSettings(**settings), seed=0))
    trainer.train(members, plan, lambda *_: [], lambda *_: None)


def test_tokens_are_counted_by_hand(
    backbone: Backbone, encoded_mixed: EncodedRows, draw_weights: Callable[..., Weights]
) -> None:
    """Two image tokens make room in every row of their batch, and mean something in their own."""
    member = _make_member(backbone, draw_weights)
    batches = [np.array([0, 1, 2]), np.array([3, 4])]
    _train_alone(backbone, encoded_mixed, member, batches)
    useful = computed = 0
    for own in batches:
        lengths = [encoded_mixed.lengths[i] for i in own]
        shown = sum(encoded_mixed.rows.images[i] is not None for i in own)
        assert 0 < shown < len(own)
        useful += sum(lengths) + 2 * shown
        computed += len(own) * (max(lengths) + 2)
    assert (member.tokens, member.computed_tokens) == (useful, computed)


# Adapters add to the output in place, which torch does not count.
IN_PLACE: Any = {torch.ops.aten.baddbmm_: lambda _, x, y, **__: 2 * math.prod(x) * y[-1]}


def _count_by_torch(
    backbone: Backbone,
    encoded: EncodedRows,
    draw: Callable[..., Weights],
    lora: LoRAConfig,
    chosen: Sequence[int],
) -> tuple[float, float]:
    """FLOPs of a step of a genome and its like: those noted, and those that torch counts, of the
    linear layers of blocks and adapters."""
    entry = backbone.depth - lora.layers if isinstance(lora.layers, int) else 0
    members = []
    for k in range(2):
        genome = Genome(id=f"{k}", learning_rate=1e-3, warmup=0.0, lora_cfg=lora)
        own = draw(backbone, genome, vision=1280)
        members.append(Member(genome, lora, own, empty_moments(own)))
    labels = torch.from_numpy(encoded.rows.labels).float()
    plan = StageWork([np.array(chosen)], [], 0, warmup_epoch=4, last=False, patience=None)
    trainer = StageTrainer(Ground(backbone, encoded, labels, TrainingSettings(), seed=0))
    encoded.prepare(entry)
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        trainer.train(members, plan, lambda *_: [], lambda *_: None)
    pictures = encoded.batch(chosen).images
    passes = 3 if "dense" in backbone.family.head else 2  # one that learns, or a frozen pooler
    pooler = 0 if backbone.family.causal else passes * backbone.hidden**2
    seen = 0 if pictures is None else pictures.shape[1] * 1280
    others = 2 * (pooler + 3 * backbone.hidden + 2 * backbone.hidden * seen) * len(chosen)
    others = 2 * others + _count_angles(backbone, encoded, chosen, entry)
    noted = sum(member.flops for member in members)
    return noted, counter.get_total_flops() - others


def _count_angles(
    backbone: Backbone, encoded: EncodedRows, chosen: Sequence[int], entry: int
) -> int:
    """FLOPs of the angles of positions, which transformers below 5.18 takes by a matrix product,
    once a block."""
    rotary = getattr(backbone.family.base, "rotary_emb", None)
    if rotary is None:
        return 0
    longest = max(encoded.lengths[i] for i in chosen)
    tokens = torch.empty(1, longest, backbone.hidden)
    with FlopCounterMode(display=False) as counter:
        for block in backbone.family.blocks[entry:]:
            kind = {"layer_type": block.attention_type} if not backbone.family.causal else {}
            rotary(tokens, position_ids=torch.arange(longest)[None], **kind)
    return counter.get_total_flops()


TARGETS = [
    ("all-linear",),
    ("query",),
    ("query", "value"),
    ("output",),
    ("up",),
    ("down",),
    ("key", "down"),
]


@pytest.mark.parametrize("layers", [1, 2, 3, "all"])
@pytest.mark.parametrize("targets", TARGETS, ids=str)
@pytest.mark.parametrize("pictured", [False, True])
def test_flops_are_those_that_torch_counts(
    backbone: Backbone,
    encoded_text: EncodedRows,
    encoded_mixed: EncodedRows,
    draw_weights: Callable[..., Weights],
    layers: Any,
    targets: tuple[str, ...],
    pictured: bool,
) -> None:
    """What enters the lowest adapted block is the frozen prefix, which needs no gradient; with a
    picture in the batch it does."""
    lora = LoRAConfig(r=2, layers=layers, target_modules=targets, dropout=0.25)
    rows = encoded_mixed if pictured else encoded_text
    noted, counted = _count_by_torch(backbone, rows, draw_weights, lora, [0, 1, 2])
    assert noted == counted


@pytest.mark.parametrize("kind", ["llama", "modernbert", "distilbert"])
@pytest.mark.parametrize("layers", [1, 2, "all"])
@pytest.mark.parametrize("targets", [("all-linear",), ("up",), ("value",)], ids=str)
def test_flops_of_other_families_are_those_that_torch_counts(
    kind: str,
    tiny_model: Callable[..., Backbone],
    tiny_rows: Rows,
    draw_weights: Callable[..., Weights],
    layers: Any,
    targets: tuple[str, ...],
) -> None:
    backbone = tiny_model(kind)
    lora = LoRAConfig(r=2, layers=layers, target_modules=targets)
    encoded = EncodedRows(tiny_rows, backbone, None, max_tokens=16)
    noted, counted = _count_by_torch(backbone, encoded, draw_weights, lora, [0, 1, 2])
    assert noted == counted


def test_settings_genes_and_stage_reach_the_step(
    backbone: Backbone,
    encoded_mixed: EncodedRows,
    draw_weights: Callable[..., Weights],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits: list[float | None] = []
    steps: list[int] = []
    clip, begin = PackOptimizer.clip, PackedAdapters.begin_step
    monkeypatch.setattr(
        PackOptimizer, "clip", lambda own, limit: limits.append(limit) or clip(own, limit)
    )
    monkeypatch.setattr(
        PackedAdapters, "begin_step", lambda own, step: steps.append(step) or begin(own, step)
    )
    batches = [np.array([0, 1])] * 2
    for index in (0, 1):
        member = _make_member(backbone, draw_weights)
        _train_alone(backbone, encoded_mixed, member, batches, index, clip_norm=0.25)
    assert set(limits) == {0.25}
    assert len(set(steps)) == 4, "dropout of a stage repeats that of the one before"


def test_the_weights_of_a_genome_decay_as_its_gene_says(
    backbone: Backbone, encoded_mixed: EncodedRows, draw_weights: Callable[..., Weights]
) -> None:
    """By its share of the learning rate a step, beside what the gradient does."""
    plain, decaying = (
        _make_member(backbone, draw_weights, weight_decay=decay) for decay in (0.0, 100.0)
    )
    before = plain.weights.extra["head.weight"]
    for member in (plain, decaying):
        _train_alone(backbone, encoded_mixed, member, [np.array([0, 1])])
    apart = plain.weights.extra["head.weight"] - decaying.weights.extra["head.weight"]
    torch.testing.assert_close(apart, before * 1e-3 * 100, atol=1e-6, rtol=1e-4)


def test_rates_go_by_the_steps_of_a_genome_over_all_stages(
    train: Train,
    backbone: Backbone,
    encoded_mixed: EncodedRows,
    draw_weights: Callable[..., Weights],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever has left on the way."""
    seen: list[list[int]] = []
    begin = PackOptimizer.begin_step
    monkeypatch.setattr(
        PackOptimizer, "begin_step", lambda own: seen.append(list(own._steps)) or begin(own)
    )
    train([[0.5, 0.5], [0.6, 0.505], [0.7, 0.509], [0.8], [0.9]])
    assert seen == [*([i, i] for i in range(6)), *([i] for i in range(6, 12))]
    seen.clear()
    member = _make_member(backbone, draw_weights)
    for index in (0, 1):
        _train_alone(backbone, encoded_mixed, member, [np.array([0, 1])] * 2, index)
    assert seen == [[0], [1], [2], [3]]


def test_rates_fall_over_the_whole_stage_whoever_has_left(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half-way, when those who stay get a pack of their own."""
    rates: list[float] = []
    usual = RowByRow.set_rates

    def note(self: RowByRow, each: Sequence[float]) -> None:
        rates.append(each[0])
        usual(self, each)

    monkeypatch.setattr(RowByRow, "set_rates", note)
    _, left = train([[0.5, 0.5], [0.6, 0.505], [0.7, 0.509], [0.8], [0.9]], last=True)[0]
    assert left.left_early
    assert rates == pytest.approx([1e-3 * (STEPS - step) / STEPS for step in range(STEPS)])


def test_each_row_is_trained_on_its_own_label(
    backbone: Backbone, encoded_mixed: EncodedRows, draw_weights: Callable[..., Weights]
) -> None:
    """In whatever order they come in a batch."""
    labels = encoded_mixed.rows.labels
    one, two = (next(i for i, own in enumerate(labels) if own == label) for label in (0, 1))
    members = [_make_member(backbone, draw_weights) for _ in range(2)]
    for member, order in zip(members, ([one, two], [two, one]), strict=True):
        _train_alone(backbone, encoded_mixed, member, [np.array(order)])
    assert members[0].losses == pytest.approx(members[1].losses, abs=1e-5)


def test_dropout_is_at_work_in_training(
    backbone: Backbone, encoded_mixed: EncodedRows, draw_weights: Callable[..., Weights]
) -> None:
    dropping, whole = (_make_member(backbone, draw_weights) for _ in range(2))
    whole.lora_cfg = whole.lora_cfg.model_copy(update={"dropout": 0.0})
    for member in (dropping, whole):
        _train_alone(backbone, encoded_mixed, member, [np.array([0, 1])] * 2)
    assert largest_difference(dropping.weights, whole.weights) > 1e-5


def test_each_member_trains_by_its_own_genes_and_count(
    backbone: Backbone, encoded_mixed: EncodedRows, draw_weights: Callable[..., Weights]
) -> None:
    def members() -> list[Member]:
        genes = ({}, {"weight_decay": 50.0, "warmup": 1.0, "learning_rate": 3e-3})
        made = [_make_member(backbone, draw_weights, **own) for own in genes]
        made[1].moments = dataclasses.replace(made[1].moments, step=2)
        return made

    batches = [np.array([0, 1])] * 4
    together = members()
    _train_pack(backbone, encoded_mixed, together, batches)
    for own, alone in zip(together, members(), strict=True):
        _train_alone(backbone, encoded_mixed, alone, batches)
        assert own.moments.step == alone.moments.step
        assert largest_difference(own.weights, alone.weights) < 1e-5


def test_a_pack_drops_out_what_its_members_say(
    backbone: Backbone, draw_weights: Callable[..., Weights]
) -> None:
    member = _make_member(backbone, draw_weights)
    pack = build_pack([member], 0, backbone.device)
    pack.training = True
    dropped = pack.dropout(torch.ones(1, 64, 384), next(iter(member.weights.lora)))
    assert dropped is not None
    assert float(dropped.float().mean()) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(
    ("steps", "last", "rates"),
    [
        (4, False, [1e-3, 1e-3, 1e-3, 1e-3]),
        (4, True, [1e-3, 0.75e-3, 0.5e-3, 0.25e-3]),
        (64, False, [1e-3 * (64 - step) / 64 for step in range(64)]),
    ],
)
def test_long_stages_and_the_last_anneal_from_the_peak_wherever_they_begin(
    steps: int, last: bool, rates: Sequence[float]
) -> None:
    genome = Genome(learning_rate=1e-3, warmup=0.0)
    member = Member(genome, genome.lora_cfg, nothing := Weights({}, {}), empty_moments(nothing))
    batches = [np.zeros(1, dtype=np.int64)] * steps
    plan = StageWork(batches, (), index=2, warmup_epoch=8, last=last, patience=None)
    schedule = plan.schedule(member, start=100)
    assert [schedule.rate(100 + step) for step in range(steps)] == pytest.approx(rates)
