"""Peak bytes of small programs, counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from coralx.train.memory import PeakBytes, measure_peak

KB = 4 * 256  # 256 numbers of four bytes


def _make(kilobytes: int) -> torch.Tensor:
    return torch.zeros(kilobytes * 256)


def test_one_tensor_is_its_bytes() -> None:
    assert measure_peak(lambda: _make(3)) == 3 * KB
    assert measure_peak(lambda: torch.zeros(10, dtype=torch.float64)) == 80
    assert measure_peak(lambda: torch.zeros(10, dtype=torch.bool)) == 10


def test_nothing_made_is_nothing() -> None:
    x = _make(2)
    assert measure_peak(lambda: None) == 0
    assert measure_peak(lambda: x.add_(1)) == 0
    assert measure_peak(lambda: x.view(2, -1).T[0]) == 0


def test_tensors_alive_together_add_up() -> None:
    def run() -> list[torch.Tensor]:
        return [_make(1), _make(2), _make(4)]

    assert measure_peak(run) == 7 * KB


def test_freed_tensors_make_room() -> None:
    def run() -> None:
        first = _make(5)
        del first
        second = _make(3)
        third = second + 1  # 3 + 3
        del second, third
        _make(4)

    assert measure_peak(run) == 6 * KB


def test_a_view_keeps_its_storage_alive() -> None:
    def run() -> torch.Tensor:
        part = _make(4)[:1]
        return part + _make(2)[0]  # 4 and 2 alive, and one number more

    assert measure_peak(run) == 6 * KB + 4


def test_temporaries_of_an_expression_count() -> None:
    x = _make(2)
    # x + 1 and x + 2 are both alive when their product is made
    assert measure_peak(lambda: (x + 1) * (x + 2)) == 6 * KB


def test_in_place_operations_make_nothing_new() -> None:
    x = _make(2)
    assert measure_peak(lambda: (x + 1).mul_(2).relu_()) == 2 * KB


def test_what_was_alive_before_does_not_count() -> None:
    weights = nn.Linear(256, 256, bias=False)
    x = torch.zeros(1, 256)
    assert measure_peak(lambda: weights(x)) == KB


def test_no_graph_is_kept() -> None:
    layers = nn.Sequential(*(nn.Linear(256, 256, bias=False) for _ in range(8)))
    x = torch.zeros(1, 256)
    assert measure_peak(lambda: layers(x)) == 2 * KB  # one layer's input and output


def test_two_measurements_of_one_program_agree() -> None:
    def run() -> torch.Tensor:
        return torch.softmax(_make(2).view(2, 256) @ torch.ones(256, 64), dim=-1)

    assert measure_peak(run) == measure_peak(run) > 2 * KB


def test_the_peak_stays_after_tensors_are_freed() -> None:
    with PeakBytes() as counter:
        x = _make(2)
        del x
        assert counter.peak == 2 * KB
        y = _make(1)
    del y
    assert counter.peak == 2 * KB


@pytest.mark.parametrize("rows", [1, 4])
def test_the_peak_grows_with_the_batch(rows: int) -> None:
    layer = nn.Linear(256, 512, bias=False)
    x = torch.zeros(rows, 256)
    assert measure_peak(lambda: layer(x).relu()) == rows * 4 * KB
