"""Makes messages of rclpy from arrays and the package's own objects."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from m2f_ros.frame.compressed import PNG_LEVEL, QUALITY, fill_compressed
from m2f_ros.frame.raw import fill

if TYPE_CHECKING:
    from nav_msgs.msg import OccupancyGrid
    from sensor_msgs.msg import CompressedImage, Image, LaserScan, PointCloud2
    from std_msgs.msg import Header
    from tf2_msgs.msg import TFMessage
    from vision_msgs.msg import Detection2DArray

    from m2f_ros.model.heads import Segment as PipelineSegment
    from m2f_ros.msg import Segment
    from m2f_ros.space.cloud import Cloud
    from m2f_ros.space.detections import Detection
    from m2f_ros.space.obstacles import Scan


def encode(image: np.ndarray, encoding: str, header: Header) -> Image:
    """Make an image message from an array; see `frame.raw.fill`."""
    # Imported here, so that the codec can be tested without ROS.
    from sensor_msgs.msg import Image

    return fill(Image(), image, encoding, header)


def encode_compressed(
    image: np.ndarray,
    encoding: str,
    header: Header,
    format: str = "png",
    quality: int = QUALITY,
    png_level: int = PNG_LEVEL,
) -> CompressedImage:
    """Make a compressed image message from an array; see `frame.compressed.fill_compressed`."""
    from sensor_msgs.msg import CompressedImage

    return fill_compressed(CompressedImage(), image, encoding, header, format, quality, png_level)


def encode_depth(depth: np.ndarray, header: Header) -> Image:
    """Make a message of a depth image of encoding 32FC1. depth: (H, W) float32, metres, NaN where unknown."""
    from sensor_msgs.msg import Image

    height, width = depth.shape
    message = Image(header=header, height=height, width=width, encoding="32FC1", step=4 * width)
    message.data = _array("B", np.ascontiguousarray(depth, "<f4").reshape(-1).view(np.uint8), np.uint8)
    return message


def segment_message(segment: PipelineSegment) -> Segment:
    """Make the message of a segment of a panoptic image."""
    from m2f_ros.msg import Segment

    x, y, width, height = segment.box
    return Segment(
        id=segment.id,
        class_id=segment.train_id,
        score=segment.score,
        area=segment.area,
        x=x,
        y=y,
        width=width,
        height=height,
    )


def cloud_message(cloud: Cloud, header: Header) -> PointCloud2:
    """Make a message of a cloud, with this header."""
    from sensor_msgs.msg import PointCloud2, PointField

    return cloud.fill(PointCloud2(), header, PointField)


def grid_message(
    cells: np.ndarray, resolution: float, origin: tuple[float, float, float], header: Header
) -> OccupancyGrid:
    """Make a message of a grid.

    Args:
        cells: (rows, columns) int8: row = y, column = x.
        resolution: side of a cell, metres.
        origin: x, y, z of the outer corner of cell (0, 0), metres.
        header: stamp and frame of the grid.
    """
    from nav_msgs.msg import OccupancyGrid

    message = OccupancyGrid(header=header)
    info = message.info
    info.map_load_time, info.resolution = header.stamp, resolution
    info.height, info.width = cells.shape
    position = info.origin.position
    position.x, position.y, position.z = map(float, origin)
    message.data = _array("b", cells, np.int8)
    return message


def scan_message(scan: Scan, header: Header) -> LaserScan:
    """Make a message of ranges, with the classes as intensities. header: stamp and frame of the scan's centre."""
    from sensor_msgs.msg import LaserScan

    return LaserScan(
        header=header,
        angle_min=scan.angle_min,
        angle_max=scan.angle_max,
        angle_increment=scan.angle_increment,
        range_min=scan.range_min,
        range_max=scan.range_max,
        ranges=_array("f", scan.ranges, np.float32),
        intensities=_array("f", scan.classes, np.float32),
    )


def transforms_message(transforms: Iterable[tuple[str, str, np.ndarray]], stamp: Any) -> TFMessage:
    """Make a message of tf.

    transforms: parent, child and matrix (4, 4) of each, p_parent = matrix @ p_child, metres.
    """
    from geometry_msgs.msg import TransformStamped
    from std_msgs.msg import Header
    from tf2_msgs.msg import TFMessage

    from m2f_ros.space.transforms import quaternion

    message = TFMessage()
    for parent, child, matrix in transforms:
        one = TransformStamped(header=Header(stamp=stamp, frame_id=parent), child_frame_id=child)
        position, turn = one.transform.translation, one.transform.rotation
        position.x, position.y, position.z = matrix[:3, 3].tolist()
        turn.x, turn.y, turn.z, turn.w = quaternion(matrix).tolist()
        message.transforms.append(one)
    return message


def detections_message(found: Iterable[Detection], header: Header) -> Detection2DArray:
    """Make a message of boxes, each with the train id of its class as text, which vision_msgs/LabelInfo explains.

    header: of the image. A centre in space is the position of the hypothesis' pose, in the frame of the header.
    """
    from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

    message = Detection2DArray(header=header)
    for one in found:
        detection = Detection2D(header=header, id=str(one.id))
        x, y, width, height = one.box
        box = detection.bbox
        # As vision_msgs' own createAABB2D.
        box.center.position.x, box.center.position.y = x + width / 2, y + height / 2
        box.size_x, box.size_y = float(width), float(height)
        result = ObjectHypothesisWithPose()
        result.hypothesis.class_id, result.hypothesis.score = str(one.train_id), float(one.score)
        if one.centre is not None:
            position = result.pose.pose.position
            position.x, position.y, position.z = map(float, one.centre)
        detection.results.append(result)
        message.detections.append(detection)
    return message


def _array(code: str, values: np.ndarray, kind: type) -> array:
    """Return an array.array, which rclpy takes without a look at each element."""
    made = array(code)
    made.frombytes(np.ascontiguousarray(values, kind).data.cast("B"))
    return made
