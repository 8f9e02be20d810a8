"""A genome in training: what it goes back to when it leaves a stage early."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from coralx.records import Genome, LoRAConfig
from coralx.train.adapters import Weights
from coralx.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from coralx.train.member import Member, StageWork, build_pack, empty_moments
from coralx.train.resize import Moments


def test_what_was_best_before_its_first_step_can_be_saved(tmp_path: Path) -> None:
    """As a copy by exploit is, which is examined before it has moments: they must be two, or
    safetensors refuses to write them."""
    pair = torch.ones(2, 8), torch.zeros(6, 2)
    weights, genome = Weights({"0.query": pair}, {"head.weight": torch.ones(1, 8)}), Genome()
    member = Member(genome, genome.lora_cfg, weights, empty_moments(weights))
    batches = [np.arange(8)] * 64
    work = StageWork(batches, (0, 16), index=1, warmup_epoch=4, last=False, patience=1)
    member.examine(0, 0.9, work)
    member.weights, member.moments = Weights({}, {}), empty_moments(Weights({}, {}))
    member.examine(16, 0.8, work)
    assert member.left_early
    member.restore_best()
    parts = genome.id, "S1", genome.lora_cfg, member.weights, member.moments
    found = load_checkpoint(tmp_path, save_checkpoint(tmp_path, Checkpoint(*parts)))
    assert found.moments.step == 0
    for part in (found.moments.first, found.moments.second):
        assert not any(tensor.any() for tensor in (*part.lora["0.query"], *part.extra.values()))


def _examined(*skills: float, least_gain: float = 0.0) -> tuple[Member, list[bool]]:
    """A member of a stage of 8 steps, examined after each with a patience of two; whether it had
    left by then. Its moments count the steps."""
    weights, genome = Weights({}, {}), Genome()
    member = Member(genome, genome.lora_cfg, weights, empty_moments(weights))
    work = StageWork(
        [np.arange(8)] * 8, (), index=0, warmup_epoch=4, last=False, patience=2,
        least_gain=least_gain,
    )  # fmt: skip
    left = []
    for step, skill in enumerate(skills, start=1):
        member.weights = Weights({}, {"step": torch.tensor(step)})
        member.moments = Moments(weights, weights, step)
        member.examine(step, skill, work)
        left.append(member.left_early)
    return member, left


def test_who_has_not_improved_twice_in_a_row_leaves() -> None:
    assert _examined(0.6, 0.7, 0.6, 0.7)[1] == [False, False, False, True]
    assert _examined(0.6, 0.6, 0.7, 0.7, 0.8)[1] == [False] * 5
    assert _examined(*[0.6] * 7, 0.6)[1][1:3] == [False, True]
    assert not _examined(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.5, 0.5)[1][-1], "the end is no early end"


def test_small_gains_count_only_once_they_add_up_to_the_least() -> None:
    assert _examined(0.60, 0.62, 0.64, least_gain=0.05)[1] == [False, False, True]
    assert _examined(0.60, 0.64, 0.66, least_gain=0.05)[1] == [False] * 3


def test_the_best_weights_and_moments_seen_are_gone_back_to_whatever_they_gained() -> None:
    for skills in ((0.6, 0.62, 0.61), (0.6, 0.62, 0.62), (float("nan"), 0.1, float("nan"))):
        member, _ = _examined(*skills, least_gain=0.05)
        member.restore_best()
        assert (int(member.weights.extra["step"]), member.moments.step) == (2, 2)


def test_a_stage_anneals_from_the_genomes_own_first_step_to_its_last() -> None:
    weights, genome = Weights({}, {}), Genome(warmup=0.5)
    member = Member(genome, genome.lora_cfg, weights, empty_moments(weights))

    def work(steps: int, last: bool) -> StageWork:
        return StageWork([np.arange(8)] * steps, (), 1, warmup_epoch=4, last=last, patience=None)

    for steps, last in ((64, False), (8, True)):
        schedule = work(steps, last).schedule(member, start=100)
        found = schedule.warmup, schedule.decay_from, schedule.end
        assert found == (2, 100, 100 + steps)
    assert work(63, last=False).schedule(member, start=100).end is None


def test_dropout_is_each_genomes_own_and_each_runs_whatever_trains_beside_it() -> None:
    weights = Weights({"0.query": (torch.ones(2, 8), torch.zeros(6, 2))}, {})

    def drop(names: str, seed: int) -> torch.Tensor:
        lora = LoRAConfig(r=2, dropout=0.5)
        genomes = [Genome(id=name, lora_cfg=lora) for name in names]
        members = [Member(g, lora, weights, empty_moments(weights)) for g in genomes]
        pack = build_pack(members, seed, torch.device("cpu"))
        pack.training = True
        pack.begin_step(0)
        dropped = pack.dropout(torch.ones(len(names), 4, 8), "0.query")
        assert dropped is not None
        return dropped

    both = drop("ab", 0)
    assert not torch.equal(both[0], both[1])
    assert torch.equal(drop("ba", 0).flip(0), both)
    assert not torch.equal(drop("a", 1)[0], both[0])


def test_a_pack_trains_each_genome_at_its_adapters_scale() -> None:
    weights = Weights({"0.query": (torch.ones(4, 8), torch.zeros(6, 4))}, {})
    loras = [LoRAConfig(r=4, alpha=16), LoRAConfig(r=4, alpha=16, use_rslora=True)]
    members = [Member(Genome(), lora, weights, empty_moments(weights)) for lora in loras]
    pack = build_pack(members, 0, torch.device("cpu"))
    assert pack.scales.flatten().tolist() == [16 / 4, 16 / 4**0.5]
