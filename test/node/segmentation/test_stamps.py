"""Stamps in order, late, repeated, absent, ahead, and jumping."""

from hypothesis import given
from hypothesis import strategies as st

from m2f_ros.node.segmentation.stamps import DROP, LATE_IN_A_ROW, RESET, TAKE, StampWatch

START = 1_700_000_000 * 10**9
FRAME = 33_333_333  # ns


def ms(value):
    return START + round(value * 1e6)


def kinds(stamps, now=None, watch=None):
    """(kind, action) of each stamp, `now` being that of the stamp unless given."""
    watch = watch or StampWatch()
    notes = [watch.judge(stamp, stamp if now is None else now) for stamp in stamps]
    return [(note.kind, note.action) for note in notes]


OK = ("ok", TAKE)
LATE = ("out_of_order", DROP)
BACK = ("jumped_back", RESET)


def test_frames_in_order():
    watch = StampWatch()
    for i in range(100):
        note = watch.judge(START + i * FRAME, START + i * FRAME + 5_000_000)
        assert (note.kind, note.action, note.line) == ("ok", TAKE, "")
    assert watch.counts == {"ok": 100}


def test_a_late_frame_is_dropped_and_the_rest_go_on():
    assert kinds([ms(0), ms(66), ms(33), ms(100), ms(80), ms(133)]) == [OK, OK, LATE, OK, LATE, OK]


def test_frames_that_arrive_in_reverse_are_late():
    assert kinds([ms(100), ms(66), ms(33), ms(0), ms(133)]) == [OK, LATE, LATE, LATE, OK]


def test_a_bag_that_loops():
    lap = [ms(1000 * i) for i in range(4)]
    assert kinds([*lap, *lap]) == [OK] * 4 + [BACK] + [OK] * 3


def test_a_bag_of_less_than_a_second_that_loops():
    lap = [ms(100 * i) for i in range(6)]
    assert kinds([*lap, *lap]) == [OK] * 6 + [LATE] * (LATE_IN_A_ROW - 1) + [BACK] + [OK] * 3


def test_a_clock_set_back_by_less_than_the_threshold():
    before, after = [ms(500), ms(533)], [ms(0), ms(33), ms(66), ms(100)]
    assert kinds([*before, *after]) == [OK, OK, LATE, LATE, BACK, OK]


def test_the_threshold_is_the_callers():
    watch = StampWatch(back_s=0.05)
    assert kinds([ms(100), ms(50), ms(49)], watch=watch) == [OK, LATE, BACK]


def test_a_gap_starts_over():
    assert kinds([ms(0), ms(5000), ms(10001), ms(10034)]) == [OK, OK, ("jumped_ahead", RESET), OK]


def test_repeated_stamps_are_taken():
    # Such as of a still picture published again and again; dropped, there would be no second output.
    assert kinds([ms(0), ms(0), ms(0), ms(33)]) == [OK, ("repeated", TAKE), ("repeated", TAKE), OK]


def test_a_driver_that_sets_no_stamps():
    absent = ("unstamped", TAKE)
    assert kinds([0, 0, -5, ms(0), 0, ms(33)], now=ms(33)) == [absent, absent, absent, OK, absent, OK]


def test_stamps_from_the_future():
    watch = StampWatch(future_s=0.5)
    assert watch.judge(ms(500), ms(0)).kind == "ok"
    note = watch.judge(ms(600), ms(99))
    assert (note.kind, note.action) == ("future", TAKE)
    assert note.line == (
        "stamps are 0.501 s ahead of this node's clock: synchronise the clocks, or set use_sim_time where a bag plays"
    )


def test_one_wild_stamp_does_not_stop_a_camera():
    hour = 3_600_000
    assert kinds([ms(0), ms(hour), ms(33), ms(66)], now=ms(66)) == [OK, ("future", RESET), BACK, OK]


def test_simulated_time_that_has_not_begun():
    assert kinds([ms(0), ms(33)], now=0) == [("no_clock", TAKE)] * 2
    watch = StampWatch()
    watch.judge(ms(0), 0)
    assert watch.judge(ms(33), ms(33)).kind == "ok"


def test_simulated_time_that_begins_near_zero():
    assert kinds([FRAME, 2 * FRAME, 3 * FRAME], now=FRAME) == [OK] * 3


def test_each_kind_is_said_once_in_one_line():
    watch = StampWatch()
    stamps = [0, ms(0), ms(0), ms(33), ms(10), ms(9000), ms(0), 0, ms(0), ms(33), ms(10), ms(9000), ms(0)]
    lines = [(note.kind, note.line) for note in (watch.judge(stamp, max(stamp, 1)) for stamp in stamps) if note.line]
    assert [kind for kind, _ in lines] == ["unstamped", "repeated", "out_of_order", "jumped_ahead", "jumped_back"]
    assert all("\n" not in line for _, line in lines)
    assert ("jumped_back", "time jumped back by 9.000 s: starting over from there") in lines
    assert sum(watch.counts.values()) == len(stamps)


@given(
    stamps=st.lists(st.integers(-(2**31) * 10**9, 2**31 * 10**9) | st.integers(START, START + 10**9), max_size=40),
    now=st.integers(0, 2**31 * 10**9),
)
def test_any_stamps(stamps, now):
    """Nothing is dropped but what is older, by at most a second, than a frame that was taken."""
    watch, newest = StampWatch(), 0
    for stamp in stamps:
        note = watch.judge(stamp, now)
        if note.action == DROP:
            assert 0 < newest - stamp <= 10**9
        elif stamp > 0:
            newest = stamp
    assert sum(watch.counts.values()) == len(stamps)


@given(start=st.integers(1, 2**31 * 10**9), steps=st.lists(st.integers(0, 10**9), min_size=LATE_IN_A_ROW, max_size=20))
def test_after_whatever_came_first_a_stream_in_order_goes_on(start, steps):
    watch = StampWatch()
    watch.judge(start, start)
    stamp, actions = 1, []
    for step in steps:
        stamp += step
        actions.append(watch.judge(stamp, start).action)
    assert DROP not in actions[LATE_IN_A_ROW - 1 :]
