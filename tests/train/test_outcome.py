"""What a stage is said to have cost."""

from __future__ import annotations

import pytest
import torch

from coralx.train.outcome import peak_memory


def test_peak_memory_is_of_the_device_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine may have a CUDA device that the run does not use."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda *_: 7)
    assert peak_memory(torch.device("cuda")) == 7
    assert peak_memory(torch.device("cpu")) > 2**20
