"""Ids that last, against a plain loop over segments and pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from m2f_ros.model.heads import Segment
from m2f_ros.pipeline import Tracker


def segments(ids, classes):
    """Segments of a map of ids; `classes` by id."""
    found = [int(i) for i in np.unique(ids) if i]
    return [Segment(i, classes[i], 0.9, int((ids == i).sum()), (0, 0, 1, 1)) for i in found]


def update(tracker, ids, classes):
    ids = np.asarray(ids, np.uint8)
    lasting, found = tracker.update(ids, segments(ids, classes))
    assert lasting.dtype == np.uint16
    for before, after in zip(segments(ids, classes), found, strict=True):
        assert after == before._replace(id=after.id)
        assert np.array_equal(lasting == after.id, ids == before.id)
    assert np.array_equal(lasting == 0, ids == 0)
    return lasting.tolist()


def test_a_segment_that_moves_keeps_its_id():
    tracker = Tracker(min_iou=0.3)
    assert update(tracker, [[0, 1, 1, 0, 0]], {1: 7}) == [[0, 1, 1, 0, 0]]
    assert update(tracker, [[2, 0, 1, 1, 0]], {1: 7, 2: 7}) == [[2, 0, 1, 1, 0]]  # 1/3 in common
    assert update(tracker, [[1, 0, 0, 2, 2]], {1: 7, 2: 7}) == [[2, 0, 0, 1, 1]]
    assert update(tracker, [[0, 0, 1, 0, 0]], {1: 7}) == [[0, 0, 3, 0, 0]]  # nothing in common


@given(st.lists(arrays(np.uint8, (3, 4), elements=st.integers(0, 3)), min_size=2, max_size=6), st.data())
def test_another_tracker_goes_on_from_its_state(frames, data):
    whole, classes = Tracker(), {i: 7 for i in range(4)}
    expected = [update(whole, ids, classes) for ids in frames]
    number = data.draw(st.integers(0, len(frames) - 1))
    one, two = Tracker(), Tracker()
    found = [update(one, ids, classes) for ids in frames[:number]]
    two.restore(one.state())
    assert found + [update(two, ids, classes) for ids in frames[number:]] == expected


def test_another_class_is_another_segment():
    tracker = Tracker()
    update(tracker, [[1, 1]], {1: 7})
    assert update(tracker, [[1, 1]], {1: 8}) == [[2, 2]]


def test_the_one_with_most_in_common_goes_on():
    tracker = Tracker()
    update(tracker, [[1, 1, 1, 1, 1]], {1: 7})
    assert update(tracker, [[1, 1, 2, 2, 2]], {1: 7, 2: 7}) == [[2, 2, 1, 1, 1]]
    assert update(tracker, [[3, 3, 3, 3, 3]], {3: 7}) == [[1, 1, 1, 1, 1]]


def test_too_little_in_common():
    for least, expected in ((0.2, 1), (0.21, 2)):
        tracker = Tracker(min_iou=least)
        update(tracker, [[1, 1, 1, 0, 0]], {1: 7})
        assert update(tracker, [[0, 0, 1, 1, 1]], {1: 7})[0][2] == expected


def test_one_that_comes_back_is_new():
    tracker = Tracker()
    update(tracker, [[1]], {1: 7})
    update(tracker, [[0]], {})
    assert update(tracker, [[1]], {1: 7}) == [[2]]


@pytest.mark.parametrize("jump", [lambda tracker: tracker.reset(), lambda tracker: update(tracker, [[0, 0]], {})])
def test_a_reset_and_another_size_begin_with_new_ids(jump):
    tracker = Tracker()
    update(tracker, [[1]], {1: 7})
    jump(tracker)
    assert update(tracker, [[1]], {1: 7}) == [[2]]


@pytest.mark.heavy
def test_ids_wrap_below_65536_and_skip_what_is_still_there():
    tracker = Tracker()
    update(tracker, [[1, 0]], {1: 7})  # stays 1 throughout
    seen = []
    for i in range(65540):
        one = 2 + i % 2  # of a class other than the one before it
        ids = np.array([[1, one]], np.uint8)
        lasting, _ = tracker.update(ids, [Segment(1, 7, 0.9, 1, (0, 0, 1, 1)), Segment(one, one, 0.9, 1, (1, 0, 1, 1))])
        assert lasting[0, 0] == 1
        seen.append(int(lasting[0, 1]))
    assert seen == [*range(2, 65536), *range(2, 8)]


def test_the_map_cannot_be_changed_under_the_tracker():
    lasting, _ = Tracker().update(np.array([[1]], np.uint8), [Segment(1, 7, 0.9, 1, (0, 0, 1, 1))])
    with pytest.raises(ValueError, match="read-only"):
        lasting[0, 0] = 9


class Oracle:
    """The same by the definition."""

    def __init__(self, min_iou):
        self.min_iou = min_iou
        self.newest = 0
        self.before = {}  # id -> class and pixels

    def update(self, ids, classes):
        now = {i: (classes[i], {tuple(p) for p in np.argwhere(ids == i)}) for i in sorted(set(ids.flat) - {0})}
        pairs = []
        for a, (old_class, old) in self.before.items():
            for b, (new_class, new) in now.items():
                iou = len(old & new) / len(old | new)
                if old_class == new_class and iou > 0 and iou >= self.min_iou:
                    pairs.append((-iou, list(self.before).index(a), list(now).index(b), a, b))
        names = {}
        for *_, a, b in sorted(pairs):
            if a not in names.values() and b not in names:
                names[b] = a
        for b in now:
            if b not in names:
                self.newest += 1
                names[b] = self.newest
        self.before = {names[b]: segment for b, segment in now.items()}
        return np.array([[names.get(i, 0) for i in row] for row in ids.tolist()])


maps = arrays(np.uint8, (4, 5), elements=st.integers(0, 5))


@given(st.lists(maps, min_size=1, max_size=6), st.lists(st.integers(0, 1), min_size=6, max_size=6), st.floats(0, 1))
def test_equals_the_loop(frames, classes, min_iou):
    tracker, oracle = Tracker(min_iou), Oracle(min_iou)
    for ids in frames:
        found, _ = tracker.update(ids, segments(ids, classes))
        np.testing.assert_array_equal(found, oracle.update(ids, classes))
