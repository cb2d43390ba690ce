"""Bags as another program writes them, by rosbags alone: images, depth, clouds and transforms."""

from __future__ import annotations

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

TYPES = get_typestore(Stores.ROS2_HUMBLE)
IMAGE, COMPRESSED, CLOUD, TF = (
    "sensor_msgs/msg/Image",
    "sensor_msgs/msg/CompressedImage",
    "sensor_msgs/msg/PointCloud2",
    "tf2_msgs/msg/TFMessage",
)
START = 1_700_000_000 * 10**9
MS = 10**6


def made(kind, *arguments):
    return TYPES.types[kind](*arguments)


def header(stamp_ns, frame_id):
    return made("std_msgs/msg/Header", made("builtin_interfaces/msg/Time", *divmod(stamp_ns, 10**9)), frame_id)


def image(stamp_ns, data, encoding="rgb8", frame_id="optical", padding=0):
    """An Image; the byte order is that of the array."""
    rows = np.ascontiguousarray(data).reshape(len(data), -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, padding)))
    big = int(data.dtype.byteorder == ">")
    return made(IMAGE, header(stamp_ns, frame_id), *data.shape[:2], encoding, big, rows.shape[1], rows.ravel())


def picture(stamp_ns, frame_id="optical", size=(6, 8)):
    return image(stamp_ns, np.full((*size, 3), 7, np.uint8), frame_id=frame_id)


def millimetres(stamp_ns, value, frame_id="optical", size=(6, 8)):
    return image(stamp_ns, np.full(size, value, np.uint16), "16UC1", frame_id)


def cloud(stamp_ns, count=3, frame_id="velodyne", big=False, name="x"):
    """A cloud of `count` points in a row; their x is their number."""
    kind = np.dtype(">f4" if big else "<f4")
    points = np.zeros((count, 5), kind)  # x, y, z, and padding
    points[:, 0] = np.arange(count)
    fields = [made("sensor_msgs/msg/PointField", axis, 4 * k, 7, 1) for k, axis in enumerate((name, "y", "z"))]
    data = points.reshape(-1).view(np.uint8)
    return made(CLOUD, header(stamp_ns, frame_id), 1, count, fields, big, 20, 20 * count, data, True)


def transforms(*found):
    """A TFMessage of (stamp_ns, parent, child, (x, y, z), (qx, qy, qz, qw))."""
    vector, quaternion = "geometry_msgs/msg/Vector3", "geometry_msgs/msg/Quaternion"
    return made(
        TF,
        [
            made(
                "geometry_msgs/msg/TransformStamped",
                header(stamp_ns, parent),
                child,
                made("geometry_msgs/msg/Transform", made(vector, *position), made(quaternion, *turn)),
            )
            for stamp_ns, parent, child, position, turn in found
        ],
    )


def write(path, messages, storage="MCAP"):
    """Write [(topic, message, log_ns)] by the time of recording; a message may be the bytes of one: (type, bytes)."""
    with Writer(path, version=9, storage_plugin=StoragePlugin[storage]) as writer:
        topics = {}
        for topic, message, log_ns in sorted(messages, key=lambda one: one[2]):
            kind, data = message if isinstance(message, tuple) else (message.__msgtype__, None)
            if topic not in topics:
                topics[topic] = writer.add_connection(topic, kind, typestore=TYPES)
            writer.write(topics[topic], log_ns, TYPES.serialize_cdr(message, kind) if data is None else data)
    return path
