"""Builds the network for new sizes in a separate thread, while frames of other sizes go on. Does not import ROS."""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from m2f_ros.pipeline import Pipeline
    from m2f_ros.pipeline.resize import Placement

    Key = tuple[tuple[int, int], int]  # size of the network, and frames of a batch

# Number of sizes that may be built for one camera at once, and seconds until it may have another one, at least SHARE
# times the duration of the last build. A build takes seconds, with "compile" minutes: a camera whose size changes with
# each frame would keep a core busy forever. Each further size doubles the seconds, since each leaves tens of OpenVINO's
# memory mappings behind, and Linux allows 65,530 for a process.
SIZES_OF_CAMERA = 2
ANOTHER_AFTER = 60.0
AT_LEAST_EVERY = 3600.0
SHARE = 10
SLOW = 1.0  # seconds of a build after which the log mentions it
FAILURES = 16  # number of failed sizes whose error is kept
# Python's switch interval during a build, seconds: a frame has a hundred small operations, and may wait that long after
# each of them.
SWITCH_INTERVAL = 0.0005


@dataclass
class Allowance:
    """Number of sizes that may still be built for a camera.

    Attributes:
        left: number of sizes.
        since: time of the last addition to `left`, time.monotonic().
        period: seconds between two additions.
    """

    left: int = SIZES_OF_CAMERA
    since: float = 0.0
    period: float = ANOTHER_AFTER

    def take(self, now: float) -> bool:
        """Use one size; return False if none is left."""
        while self.left < SIZES_OF_CAMERA and now - self.since >= self.period:
            self.left, self.since = self.left + 1, self.since + self.period
            self.period = max(self.period, min(2 * self.period, AT_LEAST_EVERY))
        if self.left == SIZES_OF_CAMERA:
            self.since = now
        if not self.left:
            return False
        self.left -= 1
        return True


class Sizes:
    """Finds and builds sizes of the network. For the pipeline's thread; `close` is thread-safe.

    Args:
        changed: function that is called in another thread after each build.
        say: function that logs a line; called in any thread.

    Attributes:
        since: start of the present builds, time.monotonic(); None if there are none.
    """

    def __init__(self, pipeline: Pipeline, changed: Callable[[], None], say: Callable[[str], None]) -> None:
        self._pipeline, self._changed, self._say = pipeline, changed, say
        self._lock = threading.Lock()
        self._coming: dict[Key, str] = {}  # -> the camera that asked for it
        self._failed: dict[Key, Exception] = {}
        self._allowances: dict[str, Allowance] = {}
        self._asked: SimpleQueue[tuple[Key, str] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self.since: float | None = None

    def place(self, camera: str, height: int, width: int) -> tuple[Placement | None, bool]:
        """Return the placement of a frame of this size in the network's input, and True if the placement is exact.

        The placement is None while its size is built. It is not exact if the camera changes its size faster than sizes
        can be built: the frame is then stretched to a size that is ready.

        Raises:
            ConfigError: the network cannot be built for this size.
        """
        placement = self._pipeline.resize.place(height, width)
        ready, asked = self.ask(camera, (placement.network, 1), f"images of {width}x{height}")
        if ready:
            return placement, True
        others = self._pipeline.ready_networks()
        if asked or not others:
            return None, True
        return type(placement)(*2 * (min(others, key=lambda other: _distance(placement.network, other)),)), False

    def ask(self, camera: str, key: Key, what: str) -> tuple[bool, bool]:
        """Request a size. Return (True if it is ready, True if it is ready or being built).

        what: description of the size for the log.
        """
        pipeline = self._pipeline
        if pipeline.ready(*key):
            return True, True
        with self._lock:
            if key in self._failed:
                raise self._failed[key].with_traceback(None)
            if key in self._coming:
                return False, True
            if camera in self._coming.values():
                return False, False
            # The first size needs no allowance.
            allowed = self._allowances.setdefault(camera, Allowance()).take(time.monotonic())
            if not allowed and (pipeline.ready_networks() or self._coming):
                return False, False
            self._coming[key] = camera
            self.since = self.since or time.monotonic()
        if not pipeline.builds_in_background:
            self._build(key, what)
            return self.ask(camera, key, what)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="sizes", daemon=True)
            self._thread.start()
        self._asked.put((key, what))
        return False, True

    def waits(self, height: int, width: int) -> bool:
        """Return True if a frame of this size, for which `place` returned None, still has to wait."""
        network = self._pipeline.resize.place(height, width).network
        with self._lock:
            return (network, 1) in self._coming or (bool(self._coming) and not self._pipeline.ready_networks())

    def close(self) -> list[threading.Thread]:
        """Start no more builds. Return the threads that may still run: a build cannot be interrupted."""
        self._closed = True
        self._asked.put(None)
        return [self._thread] if self._thread else []

    def _run(self) -> None:
        while (asked := self._asked.get()) is not None and not self._closed:
            with _switching_often():
                self._build(*asked)
            self._changed()

    def _build(self, key: Key, what: str) -> None:
        (height, width), _ = key
        line = (
            f"the model is being prepared for {what} ({width}x{height} in the network); "
            "what comes meanwhile is dropped for newer images"
        )
        timer = threading.Timer(SLOW, self._say, (line,))
        timer.daemon = True
        timer.start()
        error, began = None, time.monotonic()
        try:
            self._pipeline.build_network(*key)
        except Exception as failure:  # of whatever library
            error = failure.with_traceback(None)
        finally:
            timer.cancel()
        with self._lock:
            allowance = self._allowances[self._coming.pop(key)]
            allowance.period = max(allowance.period, SHARE * (time.monotonic() - began))
            if not self._coming:
                self.since = None
            if error is not None:
                self._failed[key] = error
                while len(self._failed) > FAILURES:
                    del self._failed[next(iter(self._failed))]


def _distance(size: tuple[int, int], other: tuple[int, int]) -> float:
    """Return a measure of the stretch from one size to another, 0 for equal sizes."""
    return sum(abs(math.log(a / b)) for a, b in zip(size, other, strict=True))


@contextlib.contextmanager
def _switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, SWITCH_INTERVAL))
    try:
        yield
    finally:
        sys.setswitchinterval(before)
