"""The executor's thread, and what ends it. Without topics: nothing is sent."""

from __future__ import annotations

import threading

import pytest

pytest.importorskip("rclpy", reason="rclpy is absent")
import rclpy
from rclpy.node import Node

from m2f_ros.node.executor import PAUSE, WAITS, Executor
from m2f_ros.node.process import Ending, _spin

TIMEOUT = 240.0


@pytest.fixture
def node(ros_env):
    rclpy.init()
    node = Node("alone")
    yield node
    node.destroy_node()
    rclpy.shutdown()


def spun(node, ending=None):
    executor = Executor(node)
    thread = threading.Thread(target=_spin, args=(executor, node, ending or Ending()), daemon=True)
    thread.start()
    return executor, thread


def raising(error):
    def callback():
        raise error

    return callback


@pytest.mark.parametrize(
    ("error", "code"),
    [(SystemExit(3), 3), (SystemExit(), 0), (SystemExit("words"), 1), (KeyboardInterrupt(), 0), (GeneratorExit(), 1)],
)
def test_what_is_no_failure_ends_the_process_with_its_status(node, error, code):
    ending = Ending()
    node.create_timer(0.001, raising(error))
    executor, thread = spun(node, ending)
    assert ending.wait(TIMEOUT) and ending.code == code
    thread.join(TIMEOUT)
    executor.shutdown()


def test_failures_are_counted_and_the_next_callback_runs(node):
    there = threading.Event()
    node.create_timer(0.001, raising(MemoryError()))
    executor, thread = spun(node)
    assert executor.call(threading.get_ident) == thread.ident
    node.create_timer(0.001, there.set)
    assert there.wait(TIMEOUT)
    with pytest.raises(KeyError):
        executor.call(raising(KeyError("x")))
    executor.call(lambda: None)
    assert executor.failures and executor.last_failure.startswith("the callback of timer raising.<locals>.callback")
    assert "MemoryError" in executor.last_failure and "test_executor.py" in executor.last_failure
    executor.shutdown()
    thread.join(TIMEOUT)


def test_a_wait_that_fails_is_tried_again_and_one_that_always_fails_ends_the_process(node, monkeypatch):
    monkeypatch.setattr("m2f_ros.node.executor.PAUSE", PAUSE / 50)
    fails = iter(range(WAITS - 1))
    ending = Ending()
    executor = Executor(node)
    wait = executor.wait_for_ready_callbacks

    def failing(**arguments):
        if broken or next(fails, None) is not None:
            raise OSError("too many open files")
        return wait(**arguments)

    broken = False
    executor.wait_for_ready_callbacks = failing
    thread = threading.Thread(target=_spin, args=(executor, node, ending), daemon=True)
    thread.start()
    there = threading.Event()
    executor.create_task(there.set)
    assert there.wait(TIMEOUT) and executor.failures == WAITS - 1 and not ending.wait(0)
    broken = True
    executor.create_task(lambda: None)
    assert ending.wait(TIMEOUT) and ending.code == 1
    thread.join(TIMEOUT)
    executor.shutdown()
