"""A segmented frame, the input of every output in space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from m2f_ros.frame.calibration import Calibration
from m2f_ros.frame.segment import Segment


@dataclass(frozen=True, eq=False)
class Labelled:
    """The results of one frame, with all that places them in space.

    Attributes:
        camera: name of the camera; "" for an only camera.
        stamp_ns: stamp of the image's header, nanoseconds.
        frame_id: the camera's optical frame (x right, y down, z forward).
        calibration: calibration of images of the size of `label` (see `Calibration.fitted`); None if unknown.
        label: (H, W) train ids, uint8 or uint16.
        unlabelled: value of pixels without a class in `label`.
        confidence: (H, W) uint8, see the output "confidence"; None if it was not computed.
        ids: (H, W) uint16 ids of segments, 0 is none; None if they were not computed.
        segments: segments of `ids`.
        picture: (h, w, 3) uint8 BGR, the image, of any size of the same shape; None if nobody needs colours.
        depth: (h, w) float32, metres along the optical axis, NaN where unknown; of any size of the same shape; None
            without a depth image.
    """

    camera: str
    stamp_ns: int
    frame_id: str
    calibration: Calibration | None
    label: np.ndarray
    unlabelled: int
    confidence: np.ndarray | None = None
    ids: np.ndarray | None = None
    segments: Sequence[Segment] = ()
    picture: np.ndarray | None = None
    depth: np.ndarray | None = None
