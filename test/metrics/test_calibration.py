"""Expected calibration error, against Guo et al.'s definition pixel by pixel."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from m2f_ros.errors import FrameError
from m2f_ros.metrics import Calibration

SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)


@given(st.data(), SHAPES, st.integers(1, 20))
def test_error_is_that_of_the_definition(data, shape, bins):
    labels = hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 255]))
    truth, prediction = data.draw(labels), data.draw(labels)
    confidence = data.draw(hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 17, 51, 127, 170, 254, 255])))
    calibration = Calibration(2)
    calibration.update(truth, prediction, confidence)

    members = [[] for _ in range(bins)]
    for t, p, c in zip(truth.flat, prediction.flat, confidence.flat, strict=True):
        if t < 2:
            share = Fraction(int(c), 255)
            members[max(math.ceil(share * bins) - 1, 0)].append((share, t == p))
    full = [m for m in members if m]
    assert calibration.reliability(bins) == [
        (pytest.approx(float(sum(c for c, _ in m) / len(m))), pytest.approx(sum(r for _, r in m) / len(m)), len(m))
        for m in full
    ]
    total = sum(map(len, full))
    error = sum(abs(sum(r for _, r in m) - sum(c for c, _ in m)) for m in full) / total if total else None
    assert calibration.ece(bins) == (None if error is None else pytest.approx(float(error), abs=1e-12))


def test_certain_and_half_right():
    calibration = Calibration(2)
    calibration.update(np.uint8([[0, 1, 1, 255]]), np.uint8([[0, 0, 255, 0]]), np.uint8([[255, 255, 0, 255]]))
    assert calibration.reliability() == [(0.0, 0.0, 1), (1.0, 0.5, 2)]
    assert calibration.ece() == pytest.approx(1 / 3)


def test_refusals():
    labels = np.zeros((2, 3), np.uint8)
    with pytest.raises(FrameError, match=r"confidence must be uint8 of the labels' shape \(2, 3\), not float32"):
        Calibration(2).update(labels, labels, labels.astype(np.float32))
    with pytest.raises(FrameError, match=r"not uint8 \(3, 2\)"):
        Calibration(2).update(labels, labels, labels.T)
    assert Calibration(2).ece() is None
