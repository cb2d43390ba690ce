"""The newest frame wins, and what it replaced is counted."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2f_ros.node.mailbox import Closed, Mailbox


def test_the_newest_item_wins():
    box = Mailbox()
    assert [box.put(item) for item in "abc"] == [False, True, True]
    assert box.take() == "c"
    assert box.counts() == (3, 2)


def test_an_item_is_taken_once():
    box = Mailbox()
    box.put("a")
    box.take()
    with pytest.raises(TimeoutError):
        box.take(timeout=0)


def test_none_is_an_item():
    box = Mailbox()
    box.put(None)
    assert box.take(timeout=0) is None


def test_close_forgets_what_was_not_taken():
    box = Mailbox()
    box.put("a")
    box.close()
    with pytest.raises(Closed):
        box.take()
    assert box.put("b") is False
    assert box.counts() == (1, 0)


def test_close_wakes_a_waiting_thread():
    box, seen = Mailbox(), []

    def wait() -> None:
        try:
            box.take()
        except Closed:
            seen.append("closed")

    thread = threading.Thread(target=wait)
    thread.start()
    box.close()
    thread.join(timeout=30)
    assert seen == ["closed"]


def test_put_wakes_a_waiting_thread():
    box, seen = Mailbox(), []
    thread = threading.Thread(target=lambda: seen.append(box.take()))
    thread.start()
    box.put("a")
    thread.join(timeout=30)
    assert seen == ["a"]


@given(st.lists(st.booleans()))
def test_every_item_is_taken_dropped_or_waiting(moves):
    """True puts the next number, False takes: compared with the last number put since the last take."""
    box, last, waiting, taken, received = Mailbox(), None, False, 0, 0
    for is_put in moves:
        if is_put:
            received += 1
            last, waiting = received, True
            box.put(received)
        elif waiting:
            assert box.take(timeout=0) == last
            taken, waiting = taken + 1, False
    assert box.counts() == (received, received - taken - waiting)


def test_nothing_is_lost_between_threads():
    box, taken = Mailbox(), []

    def take_all() -> None:
        try:
            while True:
                taken.append(box.take())
                if taken[-1] == 2000:
                    return
        except Closed:
            pass

    thread = threading.Thread(target=take_all)
    thread.start()
    for item in range(1, 2001):
        box.put(item)
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert taken == sorted(taken) and taken[-1] == 2000
    assert box.counts() == (2000, 2000 - len(taken))
