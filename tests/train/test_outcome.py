"""What a stage is said to have cost, and what the gates are told of it."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from scipy import stats

from coralx.records import Cost, Genome
from coralx.steps import LEAST_LOSSES, LEAST_NORMS
from coralx.train.adapters import Weights
from coralx.train.member import Member, empty_moments
from coralx.train.outcome import (
    Clock,
    add_lost,
    describe_training,
    peak_memory,
    slope_t,
)


def test_peak_memory_is_of_the_device_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine may have a CUDA device that the run does not use."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda *_: 7)
    assert peak_memory(torch.device("cuda")) == 7
    assert peak_memory(torch.device("cpu")) > 2**20


def test_the_busy_share_is_of_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds of four threads, of which four seconds of processors were worked in."""
    clock, wall, used = Clock(), time.perf_counter(), time.process_time()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(time, "perf_counter", lambda: wall + 2)
    monkeypatch.setattr(time, "process_time", lambda: used + 4)
    assert clock.busy_share() == pytest.approx(0.5, abs=0.01)


def test_what_was_for_nothing_is_added() -> None:
    """Counts add up; of the seconds of all, what was not evaluation was training."""
    own = Cost(steps=4, tokens=40, computed_tokens=50, flops=1e3, train_seconds=1, eval_seconds=2)
    other = Cost(steps=3, tokens=30, computed_tokens=35, flops=1e2, train_seconds=5, eval_seconds=1)
    total = add_lost(own, [other, other], seconds=20.0)
    assert (total.steps, total.lost_steps, total.kept_steps) == (10, 6, 4)
    assert (total.tokens, total.computed_tokens, total.flops) == (100, 120, 1200)
    assert (total.eval_seconds, total.train_seconds) == (4, 16)
    assert add_lost(own, [], seconds=20.0) == own
    again = add_lost(total, [other], seconds=30.0)
    assert (again.lost_steps, again.kept_steps) == (9, 4), "whatever was lost before"


def _make_member(losses: list[float], norms: list[float]) -> Member:
    genome, none = Genome(id="a"), Weights({}, {})
    member = Member(genome, genome.lora_cfg, none, empty_moments(none))
    member.losses, member.norms = losses, norms
    return member


def test_the_gates_are_told_the_median_norm_of_enough_steps() -> None:
    assert describe_training(_make_member([0.7] * 3, [1.0, 2.0, 9.0])) == {"grad_norm": 2.0}
    assert describe_training(_make_member([0.7] * 2, [1.0, 9.0])) == {}
    assert (LEAST_NORMS, LEAST_LOSSES) == (3, 8)


@pytest.mark.parametrize("trend", [-0.1, 0.1])
def test_how_surely_a_loss_rises_is_the_t_of_its_regression(trend: float) -> None:
    losses = (np.random.default_rng(0).random(20) + trend * np.arange(20)).tolist()
    fit = stats.linregress(range(20), losses)
    found = describe_training(_make_member(losses, []))
    assert found == {"loss_slope_t": pytest.approx(fit.slope / fit.stderr)}
    assert (found["loss_slope_t"] > 0) is (trend > 0)
    assert slope_t([0.5] * 9) == 0
