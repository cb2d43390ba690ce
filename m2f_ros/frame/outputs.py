"""The table of outputs: each image that can be made of a frame, and how it is sent."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # launch files need names alone
    import numpy as np


class Output(NamedTuple):
    """An image that is made of a frame.

    Attributes:
        name: of its topic, and in every choice of outputs.
        needs: what the head has to find for it: "label", "confidence" or "panoptic"; a painter gets the labels, too.
        encoding: of its messages; "" for one of values, "mono8" or "mono16" by their dtype.
        lossy: True if it may be sent as JPEG. Each value of the others means something.
        description: a part of a sentence, for docs/node.md.
    """

    name: str
    needs: str
    encoding: str
    lossy: bool
    description: str

    def encoding_of(self, image: np.ndarray) -> str:
        """Return the encoding of the message of this image."""
        return self.encoding or ("mono8" if image.itemsize == 1 else "mono16")


OUTPUTS = (
    Output("label", "label", "", False, "train ids; 255 (65535 in `mono16`) is unlabelled"),
    Output("overlay", "label", "bgr8", True, "the image mixed with the colours of its classes"),
    Output("color", "label", "bgr8", False, "the colours of the classes alone"),
    Output("confidence", "confidence", "mono8", False, "the label's share of the scores of all classes, 0 to 255"),
    Output("panoptic", "panoptic", "mono16", False, "id of each pixel's segment, 0 is none; see `~/segments`"),
)
NAMES = tuple(output.name for output in OUTPUTS)
REPLAYED = ("label", "overlay", "confidence", "panoptic")  # outputs of a replay by default


class SpatialOutput(NamedTuple):
    """An output in space, made of the results of a frame.

    Attributes:
        name: of its topic, and in every choice of outputs.
        message: type of its messages.
        each: True for one topic a camera, False for one topic of all cameras.
        needs: what the head has to find for it; see Output.
        description: a part of a sentence, for docs/node.md.
    """

    name: str
    message: str
    each: bool
    needs: tuple[str, ...]
    description: str


SPATIAL = (
    SpatialOutput(
        "points",
        "sensor_msgs/msg/PointCloud2",
        True,
        ("label", "confidence", "panoptic"),
        "the depth image as an organised cloud: x, y, z, rgb, label, confidence, instance",
    ),
    SpatialOutput(
        "detections",
        "vision_msgs/msg/Detection2DArray",
        True,
        ("panoptic",),
        "boxes of the things, with class, score and tracked id",
    ),
    SpatialOutput(
        "lidar",
        "sensor_msgs/msg/PointCloud2",
        False,
        ("label", "confidence"),
        "the points of `~/cloud` with label, confidence and camera",
    ),
    SpatialOutput("grid", "nav_msgs/msg/OccupancyGrid", False, ("label",), "cost of the ground around the base"),
    SpatialOutput(
        "obstacles",
        "sensor_msgs/msg/LaserScan",
        False,
        ("label",),
        "range of the nearest cell that is not free, for each direction; its class in `intensities`",
    ),
)
SPATIAL_NAMES = tuple(output.name for output in SPATIAL)


def needed(names: Iterable[str]) -> frozenset[str]:
    """Return the names of the images that are made for these outputs, those in space included."""
    return frozenset(chain.from_iterable(_NEEDS.get(name, (name,)) for name in names))


_NEEDS = {output.name: output.needs for output in SPATIAL}


def needing(*needs: str) -> frozenset[str]:
    """Return the names of the outputs that need one of these."""
    return frozenset(output.name for output in OUTPUTS if output.needs in needs)
