"""Counts of the outputs in space, and lines on what cannot be made."""

from __future__ import annotations

from collections.abc import Callable

from m2f_ros.errors import M2fError
from m2f_ros.node.segmentation.counts import SpaceCounts
from m2f_ros.node.throttle import Throttle, cut, kind_of
from m2f_ros.space.transforms import TransformError

# Lookups where tf has not been heard for long: before it came, or of a stamp from before.
_NOT_YET = ("missing", "unconnected", "stale", "past")
DEEP, FLAT = "by depth images", "the ground is taken to be flat"  # kinds of ground
KINDS = 32  # faults that are told apart: those of several cameras


class Reports:
    """Counts and logs faults. Thread-safe.

    Args:
        warn, tell: functions that log a line.
        are_new: function that returns True while inputs may not have come yet: a transform that is absent is no fault.
    """

    def __init__(
        self, warn: Callable[[str], object], tell: Callable[[str], object], are_new: Callable[[], bool]
    ) -> None:
        self.counts = SpaceCounts()
        self._warn, self._tell, self._are_new = Throttle(warn, kinds=KINDS), Throttle(tell), are_new

    def miss(self, name: str, error: Exception, camera: str = "") -> None:
        """Count a message that cannot be made or read, and log the reason. name: of an output or input."""
        if isinstance(error, TransformError) and error.kind in _NOT_YET and self._are_new():
            return
        text = cut(str(error) if isinstance(error, M2fError) else f"{type(error).__name__}: {error}")
        self.counts.miss(of(name, camera), text)
        # One line for a fault that keeps several outputs away.
        self._warn(f"{of(name, camera)}: {text}", f"{camera} {kind_of(text)}")

    def warn(self, line: str) -> None:
        """Log a line of a fault."""
        self._warn(line)

    def tell(self, line: str) -> None:
        """Log a line that is of no fault."""
        self._tell(line)

    def motion(self, error: TransformError) -> None:
        """Count and log that the motion of the base is not taken out."""
        if error.kind == "missing":  # of a robot without odometry
            if not self._are_new():
                self._tell(f"the base's motion is not taken out: {error}; fixed_frame names another frame, or ''")
        else:
            self.miss("motion", error)


class GroundKinds:
    """Says how the frames of each camera come onto the grid: by depth images or on flat ground. For use by one thread.

    A frame without depth image is on flat ground. It is said when that lasts, not of each image that is lost.

    Args:
        patience: function that returns the seconds without depth image after which they have stopped.
        topic: function that returns the topic of a camera's depth images.
    """

    def __init__(self, reports: Reports, patience: Callable[[], float], topic: Callable[[str], str]) -> None:
        self._reports, self._patience, self._topic = reports, patience, topic
        self._since: dict[str, int] = {}  # camera -> stamp of its newest frame with depth, or of the first frame
        self._kinds: dict[str, str] = {}

    def see(self, camera: str, stamp_ns: int, deep: bool) -> None:
        """Take a frame. deep: whether it has a depth image."""
        since = stamp_ns if deep else self._since.setdefault(camera, stamp_ns)
        self._since[camera] = since
        if deep:
            self._turn(camera, DEEP)
        elif stamp_ns - since > round(self._patience() * 1e9):
            self._turn(camera, FLAT)

    def clear(self) -> None:
        """Begin to wait anew, as after a jump of the time."""
        self._since.clear()

    def _turn(self, camera: str, kind: str) -> None:
        before = self._kinds.get(camera)
        if kind == before:
            return
        self._kinds[camera] = kind
        stopped = ""
        if kind == FLAT and before:
            stopped = f"{of('grid', camera)}: the depth images of {self._topic(camera)} have stopped: {FLAT}"
        self._reports.counts.ground(camera, kind, stopped)
        if stopped:
            self._reports.warn(stopped)
        else:
            self._reports.tell(f"{of('grid', camera)}: {kind} ({self._topic(camera)})")


def of(name: str, camera: str) -> str:
    """Return the name of an output or input of a camera; "" for no camera."""
    return f"{name} of {camera}" if camera else name
