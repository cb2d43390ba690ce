"""Messages by stamps: which are kept, and which is nearest to a frame. Needs no ROS."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from m2f_ros.node.segmentation.space.stamped import EXPECTED, JUMP, KEPT, Stamped

MS = 1_000_000


def filled(*stamps: int) -> Stamped[int]:
    messages: Stamped[int] = Stamped()
    for stamp in stamps:
        messages.put(stamp, stamp)
    return messages


@given(st.lists(st.integers(0, JUMP), max_size=KEPT, unique=True), st.integers(0, JUMP), st.integers(0, JUMP))
def test_the_nearest_within_the_slop(stamps, stamp, slop):
    near = [one for one in stamps if abs(one - stamp) <= slop]
    found = filled(*stamps).nearest(stamp, slop)
    assert (found is None) == (not near)
    assert found is None or abs(found - stamp) == min(abs(one - stamp) for one in near)


@given(st.lists(st.integers(0, 100 * MS), max_size=40), st.lists(st.integers(0, 100 * MS), max_size=5))
def test_the_newest_and_the_expected_are_kept(stamps, expected):
    messages: Stamped[int] = Stamped()
    for stamp in expected:
        messages.expect(stamp, 5 * MS)
    lost = sum(messages.put(stamp, stamp) for stamp in stamps)
    kept = [stamp for stamp, _ in messages.items()]
    assert kept == sorted(kept) and len(kept) == len(messages)
    assert {*sorted({*stamps})[-KEPT:]} <= {*kept}
    assert {s for s in stamps if any(abs(s - e) <= 5 * MS for e in expected)} <= {*kept}
    assert lost + len(kept) >= len({*stamps})


def test_memory_is_bounded():
    messages: Stamped[int] = Stamped()
    for stamp in range(0, 1000 * MS, 10 * MS):
        messages.expect(stamp, MS)
        messages.put(stamp, stamp)
    assert len(messages) <= KEPT + EXPECTED


def test_a_nearer_one_may_come_until_a_newer_one_is_there():
    messages = filled(100 * MS)
    assert messages.may_come(101 * MS) and not messages.may_come(100 * MS) and not messages.may_come(99 * MS)
    assert not messages.may_come(100 * MS + JUMP)  # it has stopped
    assert not Stamped().may_come(0)
    messages.put(102 * MS, 0)
    assert not messages.may_come(101 * MS)


def test_a_jump_back_begins_anew():
    messages = filled(*range(3 * JUMP, 3 * JUMP + 5))
    messages.expect(3 * JUMP, JUMP)
    assert messages.put(JUMP, 7) == 5
    assert messages.items() == [(JUMP, 7)]


def test_the_same_stamp_replaces_and_what_is_taken_is_gone():
    messages = filled(1, 2)
    messages.put(2, 20)
    assert messages.nearest(2, 0) == 20
    messages.remove(2)
    messages.remove(2)
    assert messages.items() == [(1, 1)]
    messages.clear()
    assert not len(messages) and messages.nearest(1, JUMP) is None
