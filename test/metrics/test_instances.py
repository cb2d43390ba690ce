"""Instance-level IoU, against its definition pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from m2f_ros.errors import FrameError
from m2f_ros.frame.segment import Segment
from m2f_ros.metrics import Confusion, InstanceIou

K, THINGS = 4, [1, 3]


@st.composite
def images(draw):
    """Predicted labels, true ids, segments and, from those, true labels."""
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=6))
    prediction = draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, 255])))
    ids = draw(hnp.arrays(np.uint16, shape, elements=st.integers(0, 4)))
    segments = [Segment(i, draw(st.sampled_from([0, 1, 3])), crowd=draw(st.booleans())) for i in range(1, 5)]
    truth = np.choose(ids, [255, *(s.train_id for s in segments)]).astype(np.uint8)
    return prediction, ids, segments, truth


@given(st.lists(images(), max_size=3), st.booleans())
@settings(deadline=None)
def test_scores_are_those_of_the_definition(drawn, given_sizes):
    confusion, instances = Confusion(K), InstanceIou(K, THINGS)
    shares, areas = {c: [] for c in THINGS}, {c: [] for c in THINGS}
    false_positives = dict.fromkeys(THINGS, 0)
    for prediction, ids, segments, truth in drawn:
        confusion.update(truth, prediction)
        instances.update(prediction, ids, segments)
        for s in segments:
            pixels = prediction[ids == s.id]
            if s.train_id in THINGS and not s.crowd and len(pixels):
                areas[s.train_id].append(len(pixels))
                shares[s.train_id].append(sum(p == s.train_id for p in pixels.tolist()) / len(pixels))
        for c in THINGS:
            false_positives[c] += int(((prediction == c) & (truth != c) & (truth != 255)).sum())
    sizes = {1: 5.5, 3: 80.0} if given_sizes else None
    found = instances.iiou(confusion, sizes)
    for c in THINGS:
        size = sizes[c] if sizes else np.mean(areas[c]) if areas[c] else 0
        union = size * len(areas[c]) + false_positives[c]
        np.testing.assert_allclose(found[c], size * sum(shares[c]) / union if union else np.nan, rtol=1e-12)
    assert np.isnan(found[[0, 2]]).all()


def test_a_missed_small_object_weighs_as_much_as_a_large_one():
    ids = np.zeros((10, 12), np.uint8)
    ids[:, :10], ids[0, 11] = 1, 2
    truth, prediction = np.where(ids > 0, 1, 0).astype(np.uint8), np.where(ids == 1, 1, 0).astype(np.uint8)
    confusion, instances = Confusion(2), InstanceIou(2, [1])
    confusion.update(truth, prediction)
    instances.update(prediction, ids, [Segment(1, 1), Segment(2, 1)])
    assert confusion.iou()[1] == pytest.approx(100 / 101)
    assert instances.mean_iiou(confusion) == 0.5


def test_nothing_counted_and_refusals():
    instances = InstanceIou(2, [1])
    assert instances.mean_iiou(Confusion(2)) is None
    with pytest.raises(FrameError, match="ground truth is 3x2 but the prediction is 2x3"):
        instances.update(np.zeros((3, 2), np.uint8), np.zeros((2, 3), np.uint8), [])
    with pytest.raises(ValueError, match="not all among classes"):
        InstanceIou(2, [-1])
