"""The metrics by hand and against scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from coralx.train.objectives import (
    BLOCK,
    Floats,
    _mean_known,
    auroc,
    calibration,
    centre,
    false_positive_rate,
    interval,
    macro_auroc,
    resample,
    threshold_at_recall,
)


def _plain(count: int) -> NDArray[np.float64]:
    return np.ones((1, count))


def _auroc(scores: list[float], labels: list[int]) -> float:
    return float(auroc(np.array(scores), np.array(labels, np.int8), _plain(len(scores)))[0])


@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(1, 12))
def test_auroc_is_that_of_scikit_learn_with_ties_and_weights(
    seed: int, count: int, levels: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, count) / levels
    labels = np.array([0, 1, *rng.integers(0, 2, count - 2)], np.int8)
    weights = rng.integers(0, 3, (3, count)) + rng.random((3, count)) + 0.01
    expected = [roc_auc_score(labels, scores, sample_weight=w) for w in weights]
    assert auroc(scores, labels, weights) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("scores", "labels", "value"),
    [
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], 1.0),
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0], 0.0),
        ([0.5, 0.5, 0.5], [0, 1, 0], 0.5),
        ([0.1, 0.5, 0.5, 0.9], [0, 0, 1, 1], 0.875),  # 3 wins and a tie of 4 pairs
        ([0.3, 0.1, 0.2], [0, 1, 1], 0.0),
        ([0.3, 0.1, 0.4], [0, 1, 1], 0.5),
    ],
)
def test_auroc_by_hand(scores: list[float], labels: list[int], value: float) -> None:
    assert _auroc(scores, labels) == value


@pytest.mark.parametrize(("scores", "labels"), [([0.4], [1]), ([0.4, 0.5], [0, 0]), ([], [])])
def test_auroc_without_both_classes_is_nan(scores: list[float], labels: list[int]) -> None:
    assert np.isnan(_auroc(scores, labels))


@pytest.mark.parametrize("metric", [auroc, false_positive_rate, calibration, threshold_at_recall])
def test_scores_that_are_not_numbers_give_nan(metric: object) -> None:
    scores, labels = np.array([0.1, np.nan, 0.9]), np.array([0, 1, 1], np.int8)
    assert callable(metric)
    assert np.isnan(metric(scores, labels, np.ones((2, 3)))).tolist() == [True, True]


def test_a_score_that_is_no_number_spoils_the_macro_average_of_all_tasks() -> None:
    scores, labels = np.array([0.1, np.nan, 0.1, 0.9]), np.array([0, 1, 0, 1], np.int8)
    assert np.isnan(macro_auroc(scores, labels, _plain(4), np.array(["a", "a", "b", "b"])))


def test_threshold_catches_nine_of_ten_and_no_lower() -> None:
    scores, labels = np.arange(1, 11) / 10, np.ones(10, np.int8)
    assert threshold_at_recall(scores, labels, _plain(10)) == [0.2]
    assert threshold_at_recall(scores[:9], labels[:9], _plain(9)) == [0.1]  # 8 of 9 are too few


def test_threshold_ignores_safe_rows() -> None:
    scores, labels = np.array([0.1, 0.6, 0.7, 0.95]), np.array([0, 1, 0, 0], np.int8)
    assert threshold_at_recall(scores, labels, _plain(4)) == [0.6]


def test_false_positives_at_the_threshold_count_as_flagged() -> None:
    scores = np.array([0.9, 0.5, 0.5, 0.4, 0.6])  # threshold 0.5, where a safe row ties
    labels = np.array([1, 1, 0, 0, 0], np.int8)
    assert false_positive_rate(scores, labels, _plain(5)) == pytest.approx([2 / 3])


def test_false_positive_rate_follows_the_weights() -> None:
    scores = np.array([0.9, 0.5, 0.95, 0.4])
    labels = np.array([1, 1, 0, 0], np.int8)
    weights = np.array([[1, 1, 1, 1], [1, 1, 3, 1], [1, 0, 1, 1], [0, 2, 1, 0]], float)
    rates = false_positive_rate(scores, labels, weights)
    assert rates == pytest.approx([0.5, 0.75, 0.5, 1.0])


def test_calibration_by_hand() -> None:
    """0.1 and 0.12 share bin 1 of 15: gap 0.22 - 1; 0.9 is alone in bin 13: gap 0.9 - 1; and a
    score of one belongs to the last bin: gap 1 - 0."""
    scores, labels = np.array([0.1, 0.12, 0.9, 1.0]), np.array([0, 1, 1, 0], np.int8)
    error = (0.78 + 0.1 + 1.0) / 4
    assert calibration(scores, labels, _plain(4)) == pytest.approx([1 - error])


def test_gaps_of_one_bin_cancel_and_of_two_bins_do_not() -> None:
    labels = np.array([0, 1], np.int8)
    assert calibration(np.array([0.5, 0.5]), labels, _plain(2)) == pytest.approx([1.0])
    assert calibration(np.array([0.3, 0.7]), labels, _plain(2)) == pytest.approx([0.7])
    assert calibration(np.array([0.7, 0.3]), labels, _plain(2)) == pytest.approx([0.3])


def test_calibration_weighs_rows() -> None:
    scores, labels = np.array([0.2, 0.8]), np.array([0, 0], np.int8)
    assert calibration(scores, labels, np.array([[3.0, 1.0]])) == pytest.approx([1 - 1.4 / 4])


def test_macro_auroc_is_the_mean_over_tasks_of_both_classes() -> None:
    scores = np.array([0.1, 0.9, 0.9, 0.1, 0.5, 0.5, 0.7])
    labels = np.array([0, 1, 0, 1, 0, 1, 1], np.int8)
    tasks = np.array(["a", "a", "b", "b", "c", "c", "d"])  # 1, 0, 1/2; d has one class alone
    assert macro_auroc(scores, labels, _plain(7), tasks) == pytest.approx([0.5])
    kept = tasks != "b"
    assert macro_auroc(scores[kept], labels[kept], _plain(5), tasks[kept]) == [0.75]
    alone = tasks == "d"
    assert np.isnan(macro_auroc(scores[alone], labels[alone], _plain(1), tasks[alone])).all()


def test_a_task_whose_class_no_resample_drew_is_left_out_of_its_mean() -> None:
    scores, labels = np.array([0.1, 0.9, 0.9, 0.1]), np.array([0, 1, 0, 1], np.int8)
    weights = np.array([[1, 1, 1, 1], [1, 2, 1, 0]], float)
    assert macro_auroc(scores, labels, weights, np.array(["a", "a", "b", "b"])).tolist() == [0.5, 1]


def _weights(draws: int, seed: int, labels: NDArray[np.int8], salt: int = 0) -> Floats:
    return np.concatenate([block.weights(labels, salt) for block in resample(draws, seed)])


def test_resamples_are_stratified_and_begin_with_the_rows_themselves() -> None:
    labels = np.array([0] * 5 + [1] * 3, np.int8)
    weights = _weights(2 * BLOCK + 7, 1, labels)
    assert weights.shape == (2 * BLOCK + 8, 8)
    assert (weights[0] == 1).all()
    assert (weights[:, :5].sum(axis=1) == 5).all()
    assert (weights[:, 5:].sum(axis=1) == 3).all()
    assert weights[1:].std(axis=0).min() > 0.3
    assert (weights == np.round(weights)).all()
    assert not np.array_equal(weights[1 : 1 + BLOCK], weights[1 + BLOCK : 1 + 2 * BLOCK])


def test_resamples_depend_on_seed_and_salt_alone() -> None:
    labels = np.array([0, 1] * 10, np.int8)
    one = _weights(5, 1, labels, 2)
    assert np.array_equal(one, _weights(5, 1, labels, 2))
    assert not np.array_equal(one, _weights(5, 1, labels, 3))
    assert not np.array_equal(one, _weights(5, 2, labels, 2))


def test_no_draws_give_the_plain_value_alone() -> None:
    assert _weights(0, 0, np.array([0, 1], np.int8)).tolist() == [[1, 1]]


def test_no_more_resamples_are_held_at_once_than_a_block() -> None:
    blocks = list(resample(1000, 0))
    assert max(block.size for block in blocks) == BLOCK
    assert sum(block.size for block in blocks) == 1001


def test_the_interval_of_a_calibration_error_holds_its_value() -> None:
    """Of well calibrated rows nearly every resample is calibrated worse than the rows are."""
    rng = np.random.default_rng(0)
    outside = 0
    for _ in range(20):
        scores = rng.random(300)
        labels = (rng.random(300) < scores).astype(np.int8)
        drawn = calibration(scores, labels, _weights(200, 0, labels))
        outside += interval(drawn).high < drawn[0]
        found = interval(centre(drawn))
        assert found.low < found.value < found.high <= 1
        assert found.value == drawn[0]
    assert outside  # what centring is for


def test_centred_draws_go_no_higher_than_one() -> None:
    assert centre(np.array([0.9, 0.4, 0.7, 1.0])).tolist() == pytest.approx([0.9, 0.6, 0.9, 1.0])


def test_interval_holds_the_middle_of_the_draws() -> None:
    values = np.array([50.0, *range(101)])
    found = interval(values)
    assert (found.value, found.low, found.high) == pytest.approx((50, 2.5, 97.5))
    narrow = interval(values, level=0.5)
    assert (narrow.low, narrow.high) == pytest.approx((25, 75))


@pytest.mark.filterwarnings("error")
def test_resamples_that_lack_a_metric_leave_it_no_interval_and_no_warning() -> None:
    found = interval(np.array([0.3, np.nan]))
    assert found.value == 0.3
    assert np.isnan([found.low, found.high]).all()
    assert np.isnan(centre(np.array([0.3, np.nan]))).tolist() == [False, True]
    # The only resample has drawn one class of either task alone.
    scores, labels = np.array([0.2, 0.6, 0.3, 0.5]), np.array([0, 1, 0, 1], np.int8)
    weights = np.array([[1, 1, 1, 1], [2, 0, 0, 2]], np.float64)
    skill = macro_auroc(scores, labels, weights, np.array(["a", "a", "b", "b"]))
    assert skill[0] == 1
    assert np.isnan(skill[1])


def test_means_of_what_is_known_are_those_of_numpy_to_the_bit() -> None:
    rng = np.random.default_rng(0)
    for shape in ((7, 1), (7, 50), (2000,), (3, 500)):
        values = rng.normal(size=shape)
        values[rng.random(shape) < 0.2] = np.nan
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of columns of which nothing is known
            expected = np.nanmean(values, axis=0)
        np.testing.assert_array_equal(_mean_known(values), expected)


def test_interval_of_one_value_is_that_value() -> None:
    assert interval(np.array([0.3])).model_dump() == {"value": 0.3, "low": 0.3, "high": 0.3}


def test_bootstrap_interval_contains_the_value_and_narrows_with_rows() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for count in (100, 1600):
        labels = rng.integers(0, 2, count).astype(np.int8)
        scores = labels * 0.5 + rng.random(count)
        found = interval(auroc(scores, labels, _weights(200, 0, labels)))
        assert found.low < found.value < found.high
        widths.append(found.high - found.low)
    assert 3 < widths[0] / widths[1] < 5.5  # root of 16, about


def test_calibration_has_fifteen_bins() -> None:
    """0.34 and 0.39 share bin 5 of 15, where the gaps 0.34 and -0.61 set each other off in part;
    of 14 or 16 equal bins they do not. 0.06 and 0.07 lie either side of 1/15."""
    labels = np.array([0, 1], np.int8)
    shared = calibration(np.array([0.34, 0.39]), labels, _plain(2))
    parted = calibration(np.array([0.06, 0.07]), labels, _plain(2))
    assert shared == pytest.approx([1 - 0.27 / 2])
    assert parted == pytest.approx([1 - (0.06 + 0.93) / 2])
