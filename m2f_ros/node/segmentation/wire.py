"""Deserialises messages of cameras, lidars and tf from CDR.

ROS' own deserialiser is avoided: Fast CDR 2.3 (Kilted) reads beyond the end of a message of four bytes with declared
padding, and crashes the process. It also copies an image twice; this module returns a view of it, and of a cloud.

The layout of CDR (OMG DDSI-RTPS 2.5, chapter 10): an encapsulation of four bytes, then the fields in order. Numbers are
aligned to their size, relative to the end of the encapsulation. A text or sequence is its length and its bytes; a text
ends with a zero.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from m2f_ros.errors import FrameError, words_of

Message = TypeVar("Message", Image, CompressedImage, CameraInfo, PointCloud2)

_BEGIN = 4  # bytes of the encapsulation
_ORDERS = {b"\0\0": ">", b"\0\1": "<"}  # plain CDR; ROS sends no other
_MOST = 1000  # fields of a cloud, and transforms of a message


@dataclass(frozen=True)
class WireImage:
    """A sensor_msgs/Image whose data, uint8, is a view of the received bytes."""

    header: Header
    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: np.ndarray


@dataclass(frozen=True)
class WireCompressedImage:
    """A sensor_msgs/CompressedImage whose data, uint8, is a view of the received bytes."""

    header: Header
    format: str
    data: np.ndarray


@dataclass(frozen=True)
class WireField:
    """A sensor_msgs/PointField."""

    name: str
    offset: int
    datatype: int
    count: int


@dataclass(frozen=True)
class WireCloud:
    """A sensor_msgs/PointCloud2 whose data, uint8, is a view of the received bytes."""

    header: Header
    height: int
    width: int
    fields: list[WireField]
    is_bigendian: bool
    point_step: int
    row_step: int
    data: np.ndarray
    is_dense: bool


@dataclass(frozen=True)
class WireTransform:
    """A geometry_msgs/TransformStamped.

    Attributes:
        parent, child: names of the frames.
        stamp_ns: stamp, nanoseconds.
        translation: x, y, z in metres.
        rotation: quaternion x, y, z, w.
    """

    parent: str
    child: str
    stamp_ns: int
    translation: tuple[float, ...]
    rotation: tuple[float, ...]


def read_image(data: bytes) -> WireImage | Image:
    """Read an Image. Raises FrameError for malformed bytes."""
    if data[:2] not in _ORDERS:
        return _by_ros(data, Image)
    reader = _Reader(data)
    header = reader.header()
    height, width = reader.number("I", "height"), reader.number("I", "width")
    encoding, order, step = reader.text("encoding"), reader.number("B", "is_bigendian"), reader.number("I", "step")
    return WireImage(header, height, width, encoding, order, step, reader.bytes("data"))


def read_compressed(data: bytes) -> WireCompressedImage | CompressedImage:
    """Read a CompressedImage. Raises FrameError for malformed bytes."""
    if data[:2] not in _ORDERS:
        return _by_ros(data, CompressedImage)
    reader = _Reader(data)
    return WireCompressedImage(reader.header(), reader.text("format"), reader.bytes("data"))


def read_cloud(data: bytes) -> WireCloud | PointCloud2:
    """Read a PointCloud2. Raises FrameError for malformed bytes."""
    if data[:2] not in _ORDERS:
        return _by_ros(data, PointCloud2)
    reader = _Reader(data)
    header = reader.header()
    height, width = reader.number("I", "height"), reader.number("I", "width")
    fields = [
        WireField(
            reader.text("name"),
            reader.number("I", "offset"),
            reader.number("B", "datatype"),
            reader.number("I", "count"),
        )
        for _ in range(reader.length("fields"))
    ]
    order, step, row = (
        reader.number("B", "is_bigendian"),
        reader.number("I", "point_step"),
        reader.number("I", "row_step"),
    )
    return WireCloud(
        header,
        height,
        width,
        fields,
        bool(order),
        step,
        row,
        reader.bytes("data"),
        bool(reader.number("B", "is_dense")),
    )


def read_transforms(data: bytes) -> list[WireTransform]:
    """Read a tf2_msgs/TFMessage. Raises FrameError for malformed bytes."""
    if data[:2] not in _ORDERS:
        raise FrameError(f"{len(data)} bytes are no TFMessage")
    reader = _Reader(data)
    found = []
    for _ in range(reader.length("transforms")):
        header, child = reader.header(), reader.text("child_frame_id")
        numbers = reader.doubles(7, "transform")
        stamp = header.stamp.sec * 10**9 + header.stamp.nanosec
        found.append(WireTransform(header.frame_id, child, stamp, numbers[:3], numbers[3:]))
    return found


def read_info(data: bytes) -> CameraInfo:
    """Read a CameraInfo. Raises FrameError for malformed bytes."""
    return _by_ros(data, CameraInfo)


def _by_ros(data: bytes, kind: type[Message]) -> Message:
    # Too short for a stamp, like the messages that crash Fast CDR.
    if len(data) < _BEGIN + 8:
        raise FrameError(f"{len(data)} bytes are no {kind.__name__}")
    try:
        return deserialize_message(data, kind)
    except Exception as error:  # rclpy's errors, or invalid UTF-8
        raise FrameError(f"{len(data)} bytes are no {kind.__name__}: {words_of(error, 80)}") from None


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data, self._at, self._order = data, _BEGIN, _ORDERS[data[:2]]

    def header(self) -> Header:
        seconds, nanoseconds = self.number("i", "stamp"), self.number("I", "stamp")
        return Header(stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id=self.text("frame_id"))

    def number(self, kind: str, name: str) -> int:
        """Read a number. kind: format character of `struct`."""
        size = struct.calcsize("=" + kind)
        self._at += (_BEGIN - self._at) % size
        begin = self._take(size, name)
        return struct.unpack_from(self._order + kind, self._data, begin)[0]

    def doubles(self, count: int, name: str) -> tuple[float, ...]:
        self._at += (_BEGIN - self._at) % 8
        begin = self._take(8 * count, name)
        return struct.unpack_from(f"{self._order}{count}d", self._data, begin)

    def length(self, name: str) -> int:
        """Read the length of a sequence of structures."""
        length = self.number("I", name)
        if length > _MOST:
            raise FrameError(f"a message has {length} {name}; {_MOST} at most are read")
        return length

    def text(self, name: str) -> str:
        size = self.number("I", name)
        begin = self._take(size, name)
        # Ends at the first zero, as in ROS. Some libraries write an empty text without a zero.
        try:
            return self._data[begin : begin + size].partition(b"\0")[0].decode()
        except UnicodeDecodeError:
            raise FrameError(f"{name} is no text in UTF-8") from None

    def bytes(self, name: str) -> np.ndarray:
        size = self.number("I", name)
        return np.frombuffer(self._data, np.uint8, size, self._take(size, name))

    def _take(self, size: int, name: str) -> int:
        """Return the offset of the next `size` bytes."""
        begin, left = self._at, len(self._data) - self._at
        if size > left:
            raise FrameError(
                f"a message of {len(self._data)} bytes has {size} bytes of {name}, but {max(left, 0)} left"
            )
        self._at += size
        return begin
