"""One frame in the node, from its message to its outputs."""

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
        """Return the names of the outputs that have a listener, those in space included."""

    def needed(self, wanted: frozenset[str]) -> frozenset[str]:
        """Return the names of the outputs that the pipeline computes for these."""


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

    def expect(self, job: FrameJob) -> None:
        """Keep what the wanted outputs of a frame need beside its image, until they are published."""

    def publish(self, job: FrameJob, result: Segmentation) -> None:
        """Publish the outputs of a frame."""

    def fail(self, error: Exception) -> None:
        """Count a bad frame, and log the reason."""


@dataclass(eq=False)
class FrameJob:
    """A frame of a camera, and the results of each step.

    Attributes:
        camera: camera of the frame.
        header: header of the message.
        decode: function that returns the frame, or raises FrameError.
        came: time of arrival, time.monotonic().
        epoch: number of earlier jumps of the camera's time.
        slow: True if `decode` may take long, and must not run in the pipeline's thread.
        number: number of the frame among those that its camera received, from 1.
        wanted: names of the outputs that have a listener, those in space included; set by `ask`.
        needed: names of the outputs that the pipeline computes for them; set by `ask`.
        awaited_until: end of the wait of other cameras' frames for a common batch, time.monotonic().
        result: decoded frame, or the error of `decode`; None before decoding.
        placement: placement in the network's input.
        began: time of submission to the pipeline, time.monotonic().
    """

    camera: Sender
    header: Header
    decode: Callable[[], Frame]
    came: float
    epoch: int
    slow: bool = False
    number: int = 0
    wanted: frozenset[str] = frozenset()
    needed: frozenset[str] = frozenset()
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
        """Update the wanted outputs. If there are none, count the frame as dropped and return False."""
        camera = self.camera
        self.wanted = camera.outputs.wanted() if camera.active else frozenset()
        if not self.wanted:
            camera.counts.drop("unwanted" if camera.active else "deactivated")
            return False
        self.needed = camera.outputs.needed(self.wanted)
        camera.expect(self)
        return True


def stamp_of(header: Header) -> int:
    """Return the stamp of a header, nanoseconds."""
    return header.stamp.sec * 10**9 + header.stamp.nanosec
