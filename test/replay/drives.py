"""Drives that are bags of small images, and what is in a bag."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore

from m2f_ros.bags.writer import BagWriter, register_type

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))
from stub import frame

IMAGE = "sensor_msgs/msg/Image"
START = 1_700_000_000 * 10**9
TYPES = get_typestore(Stores.LATEST)
for name in ("m2f_ros/msg/Legend", "m2f_ros/msg/Segments", "m2f_ros/msg/Stats"):
    register_type(TYPES, name)


def image_message(data, stamp=(7, 5), frame_id="cam", encoding="rgb8"):
    time = TYPES.types["builtin_interfaces/msg/Time"](*stamp)
    header = TYPES.types["std_msgs/msg/Header"](time, frame_id)
    height, width = data.shape[:2]
    return TYPES.types[IMAGE](header, height, width, encoding, 0, data[0].nbytes, data.reshape(-1).view(np.uint8))


def write_drive(path, topics=("/camera/image",), count=10, storage="mcap", bad=(), size=(32, 64)):
    """`count` images in turns of the topics; a picture stays for three images of a topic. bad: numbers cut short."""
    with BagWriter(path, storage) as bag:
        for i in range(count):
            data = frame(i // len(topics) // 3, *size).data
            message = image_message(data, (100 + i, 5 * i), f"cam{i % len(topics)}")
            if i in bad:
                message.data = message.data[:100]
            bag.write(topics[i % len(topics)], IMAGE, message, START + i * 10**8)
    return path


def messages(bag, *leave_out):
    """topic -> [(log time, CDR bytes)] of a whole bag, as rosbags reads it; not of topics that end in `leave_out`."""
    found = {}
    with Reader(bag) as reader:
        for connection, log_ns, data in reader.messages():
            if not connection.topic.endswith(leave_out or "\0"):
                found.setdefault(connection.topic, []).append((log_ns, bytes(data)))
        assert {c.topic: c.msgcount for c in reader.connections if c.topic in found} == {
            topic: len(some) for topic, some in found.items()
        }
    return found


def decoded(bag, topic, msgtype=IMAGE):
    """(log time, message) of a topic."""
    return [(log_ns, TYPES.deserialize_cdr(data, msgtype)) for log_ns, data in messages(bag).get(topic, [])]


def pixels(message):
    kind = np.uint16 if message.encoding == "mono16" else np.uint8
    array = message.data.view(kind).reshape(message.height, message.width, -1)
    return array[..., 0] if array.shape[2] == 1 else array
