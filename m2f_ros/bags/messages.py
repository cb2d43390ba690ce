"""Makes messages of a bag from arrays and the package's own objects, without ROS."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
from rosbags.typesys.store import Typestore

from m2f_ros.bags.writer import register_type
from m2f_ros.frame.calibration import Calibration
from m2f_ros.frame.compressed import fill_compressed
from m2f_ros.frame.raw import fill
from m2f_ros.frame.segment import Segment
from m2f_ros.space.cloud import Cloud
from m2f_ros.space.transforms import quaternion
from m2f_ros.taxonomy import Taxonomy

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
LEGEND = "m2f_ros/msg/Legend"
SEGMENTS = "m2f_ros/msg/Segments"
STATS = "m2f_ros/msg/Stats"
POINT_CLOUD = "sensor_msgs/msg/PointCloud2"
TF_MESSAGE = "tf2_msgs/msg/TFMessage"


class Messages:
    """Makes messages for `BagWriter.write`, of the classes in its type store (`BagWriter.types`)."""

    def __init__(self, types: Typestore) -> None:
        for name in (LEGEND, SEGMENTS):
            register_type(types, name)
        self._types: dict[str, Any] = types.types

    def header(self, stamp_ns: int, frame_id: str) -> Any:
        """Make a std_msgs/Header. stamp_ns: nanoseconds since the Unix epoch."""
        stamp = self._types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 1_000_000_000))
        return self._types["std_msgs/msg/Header"](stamp, frame_id)

    def image(self, image: np.ndarray, encoding: str, header: Any) -> Any:
        """Make a sensor_msgs/Image; for arguments and errors see `raw.fill`."""
        return _with_array(fill(self._types[IMAGE](None, 0, 0, "", 0, 0, array("B")), image, encoding, header))

    def compressed(self, image: np.ndarray, encoding: str, header: Any, format: str) -> Any:
        """Make a sensor_msgs/CompressedImage; for arguments and errors see `compressed.fill_compressed`."""
        return _with_array(
            fill_compressed(self._types[COMPRESSED_IMAGE](None, "", array("B")), image, encoding, header, format)
        )

    def compressed_file(self, data: bytes, format: str, header: Any) -> Any:
        """Make a sensor_msgs/CompressedImage from the bytes of a file. format: "jpeg" or "png"."""
        return self._types[COMPRESSED_IMAGE](header, format, np.frombuffer(data, np.uint8))

    def camera_info(self, info: Calibration, header: Any) -> Any:
        """Make a sensor_msgs/CameraInfo, with the calibration's frame_id, or else the header's."""
        if info.frame_id is not None:
            header = self._types["std_msgs/msg/Header"](header.stamp, info.frame_id)
        return self._types[CAMERA_INFO](
            header,
            info.height,
            info.width,
            info.distortion_model,
            *(np.array(values, np.float64) for values in (info.d, info.k, info.r, info.p)),
            info.binning_x,
            info.binning_y,
            self._types["sensor_msgs/msg/RegionOfInterest"](**asdict(info.roi)),
        )

    def legend(self, taxonomy: Taxonomy, model: str = "") -> Any:
        """Make a m2f_ros/Legend with every class and colour. model: name of the model; empty for ground truth."""
        info = self._types["m2f_ros/msg/ClassInfo"]
        classes = [info(c.id, c.name, np.array(c.colour, np.uint8), c.thing) for c in taxonomy.classes]
        return self._types[LEGEND](model, taxonomy.name, taxonomy.unlabelled, classes)

    def segments(self, segments: Iterable[Segment], header: Any) -> Any:
        """Make a m2f_ros/Segments."""
        segment = self._types["m2f_ros/msg/Segment"]
        return self._types[SEGMENTS](header, [segment(s.id, s.train_id, s.score, s.area, *s.box) for s in segments])

    def depth(self, depth: np.ndarray, header: Any) -> Any:
        """Make a sensor_msgs/Image of encoding 32FC1. depth: (H, W) float32, metres, NaN where unknown."""
        height, width = depth.shape
        data = np.ascontiguousarray(depth, "<f4").reshape(-1).view(np.uint8)
        return self._types[IMAGE](header, height, width, "32FC1", 0, 4 * width, data)

    def cloud(self, cloud: Cloud) -> Any:
        """Make a sensor_msgs/PointCloud2."""
        empty = self._types[POINT_CLOUD](None, 0, 0, [], False, 0, 0, np.empty(0, np.uint8), False)
        field = self._types["sensor_msgs/msg/PointField"]
        return cloud.fill(empty, self.header(cloud.stamp_ns, cloud.frame_id), field)

    def transforms(self, transforms: Iterable[tuple[str, str, np.ndarray]], stamp_ns: int) -> Any:
        """Make a tf2_msgs/TFMessage.

        transforms: parent, child and matrix (4, 4) of each, p_parent = matrix @ p_child, metres.
        """
        stamped, transform, vector, rotation = (
            self._types[f"geometry_msgs/msg/{name}"]
            for name in ("TransformStamped", "Transform", "Vector3", "Quaternion")
        )
        return self._types[TF_MESSAGE](
            [
                stamped(
                    self.header(stamp_ns, parent),
                    child,
                    transform(vector(*matrix[:3, 3].tolist()), rotation(*quaternion(matrix).tolist())),
                )
                for parent, child, matrix in transforms
            ]
        )


def _with_array(message: Any) -> Any:
    """Replace the standard library's arrays, as in rclpy, by NumPy's for rosbags, without a copy."""
    message.data = np.frombuffer(message.data, np.uint8)
    return message
