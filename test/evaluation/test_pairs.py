"""Streams joined by stamp, against sorting all of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2f_ros.errors import EvaluationError
from m2f_ros.evaluation.pairs import DISORDER, ascending, join


@st.composite
def nearly_ascending(draw):
    """Stamps of which none comes more than DISORDER places late; some twice."""
    stamps = sorted(draw(st.lists(st.integers(0, 40), max_size=30)))
    keys = [i + draw(st.integers(0, DISORDER)) for i in range(len(stamps))]
    return [stamp for _, stamp in sorted(zip(keys, stamps, strict=True), key=lambda pair: pair[0])]


@given(st.dictionaries(st.sampled_from("abc"), nearly_ascending()))
def test_join_is_that_of_all_at_once(streams):
    items = {name: [(stamp, (name, i)) for i, stamp in enumerate(stamps)] for name, stamps in streams.items()}
    joined = list(join(items))
    assert [stamp for stamp, _ in joined] == sorted({stamp for stamps in streams.values() for stamp in stamps})
    for stamp, found in joined:
        first = {name: (name, stamps.index(stamp)) for name, stamps in streams.items() if stamp in stamps}
        assert found == first


def test_few_are_held_at_a_time():
    taken = 0

    def stream():
        nonlocal taken
        for stamp in range(1000):
            taken += 1
            yield stamp, None

    for stamp, _ in join({"a": stream()}):
        assert taken <= stamp + DISORDER + 2


def test_stamps_that_start_again_are_refused():
    stamps = [*range(100, 120), *range(100, 120)]
    with pytest.raises(EvaluationError, match=r"^/label: the stamp 100 comes after 1"):
        list(ascending(((stamp, None) for stamp in stamps), "/label"))
