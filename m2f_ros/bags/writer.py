"""Writes a rosbag2 (MCAP or sqlite3) for `ros2 bag play` and Foxglove, without ROS."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.interfaces.typing import Typesdict
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from m2f_ros.errors import SourceError

STORAGES = ("mcap", "sqlite3")
COMPRESSION = {
    "none": CompressionMode.NONE,
    "chunk": CompressionMode.STORAGE,  # inside the MCAP file
    "message": CompressionMode.MESSAGE,
}
# Bytes reserved for closing a bag: the writer's pending chunk (1 MiB), metadata, and the index, one byte for INDEXED
# bytes of messages.
ROOM_TO_CLOSE, INDEXED = 4 << 20, 4096
# rosbag2's value of an unlimited deadline, lifespan or lease.
_INFINITE = QosTime(9223372036, 854775807)


class DiskFullError(OSError):
    """The disk has no room for more messages."""


class BagWriter:
    """Writes a rosbag2. It is readable after `close`, or after the `with` block, even if that raises."""

    def __init__(self, path: str | Path, storage: str = "mcap", compression: str = "none") -> None:
        """path: folder to create. storage: "mcap" or "sqlite3".

        compression: "none", or zstd by "message" or, for MCAP, by "chunk".
        Raises SourceError if the folder exists or cannot be created.
        """
        if storage not in STORAGES:
            raise SourceError(f"bag storage {storage!r}: must be {' or '.join(STORAGES)}")
        if not can_compress(storage, compression):
            raise SourceError(f"bag compression {compression!r}: must be none, message, or chunk (mcap only)")
        self.path, self._storage = Path(path), storage
        self.types = get_typestore(Stores.LATEST)
        self._topics: dict[str, Connection] = {}
        self._written = 0
        try:
            # Version 8 writes QoS as numbers, which Humble reads too.
            self._writer: Writer | None = Writer(self.path, version=8, storage_plugin=StoragePlugin[storage.upper()])
            self._writer.set_compression(COMPRESSION[compression], CompressionFormat.ZSTD)
            self._writer.open()
        except (WriterError, OSError) as error:
            raise SourceError(f"{self.path}: the bag cannot be written: {error}") from None

    def add_topic(self, topic: str, msgtype: str, *, latched: bool = False, best_effort: bool = False) -> None:
        """Declare a topic with the QoS of its publisher, which `ros2 bag play` then offers.

        msgtype: message type, such as "sensor_msgs/msg/Image". Raises SourceError if its definition is not found.
        """
        register_type(self.types, msgtype)
        qos = Qos(
            QosHistory.KEEP_LAST,
            1 if latched else 10,
            QosReliability.BEST_EFFORT if best_effort else QosReliability.RELIABLE,
            QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
            _INFINITE,
            _INFINITE,
            QosLiveliness.AUTOMATIC,
            _INFINITE,
            avoid_ros_namespace_conventions=False,
        )
        self._topics[topic] = self._open_writer().add_connection(
            topic, msgtype, typestore=self.types, offered_qos_profiles=[qos]
        )

    def write(self, topic: str, msgtype: str, message: object, stamp_ns: int) -> None:
        """Add a message, received at stamp_ns (ns since the Unix epoch).

        message: CDR bytes, as from rclpy's raw subscriptions, or a message object of `self.types`.
        A new topic is declared with reliable, volatile QoS.
        Raises DiskFullError while there is still room to close the bag, or OSError if the file system fails.
        """
        writer = self._open_writer()
        if topic not in self._topics:
            self.add_topic(topic, msgtype)
        if isinstance(message, (bytes, bytearray, memoryview)):
            data = memoryview(message)
        else:
            data = self.types.serialize_cdr(message, msgtype)
        self.require(len(data))
        self._written += len(data)
        with _os_errors():
            writer.write(self._topics[topic], stamp_ns, data)

    def require(self, size: int) -> None:
        """Raise DiskFullError if the disk lacks room for `size` more bytes of messages and for closing the bag."""
        if shutil.disk_usage(self.path).free < ROOM_TO_CLOSE + (self._written + size) // INDEXED + 2 * size:
            raise DiskFullError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def close(self) -> None:
        """Write index and metadata. Further calls do nothing. Raises OSError if the file system fails."""
        if self._writer is not None:
            with _os_errors():
                self._writer.close()
            self._writer = None

    def abort(self) -> None:
        """Close without index and metadata, in any state of the file. Never raises."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(Exception):
                writer.abort()

    def remove(self) -> None:
        """Close as `abort`, and remove the bag's files, and its folder if that is then empty."""
        self.abort()
        for name in written_files(self.path.name, self._storage):
            with suppress(OSError):
                (self.path / name).unlink()
        with suppress(OSError):
            self.path.rmdir()

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _open_writer(self) -> Writer:
        if self._writer is None:
            raise SourceError(f"{self.path}: the bag is closed already")
        return self._writer


# Fields of vision_msgs since 4.0, which PyPI has not.
_VISION = {
    "Point2D": "float64 x\nfloat64 y\n",
    "Pose2D": "vision_msgs/Point2D position\nfloat64 theta\n",
    "BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y\n",
    "ObjectHypothesis": "string class_id\nfloat64 score\n",
    "ObjectHypothesisWithPose": "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose\n",
    "Detection2D": "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
    "vision_msgs/BoundingBox2D bbox\nstring id\n",
    "Detection2DArray": "std_msgs/Header header\nvision_msgs/Detection2D[] detections\n",
}


def can_compress(storage: str, compression: str) -> bool:
    """Return True if the compression exists for this storage."""
    return compression in COMPRESSION and (storage, compression) != ("sqlite3", "chunk")


def written_files(name: str, storage: str) -> list[str]:
    """Return all files that a BagWriter may create in a folder of this name, including temporary ones."""
    endings = {"mcap": (".mcap",), "sqlite3": (".db3", ".db3-journal", ".db3-wal", ".db3-shm")}
    return ["metadata.yaml", *(f"{name}{ending}" for ending in endings[storage])]


@contextmanager
def _os_errors() -> Iterator[None]:
    """Turn SQLite's errors of writing into OSError."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OSError(errno.EIO, str(error)) from None


def register_type(types: Typestore, msgtype: str) -> None:
    """Register a message type that rosbags lacks, with all types of its package.

    Definitions come from share/PACKAGE/msg of the ROS environment; this package's also from its wheel or checkout, and
    those of vision_msgs from here. Raises SourceError if there are none.
    """
    if msgtype in types.fielddefs:
        return
    package, _, name = msgtype.partition("/msg/")
    if package == "vision_msgs" and name in _VISION:
        for one, fields in _VISION.items():
            types.register(get_types_from_msg(fields, f"{package}/msg/{one}"))
        return
    if not (package.isidentifier() and name.isidentifier()):  # a name must not be a path
        raise SourceError(f"message type {msgtype}: no name of a type, as std_msgs/msg/Header is one")
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    folders = [Path(prefix) / "share" / package / "msg" for prefix in prefixes]
    if package == "m2f_ros":
        own = Path(__file__).resolve().parents[1]
        folders += [own / "definitions", own.parent / "msg"]
    for folder in folders:
        if name and (folder / f"{name}.msg").is_file():
            found: Typesdict = {}
            for file in folder.glob("*.msg"):
                found |= get_types_from_msg(file.read_text(encoding="utf-8"), f"{package}/msg/{file.stem}")
            types.register({name: found[name] for name in found.keys() - types.fielddefs.keys()})
            return
    raise SourceError(f"message type {msgtype}: no definition in {', '.join(map(str, folders)) or 'AMENT_PREFIX_PATH'}")
