"""A genome in training: what it goes back to when it leaves a stage early."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from coralx.records import Genome
from coralx.train.adapters import Weights
from coralx.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from coralx.train.member import Member, StageWork, empty_moments


def test_what_was_best_before_its_first_step_can_be_saved(tmp_path: Path) -> None:
    """As a copy by exploit is, which is examined before it has moments: they must be two, or
    safetensors refuses to write them."""
    pair = torch.ones(2, 8), torch.zeros(6, 2)
    weights, genome = Weights({"0.query": pair}, {"head.weight": torch.ones(1, 8)}), Genome()
    member = Member(genome, genome.lora_cfg, weights, empty_moments(weights), 0)
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
