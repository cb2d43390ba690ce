"""One frame on its way through the node, from its message to its outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from std_msgs.msg import Header

from m2f_ros.frame.frame import Frame

if TYPE_CHECKING:
    from m2f_ros.node.segmentation.counts import Counts
    from m2f_ros.pipeline import Segmentation
    from m2f_ros.pipeline.resize import Placement


class Wanting(Protocol):
    def wanted(self) -> frozenset[str]:
        """Return the names of the outputs that have a listener."""


class Sender(Protocol):
    """The camera of a job, as the pipeline's threads know it."""

    @property
    def name(self) -> str: ...
    @property
    def active(self) -> bool: ...
    @property
    def counts(self) -> Counts: ...
    @property
    def outputs(self) -> Wanting: ...

    def publish(self, job: FrameJob, result: Segmentation) -> None:
        """Publish the outputs of a frame."""

    def fail(self, error: Exception) -> None:
        """Count a bad frame, and log the reason."""


@dataclass(eq=False)
class FrameJob:
    """A frame of a camera, and what each step found out about it.

    Attributes:
        camera: the camera that sent it.
        header: header of its message.
        decode: returns its pixels; raises FrameError.
        came: time.monotonic() at its arrival.
        epoch: number of jumps of its camera's time before it.
        slow: True if `decode` may take long: it does not run in the pipeline's thread.
        wanted: names of the outputs to compute; set by `ask`.
        awaited_until: time.monotonic() until which other cameras' frames wait for it, to go in one batch.
        result: the frame, or the error of `decode`; None until it is decoded.
        placement: where it lies in the network's input.
        began: time.monotonic() at its start in the pipeline.
    """

    camera: Sender
    header: Header
    decode: Callable[[], Frame]
    came: float
    epoch: int
    slow: bool = False
    wanted: frozenset[str] = frozenset()
    awaited_until: float = 0.0
    result: Frame | Exception | None = None
    placement: Placement = field(init=False)
    began: float = field(init=False)

    @property
    def stamp(self) -> int:
        """Stamp of the header, nanoseconds."""
        return stamp_of(self.header)

    @property
    def frame(self) -> Frame:
        """The decoded frame. Raises the error of `decode`."""
        if isinstance(self.result, Exception):
            raise self.result
        assert self.result is not None
        return self.result

    def ask(self) -> bool:
        """Ask which outputs are wanted now. Where none is, count the frame as dropped and return False."""
        camera = self.camera
        self.wanted = camera.outputs.wanted() if camera.active else frozenset()
        if not self.wanted:
            camera.counts.drop("unwanted" if camera.active else "deactivated")
        return bool(self.wanted)


def stamp_of(header: Header) -> int:
    """Stamp of a header, nanoseconds."""
    return header.stamp.sec * 10**9 + header.stamp.nanosec
