"""Writing a rosbag2 (MCAP or sqlite3) without ROS, as `ros2 bag play` and Foxglove read it."""

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
# Bytes kept free for the end of a bag: the chunk that the writer holds back (1 MiB), metadata, and the index, which
# takes one byte for INDEXED bytes of messages.
ROOM_TO_CLOSE, INDEXED = 4 << 20, 4096
# rosbag2's way to write that a deadline, lifespan or lease is not limited.
_INFINITE = QosTime(9223372036, 854775807)


class DiskFullError(OSError):
    """There is no room for more messages."""


class BagWriter:
    """A rosbag2 that is being written. Closing it, or leaving its `with` block anyhow, makes it readable."""

    def __init__(self, path: str | Path, storage: str = "mcap", compression: str = "none") -> None:
        """path: folder to create. storage: "mcap" or "sqlite3".

        compression: "none", or zstd by "message" or "chunk"; the latter is MCAP's own, sqlite3 has none.
        Raises SourceError where the folder exists already or cannot be made.
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
        """Declare a topic with the QoS of its publisher, so that `ros2 bag play` offers the same.

        msgtype: as "sensor_msgs/msg/Image". Raises SourceError for a type whose definition is not found.
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

        message: CDR bytes, as rclpy's raw subscriptions give them, or a message object of `self.types`.
        A topic that was not added is added with reliable, volatile QoS.
        Raises DiskFullError while there is still room to close the bag, OSError where the file system fails.
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
        """Raises DiskFullError unless the disk has room for so many more bytes of messages, and to close the bag."""
        if shutil.disk_usage(self.path).free < ROOM_TO_CLOSE + (self._written + size) // INDEXED + 2 * size:
            raise DiskFullError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def close(self) -> None:
        """Write index and metadata. Closing twice is once. Raises OSError where the file system fails."""
        if self._writer is not None:
            with _os_errors():
                self._writer.close()
            self._writer = None

    def abort(self) -> None:
        """Close without index and metadata, whatever state the file is in. Never raises."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(Exception):
                writer.abort()

    def remove(self) -> None:
        """As `abort`, and nothing of the bag stays, nor its folder unless somebody has put something into it."""
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


def can_compress(storage: str, compression: str) -> bool:
    """True where there is such a compression, and files of this storage can have it."""
    return compression in COMPRESSION and (storage, compression) != ("sqlite3", "chunk")


def written_files(name: str, storage: str) -> list[str]:
    """All files that a BagWriter may make in a folder of this name, while it writes and after that."""
    endings = {"mcap": (".mcap",), "sqlite3": (".db3", ".db3-journal", ".db3-wal", ".db3-shm")}
    return ["metadata.yaml", *(f"{name}{ending}" for ending in endings[storage])]


@contextmanager
def _os_errors() -> Iterator[None]:
    """SQLite has errors of its own for a file that cannot be written."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise OSError(errno.EIO, str(error)) from None


def register_type(types: Typestore, msgtype: str) -> None:
    """Make a message type known that rosbags does not bring, together with the others of its package.

    Definitions come from share/PACKAGE/msg of the ROS environment, this package's own also from its checkout.
    Raises SourceError where there are none.
    """
    if msgtype in types.fielddefs:
        return
    package, _, name = msgtype.partition("/msg/")
    if not (package.isidentifier() and name.isidentifier()):  # no path to anywhere else
        raise SourceError(f"message type {msgtype}: no name of a type, as std_msgs/msg/Header is one")
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    folders = [Path(prefix) / "share" / package / "msg" for prefix in prefixes]
    if package == "m2f_ros":
        folders.append(Path(__file__).resolve().parents[2] / "msg")
    for folder in folders:
        if name and (folder / f"{name}.msg").is_file():
            found: Typesdict = {}
            for file in folder.glob("*.msg"):
                found |= get_types_from_msg(file.read_text(encoding="utf-8"), f"{package}/msg/{file.stem}")
            types.register({name: found[name] for name in found.keys() - types.fielddefs.keys()})
            return
    raise SourceError(f"message type {msgtype}: no definition in {', '.join(map(str, folders)) or 'AMENT_PREFIX_PATH'}")
