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


def by_queries(tracker, ids, classes, slots, embeddings=None):
    """Lasting ids of a frame's segments, in the order of `classes`, whose keys are the ids."""
    found = segments(np.asarray([ids], np.uint8), classes)
    lasting, named = tracker.update(np.asarray([ids], np.uint8), found, np.array(slots), embeddings)
    assert lasting[0].tolist() == [named[found.index(next(s for s in found if s.id == i))].id if i else 0 for i in ids]
    return [segment.id for segment in named]


def test_a_slot_keeps_its_id_wherever_its_mask_is():
    tracker = Tracker()
    assert by_queries(tracker, [1, 2, 0, 0], {1: 7, 2: 7}, [4, 9]) == [1, 2]
    assert by_queries(tracker, [0, 0, 1, 2], {1: 7, 2: 7}, [9, 4]) == [2, 1]
    assert by_queries(tracker, [0, 1, 0, 0], {1: 7}, [9]) == [2]
    assert by_queries(tracker, [0, 1, 0, 2], {1: 7, 2: 7}, [4, 5]) == [1, 3]  # 4 was not there for a frame
    assert by_queries(tracker, [0, 1, 0, 0], {1: 8}, [4]) == [4]  # of another class
    tracker.reset()
    assert by_queries(tracker, [1, 0, 0, 0], {1: 7}, [5]) == [5]


def test_queries_are_matched_by_their_embeddings():
    """As a whole, where two queries are nearest to the same one; a query that is absent for a frame gets a new id."""
    pytest.importorskip("scipy", reason="scipy is not installed")
    embeddings = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)
    tracker = Tracker()
    assert by_queries(tracker, [1, 2, 3], {1: 7, 2: 7, 3: 0}, [0, 1, 3], embeddings) == [1, 2, 3]
    turned = 5 * embeddings[[1, 2, 0]]
    assert by_queries(tracker, [1, 2, 3], {1: 7, 2: 7, 3: 0}, [0, 2, 3], turned) == [2, 1, 3]
    near = np.array([[9, 8, 0], [9, 1, 0], [0, 0, 1]], np.float32)  # both nearest to the first of the first frame
    assert by_queries(tracker, [1, 2, 0], {1: 7, 2: 7}, [0, 1], near) == [2, 1]
    assert by_queries(tracker, [1, 0, 0], {1: 7}, [1], near) == [1]
    assert by_queries(tracker, [1, 2, 0], {1: 7, 2: 7}, [0, 1], near) == [4, 1]


def test_another_tracker_goes_on_from_its_queries():
    pytest.importorskip("scipy", reason="scipy is not installed")
    rng = np.random.default_rng(0)
    base = rng.normal(size=(6, 8)).astype(np.float32)
    frames = [(rng.permutation(6), base + 0.1 * rng.normal(size=(6, 8)).astype(np.float32)) for _ in range(5)]

    def go(tracker, some):
        return [
            by_queries(tracker, [1, 2, 3], {1: 7, 2: 7, 3: 7}, np.argsort(order)[:3].tolist(), embeddings[order])
            for order, embeddings in some
        ]

    whole, one, two = Tracker(), Tracker(), Tracker()
    expected = go(whole, frames)
    assert expected == [[1, 2, 3]] * 5
    found = go(one, frames[:2])
    two.restore({name: array.copy() for name, array in one.state().items()})
    assert found + go(two, frames[2:]) == expected
    old = {name: array for name, array in Tracker().state().items() if name not in ("known", "embeddings")}
    Tracker().restore(old)
