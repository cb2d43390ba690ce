"""Counting and renumbering, against doing it pixel by pixel."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from m2f_ros.metrics.counting import joint_histogram, present, relabel

SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, max_side=6)
TYPES = st.sampled_from([np.uint8, np.uint16, np.int32, np.uint32])


@given(st.data(), SHAPES, TYPES, TYPES)
def test_joint_histogram(data, shape, a_type, b_type):
    a = data.draw(hnp.arrays(a_type, shape, elements=st.integers(0, 4)))
    b = data.draw(hnp.arrays(b_type, shape, elements=st.integers(0, 250)))
    counts = np.zeros((5, 251), int)
    for pair in zip(a.ravel(), b.ravel(), strict=True):
        counts[pair] += 1
    found = joint_histogram(a, b, 5, 251)
    assert found.dtype == np.int64
    assert (found == counts).all()


@given(st.data(), SHAPES, TYPES)
def test_present(data, shape, dtype):
    labels = data.draw(hnp.arrays(dtype, shape))
    assert present(labels).tolist() == sorted(set(labels.ravel().tolist()))


@given(st.data(), SHAPES, TYPES, st.dictionaries(st.integers(-1, 2**24), st.integers(0, 70000), max_size=5))
def test_relabel(data, shape, dtype, numbers):
    largest = np.iinfo(dtype).max
    known = sorted({min(max(i, 0), largest) for i in numbers} | {0, 7})
    ids = data.draw(hnp.arrays(dtype, shape, elements=st.sampled_from(known)))
    found = relabel(ids, numbers)
    assert found.shape == ids.shape
    assert found.ravel().tolist() == [numbers.get(i, 0) for i in ids.ravel().tolist()]
    assert found.dtype == np.min_scalar_type(max(numbers.values(), default=0))
