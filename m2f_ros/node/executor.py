"""An executor that survives exceptions of callbacks."""

from __future__ import annotations

import ctypes
import functools
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from rclpy.executors import (
    ConditionReachedException,
    ShutdownException,
    SingleThreadedExecutor,
    TimeoutException,
)
from rclpy.node import Node

from m2f_ros.node.answers import keep_answering
from m2f_ros.node.throttle import Throttle, cut

T = TypeVar("T")

# The wait fails if an entity is destroyed at its start, or out of memory or file descriptors: it is repeated.
WAITS, PAUSE = 100, 0.05  # consecutive failures before the process ends; seconds between two


class Executor(SingleThreadedExecutor):
    """Runs callbacks in one thread, and logs (throttled) and counts their exceptions.

    rclpy's executors raise the exception out of `spin`, and after a failure to take a message they never serve its
    callback group again. SystemExit and KeyboardInterrupt end `spin`.

    Attributes:
        failures: number of exceptions so far, of callbacks and of the wait for them.
        last_failure: newest exception in one line, or "".
    """

    def __init__(self, node: Node) -> None:
        super().__init__()
        self.failures, self.last_failure = 0, ""
        self._say = Throttle(lambda line: node.get_logger().error(line))
        self._failed_waits = 0
        self._thread: int | None = None
        keep_answering(node, self._failed)
        self.add_node(node)

    def spin(self) -> None:
        """Run callbacks until the executor is shut down. Raises RuntimeError if the wait for them fails."""
        self._thread = threading.get_ident()
        try:
            super().spin()
        finally:
            self._thread = None

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Wait for a callback and run it."""
        try:
            handler, entity, _ = self.wait_for_ready_callbacks(timeout_sec=timeout_sec)
        except (ShutdownException, TimeoutException, ConditionReachedException):
            return
        except Exception as error:
            if not self._context.ok() or self._is_shutdown:
                return
            self._failed_waits += 1
            if self._failed_waits >= WAITS:
                raise RuntimeError(f"cannot wait for messages any more: {_in_one_line(error)}") from error
            self._note("the wait for messages", error)
            time.sleep(PAUSE)
            return
        self._failed_waits = 0
        handler()
        failure = handler.exception()
        # If the executor was shut down meanwhile, its guard condition is gone, and rclpy fails after the callback.
        if failure is not None and not self._is_shutdown:
            self._failed(entity, failure)

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in the executor's thread, between two callbacks; return its result or error. Thread-safe.

        Only the executor's thread creates and destroys entities: rclpy checks the entities of a wait again after it,
        and raises InvalidHandle for one that another thread has destroyed.
        """
        if self._thread in (None, threading.get_ident()):
            return function()
        done: Future[T] = Future()

        def run() -> None:
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(error)

        self.create_task(run)
        return done.result()

    def _make_handler(self, entity: Any, node: Node, take: Callable[[Any], Any], *more: Any) -> Any:
        return super()._make_handler(entity, node, functools.partial(self._take, take), *more)

    def _take(self, take: Callable[[Any], Any], entity: Any) -> Any:
        """Take a message; return None on an error, so that the callback group is served again."""
        try:
            taken = take(entity)
        except Exception as error:
            self._failed(entity, error)
            return None
        # rclpy does not report malformed bytes, and may have taken the next message.
        if words := _unread():
            self._note(f"reading a message of {_name(entity)}", RuntimeError(words))
        return taken

    def _failed(self, entity: Any, error: Exception) -> None:
        self._note(f"the callback of {_name(entity)}", error)

    def _note(self, what: str, error: Exception) -> None:
        self.failures += 1
        self.last_failure = f"{what} failed: {_in_one_line(error)}"
        self._say(f"{self.last_failure}; the node goes on", what)


class _ErrorString(ctypes.Structure):
    """rcutils_error_string_t."""

    _fields_ = (("str", ctypes.c_char * 1024),)


@functools.cache
def _rcutils() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("librcutils.so")
        library.rcutils_error_is_set.restype = ctypes.c_bool
        library.rcutils_get_error_string.restype = _ErrorString
        library.rcutils_reset_error.restype = None
    except (OSError, AttributeError):
        return None
    return library


def _unread() -> str:
    """Return why the last message could not be deserialised, or "". Clears the error, which ROS would print later."""
    library = _rcutils()
    if library is None or not library.rcutils_error_is_set():
        return ""
    words = library.rcutils_get_error_string().str.decode(errors="replace")
    library.rcutils_reset_error()
    return words if "deserializ" in words else ""  # it may be the error of another call


def _name(entity: Any) -> str:
    """Return the kind of an entity, with its topic, service or callback."""
    kind = "task" if entity is None else type(entity).__name__.lower()
    # A subscription reads its name from its handle, which may be gone.
    for attribute in ("srv_name", "topic_name", "topic"):
        try:
            return f"{kind} {getattr(entity, attribute)}"
        except Exception:
            continue
    callback = getattr(entity, "callback", None)
    return f"{kind} {getattr(callback, '__qualname__', '')}".strip()


def _in_one_line(error: Exception) -> str:
    """Return type, message and location of an error in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    try:
        words = str(error)
    except Exception:
        words = "without words"
    return f"{type(error).__name__}: {cut(words)}{place}"
