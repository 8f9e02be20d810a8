"""Splits, nested subsets and batches: counted by hand and as properties."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from coralx.errors import DataError
from coralx.sections import DEFAULT_STAGES, DataSettings
from coralx.train.data import (
    Splits,
    batches,
    count_batches,
    divide,
    load_splits,
    merge_rows,
    stage_steps,
    subset,
)
from coralx.train.rows import Rows

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


@given(any_rows(), SHARES, SEEDS)
def test_dividing_loses_and_repeats_nothing(rows: Rows, share: float, seed: int) -> None:
    rest, chosen = divide(rows, share, seed)
    assert sorted(rest.texts + chosen.texts) == sorted(rows.texts)
    assert len(chosen) == len(subset(rows, share, seed))


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


def test_steps_of_the_default_stages_by_hand() -> None:
    """8000 rows in batches of 8: 400, 1600, 8000, 8000 rows."""
    sizes = (400, 1600, 8000, 8000)
    steps = [stage_steps(s, rows, 8) for s, rows in zip(DEFAULT_STAGES, sizes, strict=True)]
    assert steps == pytest.approx([0.05 * 50, 0.3 * 200, 1000, 2000])
    assert [count_batches(rows, 8) for rows in (0, 1, 8, 9)] == [0, 1, 1, 2]


LENGTHS = np.random.default_rng(0).geometric(0.08, 1000).clip(3, 64).tolist()


@given(st.integers(1, 120), st.integers(1, 16), SEEDS)
def test_each_epoch_covers_every_row_once(count: int, size: int, seed: int) -> None:
    chosen = np.arange(count) * 3
    per_epoch = count_batches(count, size)
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


def _write(path: Path, labels: Sequence[int]) -> Path:
    rows = [{"text": f"{path.stem} {i}", "label": label} for i, label in enumerate(labels)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_shipped_splits_are_whole_and_apart(splits: Splits) -> None:
    assert len(splits.train) > 2000
    assert len(splits.clean_validation) == len(splits.clean_test) == 150
    assert not splits.clean_validation.labels.any()
    assert not set(splits.clean_validation.texts) & set(splits.clean_test.texts)
    parts = (splits.train, splits.validation, splits.test)
    pairs = [set(zip(part.texts, part.images, strict=True)) for part in parts]
    assert not pairs[0] & pairs[1]
    assert not pairs[0] & pairs[2]
    assert not pairs[1] & pairs[2]


def test_missing_splits_are_set_aside_from_the_training_rows(tmp_path: Path) -> None:
    path = _write(tmp_path / "train.jsonl", [0, 1] * 50)
    found = load_splits(DataSettings(train=path), seed=0)
    parts = (found.train, found.validation, found.test)
    assert [len(part) for part in parts] == [64, 16, 20]  # a fifth, then a fifth of the rest
    assert len({text for part in parts for text in part.texts}) == 100
    assert [int(part.labels.sum()) for part in parts] == [32, 8, 10]
    assert len(found.clean_validation) == len(found.clean_test) == 0
    other = load_splits(DataSettings(train=path), seed=1)
    assert other.test.texts != found.test.texts


@pytest.mark.parametrize("seed", range(3))
def test_copies_enlarge_no_share_that_is_set_aside(seed: int, tmp_path: Path) -> None:
    """120 texts, five times each: a fifth of the texts, then a fifth of the other 96."""
    rows = [{"text": f"t{i % 120}", "label": i % 2} for i in range(600)]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_splits(DataSettings(train=path), seed)
    assert [len(part) for part in (found.train, found.validation, found.test)] == [380, 100, 120]


def test_rows_left_out_are_told_and_counted(tmp_path: Path) -> None:
    """Bad ones, and those that another split has as well."""
    test = _write(tmp_path / "test.jsonl", [1, 0])
    train = _write(tmp_path / "train.jsonl", [0, 1] * 10 + [5] * 4)
    with train.open("a") as file:
        file.write(test.read_text())
    said: list[str] = []
    settings = DataSettings(train=train, test=test, on_bad_rows="skip")
    found = load_splits(settings, seed=0, say=said.append)
    bad, twice = said
    assert bad.startswith(f"warning: {train}: 4 of 26 rows left out: row 21: label must be 0 or 1")
    assert bad.endswith("; ...")
    row = f"row 21 of {train} is row 1 of {test}"
    assert twice.startswith(f"warning: {train}: 2 of 22 rows left out: {row}; row 22 of")
    assert found.left_out == {str(train): 6}
    assert not load_splits(DataSettings(), seed=0, say=said.append).left_out
    assert len(said) == 2


@pytest.mark.parametrize("column", ["image_column", "task_column"])
def test_a_named_column_that_no_file_has_is_refused(column: str, tmp_path: Path) -> None:
    path = _write(tmp_path / "train.jsonl", [0, 1] * 20)
    said = rf"data.{column}: must be a column of one of the files, got 'foto'; there are 'text', 'l"
    with pytest.raises(DataError, match=said):
        load_splits(DataSettings(train=path, **{column: "foto"}), seed=0)
    load_splits(DataSettings(train=path, **{column: None}), seed=0)


def test_optional_columns_can_be_switched_off() -> None:
    settings = DataSettings(image_column=None, task_column=None, max_rows=200)
    train = load_splits(settings, seed=0).train
    assert set(train.tasks) == {"all"}
    assert not any(train.images)
    assert DataSettings(image_column="none", task_column="none", max_rows=200) == settings


def test_pictures_that_are_only_measured_are_told(tmp_path: Path) -> None:
    train = _write(tmp_path / "train.jsonl", [0, 1] * 20)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    test = tmp_path / "test.jsonl"
    rows = [{"text": f"t{i}", "label": i, "image": "a.png"} for i in range(2)]
    test.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said: list[str] = []
    load_splits(DataSettings(train=train, test=test), seed=0, say=said.append)
    assert said == [
        f"warning: {test}: 2 test rows have a picture, and no training row has; the pictures are "
        "not looked at"
    ]
    said.clear()
    load_splits(DataSettings(train=train, test=test, image_column=None), seed=0, say=said.append)
    assert not said


def test_given_splits_are_taken_whole(tmp_path: Path) -> None:
    settings = DataSettings(
        train=_write(tmp_path / "train.jsonl", [0, 1] * 10),
        validation=_write(tmp_path / "validation.jsonl", [0, 1, 1]),
        test=_write(tmp_path / "test.jsonl", [1, 0]),
        clean_holdout=_write(tmp_path / "clean.jsonl", [0] * 5),
    )
    found = load_splits(settings, seed=0)
    assert len(found.train) == 20
    assert found.validation.labels.tolist() == [0, 1, 1]
    assert found.test.texts == ("test 0", "test 1")
    assert (len(found.clean_validation), len(found.clean_test)) == (2, 3)


def test_clean_rows_are_safe_ones_whether_labelled_or_not(tmp_path: Path) -> None:
    train = _write(tmp_path / "train.jsonl", [0, 1] * 20)
    clean = tmp_path / "clean.jsonl"
    clean.write_text('{"text": "a"}\n{"text": "b"}\n')
    found = load_splits(DataSettings(train=train, clean_holdout=clean), seed=0)
    assert len(found.clean_validation) == len(found.clean_test) == 1
    _write(clean, [0, 1])
    with pytest.raises(DataError, match=r"row 2: label is 1 \(unsafe\)"):
        load_splits(DataSettings(train=train, clean_holdout=clean), seed=0)


def test_max_rows_keeps_a_stratified_share(tmp_path: Path) -> None:
    path = _write(tmp_path / "train.jsonl", [0, 0, 0, 1] * 50)
    train = load_splits(DataSettings(train=path, max_rows=40), seed=0).train
    assert np.bincount(train.labels).tolist() == [30, 10]


@pytest.mark.parametrize("seed", range(8))
def test_max_rows_keeps_rare_strata(seed: int, tmp_path: Path) -> None:
    """Wherever the rare row stands, last but one as well, where spacing leaves one out."""
    labels = [0] * 900 + [1] + [0] * 20
    files = {name: tmp_path / f"{name}.jsonl" for name in ("train", "validation", "test")}
    settings = DataSettings(**{n: _write(p, labels) for n, p in files.items()}, max_rows=50)
    found = load_splits(settings, seed)
    for part in (found.train, found.validation, found.test):
        assert np.bincount(part.labels).tolist() == [49, 1]


def test_max_rows_below_the_number_of_strata_keeps_both_classes(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "label": int(i in (5, 45)), "task": f"id {i}"} for i in range(78)]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {name: _write(tmp_path / f"{name}.jsonl", [0, 1]) for name in ("validation", "test")}
    train = load_splits(DataSettings(train=path, **files, max_rows=8), seed=0).train
    assert len(train) == 8
    assert train.labels.any()
    assert not train.labels.all()


@pytest.mark.parametrize("label", [0, 1])
def test_rows_of_one_class_are_refused(label: int, tmp_path: Path) -> None:
    path = _write(tmp_path / "train.jsonl", [label] * 10)
    pattern = f"rows: both classes are needed, got {label * 6} unsafe and {6 - label * 6} safe of 6"
    with pytest.raises(DataError, match=pattern):
        load_splits(DataSettings(train=path), seed=0)


def test_a_given_split_of_one_class_is_refused_by_name(tmp_path: Path) -> None:
    settings = DataSettings(
        train=_write(tmp_path / "train.jsonl", [0, 1] * 10),
        validation=_write(tmp_path / "validation.jsonl", [1, 1]),
    )
    with pytest.raises(DataError, match="validation rows: both classes are needed, got 2 unsafe"):
        load_splits(settings, seed=0)
