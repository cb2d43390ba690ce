"""Boundary F-score, against its definition pixel by pixel."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from m2f_ros.errors import FrameError
from m2f_ros.metrics import BoundaryScore

K = 3
LABELS = hnp.array_shapes(min_dims=2, max_dims=2, max_side=12).flatmap(
    lambda shape: st.tuples(*[hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, 255]))] * 2)
)


def outline(mask):
    """Pixels that differ from a neighbour to the right, below, or both."""
    height, width = mask.shape
    return [
        (y, x)
        for y in range(height)
        for x in range(width)
        if any(
            mask[y, x] != mask[j, i] for j, i in ((y, x + 1), (y + 1, x), (y + 1, x + 1)) if j < height and i < width
        )
    ]


def met(line, other, radius):
    return sum(any(math.dist(p, q) <= radius for q in other) for p in line)


@given(LABELS, st.floats(0, 0.5))
@settings(deadline=None)
def test_counts_and_scores_are_those_of_the_definition(labels, tolerance):
    truth, prediction = labels
    score = BoundaryScore(K, tolerance)
    score.update(truth, prediction)
    radius = math.ceil(tolerance * math.hypot(*truth.shape))
    for c in range(K):
        lines = [outline((mask == c) & (truth < K)) for mask in (truth, prediction)]
        counts = [len(lines[0]), met(*lines, radius), len(lines[1]), met(*lines[::-1], radius)]
        assert score.counts[c].tolist() == counts
        recall = counts[1] / counts[0] if counts[0] else 0
        precision = counts[3] / counts[2] if counts[2] else 0
        f = 2 * precision * recall / (precision + recall) if precision + recall else 0
        np.testing.assert_allclose(score.f_score()[c], f if counts[0] or counts[2] else math.nan, rtol=1e-12)


def test_many_classes_of_any_type():
    rng = np.random.default_rng(0)
    truth = np.kron(rng.integers(0, 300, (8, 9)), np.ones((6, 6), int))
    prediction = np.roll(truth, 2, 1)
    score = BoundaryScore(300, 0.05)
    score.update(truth.astype(np.uint16), prediction.astype(np.uint16), 65535)
    for c in np.unique(truth).tolist():
        alone = BoundaryScore(2, 0.05)
        alone.update((truth != c).astype(np.uint8), (prediction != c).astype(np.int32))
        assert score.counts[c].tolist() == alone.counts[0].tolist()
        assert score.counts[c].all()


def test_an_outline_one_pixel_aside_counts_within_the_tolerance_only():
    truth = np.zeros((50, 50), np.uint8)
    truth[:, 20:] = 1
    prediction = np.roll(truth, 3, 1)
    prediction[:, :3] = 0
    for radius, expected in ((2, 0.0), (3, 1.0)):
        score = BoundaryScore(2, radius / math.hypot(50, 50))
        score.update(truth, prediction)
        assert score.f_score().tolist() == [expected] * 2
        assert score.counts[:, 0].tolist() == [50, 50]


def test_edges():
    score = BoundaryScore(3)
    assert score.mean_f_score() is None
    score.update(np.zeros((9, 9), np.uint8), np.zeros((9, 9), np.uint8))
    assert score.mean_f_score() is None  # one class alone has no outline
    score.update(np.full((9, 9), 255, np.uint8), np.zeros((9, 9), np.uint8))
    assert score.mean_f_score() is None
    with pytest.raises(FrameError, match="ground truth is 9x8 but the prediction is 9x9"):
        score.update(np.zeros((8, 9), np.uint8), np.zeros((9, 9), np.uint8))
    with pytest.raises(ValueError, match="impossible"):
        BoundaryScore(3, -0.1)
