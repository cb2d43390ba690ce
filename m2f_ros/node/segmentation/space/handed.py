"""A frame that was handed over for outputs in space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from m2f_ros.errors import SpaceError
from m2f_ros.frame.calibration import Calibration
from m2f_ros.frame.outputs import SPATIAL_NAMES
from m2f_ros.frame.segment import Segment
from m2f_ros.node.segmentation.frame_job import FrameJob
from m2f_ros.space.depth import decode_compressed_depth, decode_depth
from m2f_ros.space.ignore import fitted
from m2f_ros.space.labelled import Labelled

if TYPE_CHECKING:
    from sensor_msgs.msg import CameraInfo

    from m2f_ros.node.segmentation.space.inputs import DepthImage
    from m2f_ros.space.camera_model import CameraModel


@dataclass(frozen=True, eq=False)
class Geometry:
    """The known geometry of a camera's images.

    Attributes:
        info: its CameraInfo; None if none has come.
        topic: topic of `info`.
        rectified: True if the images are rectified ones.
    """

    info: CameraInfo | None
    topic: str
    rectified: bool


@dataclass(frozen=True, eq=False)
class Handed:
    """The results of a frame, which do not change any more.

    Attributes:
        job: the frame.
        label, confidence, ids, segments: see Labelled.
        geometry: of the camera.
        came: time of the handing over, time.monotonic().
    """

    job: FrameJob
    label: np.ndarray
    confidence: np.ndarray | None
    ids: np.ndarray | None
    segments: Sequence[Segment]
    geometry: Geometry
    came: float

    @property
    def camera(self) -> str:
        """Name of the camera."""
        return self.job.camera.name

    @property
    def wanted(self) -> frozenset[str]:
        """The outputs in space that had listeners."""
        return self.job.wanted & set(SPATIAL_NAMES)

    def calibration(self) -> Calibration:
        """Return the calibration of images of the labels' size. Raises SpaceError if there is none."""
        if self.geometry.info is None:
            raise SpaceError(f"no CameraInfo has come on {self.geometry.topic}, which places images in space")
        height, width = self.job.frame.size
        return Calibration.of(self.geometry.info).fitted((width, height), self._size)

    def model(self) -> CameraModel:
        """Return the camera model of images of the labels' size. Raises SpaceError."""
        from m2f_ros.space.camera_model import CameraModel  # needs torch, whose import takes seconds

        return CameraModel.of(self.calibration(), self._size, self.geometry.rectified)

    def labelled(self, unlabelled: int, calibration: Calibration | None, depth: np.ndarray | None) -> Labelled:
        """Return the frame as the functions of the room `space` take it."""
        job = self.job
        return Labelled(
            self.camera,
            job.stamp,
            job.header.frame_id,
            calibration,
            self.label,
            unlabelled,
            self.confidence,
            self.ids,
            self.segments,
            depth=depth,
        )

    def decoded(self, message: DepthImage) -> np.ndarray:
        """Decode the depth image of this frame: (h, w) float32 metres, NaN where unknown or ignored.

        Raises SpaceError for one that is bad, or not registered to the camera.
        """
        frame, own = message.header.frame_id, self.job.header.frame_id
        if frame and own and frame != own:
            raise SpaceError(
                f"the depth image is of the frame {frame[:40]!r}, the image of {own[:40]!r}: register it to the camera"
            )
        depth = decode_depth(message) if hasattr(message, "encoding") else decode_compressed_depth(message)
        (h, w), (height, width) = depth.shape, self.label.shape
        if 2 * abs(h * width - w * height) > max(h, w, height, width):
            raise SpaceError(
                f"the depth image is of {w}x{h}, the labels are {width}x{height}, which is another shape: register it "
                "to the camera"
            )
        if (ignored := self.job.frame.ignored) is not None:
            depth[fitted(ignored.mask, (w, h))] = np.nan
        return depth

    @property
    def _size(self) -> tuple[int, int]:
        return self.label.shape[1], self.label.shape[0]
