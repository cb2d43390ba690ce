"""Counts of one camera, and the limit of its rate."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2f_ros.node.segmentation.counts import RECENT, Counts, RateLimit, StageTimes


def test_what_becomes_of_frames_is_counted():
    counts = Counts()
    for _ in range(4):
        counts.arrive()
    assert counts.tally().newest is None
    for stamp in (7, None, 5):
        counts.receive(stamp)
    counts.drop("rate")
    assert counts.fail("damaged") == 1
    tally = counts.tally()
    assert (tally.arrived, tally.received, tally.bad, tally.failing, tally.error) == (4, 3, 1, 1, "damaged")
    assert tally.heard is not None and tally.newest == 5
    counts.segment(12.5)
    assert counts.tally().failing == 0
    assert (counts.tally().segmented, counts.tally().dropped, counts.tally().ages) == (1, {"rate": 1}, (12.5,))
    assert tally.dropped == {"rate": 1} and tally.segmented == 0  # a tally stays what it was


def test_times_are_those_of_the_newest_frames():
    times = StageTimes()
    for i in range(RECENT + 3):
        times.note({"head": float(i)})
    assert times.recent()["head"] == tuple(float(i) for i in range(3, RECENT + 3))


def test_without_a_limit_all_pass():
    assert all(RateLimit().passes(now, 0.0) for now in (0.0, 0.0, 1.0))


def test_a_third_passes_of_three_times_the_rate():
    limit = RateLimit()
    assert sum(limit.passes(100 + i / 30, 10.0) for i in range(300)) in (100, 101)


@pytest.mark.parametrize(
    "end", [lambda c: c.segment(1.0), lambda c: c.fail("bad"), lambda c: c.drop("unwanted"), lambda c: c.drop("newer")]
)
def test_a_frame_is_waited_for_from_its_entry_to_its_end(end):
    counts = Counts()
    assert counts.tally().waiting is None
    counts.expect()
    since = counts.tally().waiting
    counts.expect()  # a newer one takes nothing off the wait
    assert counts.tally().waiting == since is not None
    end(counts)
    assert counts.tally().waiting == (None if "newer" not in counts.tally().dropped else since)


def test_a_higher_rate_holds_at_once():
    limit = RateLimit()
    assert limit.passes(100.0, 0.001)
    assert not limit.passes(100.1, 0.001)
    assert not limit.passes(100.2, 10.0)
    assert limit.passes(100.31, 10.0)


@given(st.lists(st.floats(0.001, 0.2), min_size=1, max_size=200), st.floats(1.0, 50.0))
def test_never_more_pass_than_the_rate_allows(gaps, rate):
    limit, now, passed, begin = RateLimit(), 50.0, 0, None
    for gap in gaps:
        now += gap
        if limit.passes(now, rate):
            begin = now if begin is None else begin
            passed += 1
    assert passed <= 2 + (now - (begin or now)) * rate
