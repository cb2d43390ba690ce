"""Confusion counts and the scores from them, against counting by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from m2f_ros.errors import FrameError
from m2f_ros.metrics import Confusion

IDS = st.sampled_from([0, 1, 2, 3, 7, 254, 255])


@st.composite
def label_pairs(draw):
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=6))
    dtypes = st.sampled_from([np.uint8, np.uint16, np.int32])
    return tuple(draw(hnp.arrays(draw(dtypes), shape, elements=IDS)) for _ in range(2))


def by_hand(pairs, k, unlabelled):
    """Confusion matrix of all pairs, one pixel at a time."""
    matrix = np.zeros((k, k + 1), np.int64)
    for truth, prediction in pairs:
        for t, p in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
            if t < k and t != unlabelled:
                matrix[t, p if p < k and p != unlabelled else k] += 1
    return matrix


@given(st.lists(label_pairs(), max_size=3), st.integers(1, 9), st.sampled_from([255, 3]))
def test_counts_and_scores_are_those_counted_by_hand(pairs, k, unlabelled):
    confusion = Confusion(k)
    for truth, prediction in pairs:
        confusion.update(truth, prediction, unlabelled)
    matrix = by_hand(pairs, k, unlabelled)
    assert confusion.matrix.dtype == np.int64
    assert (confusion.matrix == matrix).all()

    scores = []
    for c in range(k):
        union = matrix[c].sum() + matrix[:, c].sum() - matrix[c, c]
        scores.append(matrix[c, c] / union if union else math.nan)
    np.testing.assert_array_equal(confusion.iou(), scores)
    present = [s for s in scores if not math.isnan(s)]
    assert confusion.miou() == (pytest.approx(sum(present) / len(present)) if present else None)
    for of, per_class in (
        (matrix.sum(axis=1), confusion.accuracy()),
        (matrix[:, :k].sum(axis=0), confusion.precision()),
    ):
        shares = [matrix[c, c] / n if n else math.nan for c, n in enumerate(of.tolist())]
        np.testing.assert_array_equal(per_class, shares)
    shares = [share for share in confusion.accuracy().tolist() if not math.isnan(share)]
    assert confusion.mean_accuracy() == (pytest.approx(sum(shares) / len(shares)) if shares else None)
    total = matrix.sum()
    weighted = sum(matrix[c].sum() / total * scores[c] for c in range(k) if matrix[c].any()) if total else None
    assert confusion.frequency_weighted_iou() == (pytest.approx(weighted) if total else None)
    accuracy = sum(matrix[c, c] for c in range(k)) / total if total else None
    assert confusion.pixel_accuracy() == (pytest.approx(accuracy) if total else None)


def test_unlabelled_prediction_is_wrong_and_unlabelled_truth_is_not_counted():
    confusion = Confusion(2)
    confusion.update(np.uint8([[0, 0, 1, 255]]), np.uint8([[0, 255, 1, 0]]))
    assert confusion.matrix.tolist() == [[1, 0, 1], [0, 1, 0]]
    assert confusion.iou().tolist() == [0.5, 1.0]
    assert confusion.miou() == 0.75
    assert confusion.pixel_accuracy() == pytest.approx(2 / 3)


def test_uint8_ids_do_not_overflow_with_many_classes():
    confusion = Confusion(255)
    confusion.update(np.full((2, 2), 254, np.uint8), np.full((2, 2), 253, np.uint8))
    assert confusion.matrix[254, 253] == 4
    assert confusion.matrix.sum() == 4


def test_nothing_counted_has_no_score():
    confusion = Confusion(3)
    confusion.update(np.full((4, 4), 255, np.uint8), np.zeros((4, 4), np.uint8))
    assert np.isnan(confusion.iou()).all()
    assert confusion.miou() is None
    assert confusion.pixel_accuracy() is None
    assert confusion.mean_accuracy() is None
    assert confusion.frequency_weighted_iou() is None


def test_all_types_and_layouts_of_labels_count_alike(street):
    counts = []
    for convert in (np.uint8, np.uint16, np.int64, np.asfortranarray):
        confusion = Confusion(19)
        for shot in street:
            confusion.update(convert(shot.truth), convert(shot.prediction))
        counts.append(confusion.matrix.tolist())
    assert counts[1:] == counts[:1] * 3


def test_more_pixels_than_float32_can_count():
    side = 4100  # 16 810 000 pixels; float32 stops counting at 16 777 216
    confusion = Confusion(2)
    confusion.update(np.ones((side, side), np.uint8), np.ones((side, side), np.uint8))
    assert confusion.matrix.tolist() == [[0, 0, 0], [0, side * side, 0]]


def test_clear_refusals():
    confusion = Confusion(3)
    with pytest.raises(FrameError, match="ground truth is 3x2 but the prediction is 2x3"):
        confusion.update(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))
    with pytest.raises(FrameError, match=r"ground truth is of shape \(2, 3, 1\) but"):
        confusion.update(np.zeros((2, 3, 1), np.uint8), np.zeros((2, 3), np.uint8))
    with pytest.raises(FrameError, match="prediction must hold integer labels, not float32"):
        confusion.update(np.zeros((2, 3), np.uint8), np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="at least one class"):
        Confusion(0)
