"""Nested subsets and batches: counted by hand and as properties."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coralx.settings.sections import DEFAULT_STAGES
from coralx.train.data import (
    batches,
    merge_rows,
    subset,
)
from coralx.train.rows import Rows
from coralx.train.splits import Splits

SHARES = st.floats(0.1, 100)
SEEDS = st.integers(0, 2**31)


def _rows(labels: Sequence[int], pictures: Sequence[bool], tasks: Sequence[str]) -> Rows:
    texts = tuple(f"row {i}" for i in range(len(labels)))
    images = tuple(b"x" if shown else None for shown in pictures)
    return Rows(texts, np.array(labels, np.int8), tuple(tasks), images)


@st.composite
def any_rows(draw: st.DrawFn) -> Rows:
    kinds = st.tuples(st.integers(0, 1), st.booleans(), st.sampled_from("ab"))
    drawn = draw(st.lists(kinds, min_size=1, max_size=80))
    return _rows(*zip(*drawn, strict=True))


@given(any_rows(), SHARES, SHARES, SEEDS)
def test_subsets_are_nested(rows: Rows, one: float, two: float, seed: int) -> None:
    small, large = (set(subset(rows, share, seed)) for share in sorted((one, two)))
    assert small <= large


@given(any_rows(), SHARES, SEEDS)
def test_subsets_are_stratified(rows: Rows, share: float, seed: int) -> None:
    whole = Counter(rows.strata())
    found = Counter(rows.take(subset(rows, share, seed)).strata())
    assert found == {key: int(np.ceil(n * share / 100 - 1e-9)) for key, n in whole.items()}


@given(any_rows(), SEEDS)
def test_the_whole_subset_is_every_row_in_order(rows: Rows, seed: int) -> None:
    assert subset(rows, 100, seed).tolist() == list(range(len(rows)))


def test_subsets_by_hand() -> None:
    rows = _rows([0] * 60 + [1] * 40, [False] * 100, ["t"] * 100)
    chosen = rows.take(subset(rows, 5, 0))
    assert np.bincount(chosen.labels).tolist() == [3, 2]
    assert np.bincount(rows.take(subset(rows, 20, 0)).labels).tolist() == [12, 8]
    assert np.bincount(rows.take(subset(rows, 0.1, 0)).labels).tolist() == [1, 1]


def test_subsets_depend_on_the_seed_alone() -> None:
    rows = _rows([0, 1] * 50, [False] * 100, ["t"] * 100)
    assert subset(rows, 20, 1).tolist() == subset(rows, 20, 1).tolist()
    assert subset(rows, 20, 1).tolist() != subset(rows, 20, 2).tolist()


def test_shipped_subsets_of_all_stages_are_nested_and_as_large_as_stated(splits: Splits) -> None:
    strata = Counter(splits.train.strata())
    before: set[int] = set()
    for stage in DEFAULT_STAGES:
        chosen = set(subset(splits.train, stage.data_percentage, 0).tolist())
        exact = len(splits.train) * stage.data_percentage / 100
        assert exact <= len(chosen) <= exact + len(strata)
        assert before <= chosen
        before = chosen


LENGTHS = np.random.default_rng(0).geometric(0.08, 1000).clip(3, 64).tolist()


@given(st.integers(1, 120), st.integers(1, 16), SEEDS)
def test_each_epoch_covers_every_row_once(count: int, size: int, seed: int) -> None:
    chosen = np.arange(count) * 3
    per_epoch = -(-count // size)
    cut = batches(chosen, LENGTHS, size, 3 * per_epoch, [seed, 0])
    for epoch in range(3):
        own = cut[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(np.concatenate(own)) == chosen.tolist()
        assert max(len(batch) for batch in own) <= size


@pytest.mark.parametrize("steps", [0, 1, 12, 13, 30])
def test_there_are_as_many_batches_as_steps_and_longer_plans_begin_alike(steps: int) -> None:
    chosen = np.arange(100)
    cut = batches(chosen, LENGTHS, 8, steps, [0, 1])
    longer = batches(chosen, LENGTHS, 8, 40, [0, 1])
    assert len(cut) == steps
    assert all(np.array_equal(a, b) for a, b in zip(cut, longer, strict=False))


def test_batches_depend_on_the_key_alone() -> None:
    chosen = np.arange(100)

    def flat(key: list[int]) -> list[int]:
        return np.concatenate(batches(chosen, LENGTHS, 8, 13, key)).tolist()  # type: ignore[no-any-return]

    assert flat([1, 2]) == flat([1, 2])
    assert flat([1, 2]) != flat([1, 3])
    assert flat([1, 2]) != flat([2, 2])


def test_epochs_are_shuffled_anew() -> None:
    cut = batches(np.arange(64), LENGTHS, 8, 16, [0])
    assert np.concatenate(cut[:8]).tolist() != np.concatenate(cut[8:]).tolist()


def _padding(cut: Sequence[Any]) -> float:
    """Share of a batch's tokens that carry no meaning."""
    full = sum(len(batch) * max(LENGTHS[i] for i in batch) for batch in cut)
    return 1 - sum(LENGTHS[i] for batch in cut for i in batch) / full


def test_length_buckets_pad_far_less_than_chance() -> None:
    chosen = np.arange(1000)
    bucketed = _padding(batches(chosen, LENGTHS, 8, 125, [0]))
    order = np.random.default_rng(0).permutation(chosen)
    random = _padding([order[i : i + 8] for i in range(0, 1000, 8)])
    assert bucketed < 0.25
    assert random > 0.4


def test_batches_come_in_no_order_of_length() -> None:
    """Sorted batches would train on short rows first."""
    cut = batches(np.arange(128), LENGTHS, 8, 16, [0])
    longest = [max(LENGTHS[i] for i in batch) for batch in cut]
    assert longest != sorted(longest)
    assert abs(np.corrcoef(longest, range(16))[0, 1]) < 0.7


def test_merged_parts_lie_where_they_should() -> None:
    one, two = _rows([0, 1], [False] * 2, "ab"), _rows([1], [True], "c")
    rows, places = merge_rows([one, one.take([]), two])
    assert [rows.take(own).tasks for own in places] == [("a", "b"), (), ("c",)]
    assert rows.labels.tolist() == [0, 1, 1]


def test_batches_of_one_bucket_come_in_no_order_of_length() -> None:
    for seed in range(3):
        cut = batches(np.arange(64), LENGTHS, 8, 8, [seed])
        longest = [max(LENGTHS[i] for i in batch) for batch in cut]
        assert longest != sorted(longest)


def test_a_share_that_is_a_whole_number_of_rows_is_not_rounded_up_by_its_last_digit() -> None:
    rows = _rows([0] * 250, [False] * 250, ["t"] * 250)
    assert 250 * 64.4 / 100 > 161
    assert len(subset(rows, 64.4, 0)) == 161
