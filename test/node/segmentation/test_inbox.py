"""The newest item of each key wins, and the keys take turns."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2f_ros.node.segmentation.inbox import Closed, Inbox


def test_the_newest_item_wins():
    box = Inbox("x")
    assert [box.put("x", item) for item in "abc"] == [False, True, True]
    assert box.take() == ["c"]
    assert box.take() == []


def test_none_is_an_item():
    box = Inbox("x")
    box.put("x", None)
    assert box.wait(0)
    assert box.take() == [None]
    assert not box.wait(0)


def test_who_was_served_longest_ago_comes_first():
    box = Inbox("xyz")
    for key in "zyx":
        box.put(key, key)
    assert box.take() == ["x"]
    box.put("x", "x")
    assert [box.take() for _ in range(3)] == [["y"], ["z"], ["x"]]


def test_what_belongs_together_is_taken_together_up_to_the_limit():
    box = Inbox("wxyz")
    for key, item in zip("wxyz", (10, 11, 20, 9), strict=True):
        box.put(key, item)

    def near(a: int, b: int) -> bool:
        return abs(a - b) < 5

    assert box.take(2, near) == [10, 11]
    assert box.take(2, near) == [20]
    assert box.take(2, near) == [9]


def test_close_forgets_what_was_not_taken():
    box = Inbox("x")
    box.put("x", "a")
    box.close()
    with pytest.raises(Closed):
        box.take()
    with pytest.raises(Closed):
        box.wait()
    assert box.put("x", "b") is False


def test_close_wakes_a_waiting_thread():
    box, seen = Inbox("x"), []

    def wait() -> None:
        try:
            box.wait()
        except Closed:
            seen.append("closed")

    thread = threading.Thread(target=wait)
    thread.start()
    box.close()
    thread.join(timeout=240)
    assert seen == ["closed"]


def test_put_wakes_a_waiting_thread():
    box, seen = Inbox("x"), []
    thread = threading.Thread(target=lambda: seen.append(box.wait()))
    thread.start()
    box.put("x", "a")
    thread.join(timeout=240)
    assert seen == [True]


@given(st.lists(st.sampled_from("xyz") | st.none()))
def test_no_key_waits_for_more_than_one_turn_of_each_other(moves):
    """A letter puts the next number under it, None takes: compared with a plain model."""
    box, waiting, last_turn, dropped, taken = Inbox("xyz"), {}, dict.fromkeys("xyz", -1), 0, 0
    for number, move in enumerate(moves):
        if move is not None:
            assert box.put(move, (move, number)) == (move in waiting)
            dropped += move in waiting
            waiting[move] = number
        elif waiting:
            ((key, item),) = box.take()
            assert item == waiting.pop(key)
            assert all(last_turn[key] <= last_turn[other] for other in waiting)
            last_turn[key] = number
            taken += 1
        else:
            assert box.take() == []
    assert sum(move is not None for move in moves) == taken + dropped + len(waiting)


@given(st.lists(st.integers(1, 1000), min_size=3, max_size=3), st.integers(1, 60))
def test_keys_that_always_have_an_item_get_equal_time(costs, turns):
    box, used = Inbox("xyz"), dict.fromkeys("xyz", 0)
    for _ in range(turns):
        for key in "xyz":
            box.put(key, key)
        (key,) = box.take()
        cost = costs["xyz".index(key)]
        box.charge(key, cost)
        used[key] += cost
    assert max(used.values()) - min(used.values()) <= max(costs)


def test_time_left_to_others_is_not_made_up_for():
    box = Inbox("xy")
    for _ in range(10):
        box.put("x", "x")
        assert box.take() == ["x"]
        box.charge("x", 1.0)
    served = []
    for _ in range(6):
        for key in "xy":
            box.put(key, key)
        served += box.take()
        box.charge(served[-1], 1.0)
    assert served.count("x") == served.count("y") == 3


def test_nothing_is_lost_between_threads():
    box, taken, dropped = Inbox("x"), [], 0

    def take_all() -> None:
        while not taken or taken[-1] < 2000:
            box.wait()
            taken.extend(box.take())

    thread = threading.Thread(target=take_all)
    thread.start()
    for item in range(1, 2001):
        dropped += box.put("x", item)
    thread.join(timeout=240)
    assert not thread.is_alive()
    assert taken == sorted(taken) and taken[-1] == 2000
    assert dropped == 2000 - len(taken)
