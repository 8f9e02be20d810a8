"""Steps by hand: of stages, of subsets, and whole ones."""

from __future__ import annotations

import pytest

from coralx.settings.sections import DEFAULT_STAGES
from coralx.steps import count_batches, stage_steps, trained_steps, whole_steps


def test_stage_steps_are_unrounded() -> None:
    assert float(stage_steps(DEFAULT_STAGES[0], 137)) == 0.3425
    assert stage_steps(DEFAULT_STAGES[1], 1000) == 60  # 0.3 x 0.2 x 1000 is not, in floats


@pytest.mark.parametrize(
    ("rows", "batch", "expected"), [(1000, 8, 125), (1001, 8, 126), (3, 8, 1), (1, 1, 1), (0, 8, 0)]
)
def test_batches_round_up(rows: int, batch: int, expected: int) -> None:
    assert count_batches(rows, batch) == expected


def test_whole_steps_round_up_but_for_the_noise_of_floats() -> None:
    assert [whole_steps(steps) for steps in (0, 0.05, 2, 2.5)] == [0, 1, 2, 3]
    assert whole_steps(0.1 * 30) == 3  # 3.0000000000000004


def test_steps_of_the_default_stages_by_hand() -> None:
    """8000 rows in batches of 8: 400, 1600, 8000, 8000 rows."""
    subsets = [400, 1600, 8000, 8000]
    assert [count_batches(rows, 8) for rows in subsets] == [50, 200, 1000, 1000]
    assert [float(stage_steps(stage, 1000)) for stage in DEFAULT_STAGES] == [2.5, 60, 1000, 2000]
    whole = [trained_steps(*each, 8) for each in zip(DEFAULT_STAGES, subsets, strict=True)]
    assert whole == [3, 60, 1000, 2000]
