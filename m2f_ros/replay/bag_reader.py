"""A rosbag2 that is read, whole or not, without ROS: its topics, and the messages of any of them in log order."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import yaml
from backports import zstd
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from m2f_ros.datasets.ids import natural_sort
from m2f_ros.errors import FrameError, SourceError
from m2f_ros.replay.bag import register_type
from m2f_ros.replay.messages import COMPRESSED_IMAGE, IMAGE
from m2f_ros.replay.storage import SUFFIXES, Definition, Storage, Topic, UnreadableError, one_line, open_storage

COMPRESSED = ".zstd"
# Of a zstd frame (RFC 8878). CDR begins with 00.
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Message:
    """A message of a bag.

    topic, type (as "sensor_msgs/msg/Image"); log_ns: when it was recorded, nanoseconds since the Unix epoch;
    data: CDR.
    """

    topic: str
    type: str
    log_ns: int
    data: bytes
    types: Types

    @property
    def stamp_ns(self) -> int:
        """Of its header, nanoseconds since the Unix epoch; for types that begin with one. Nothing else is decoded.

        0 where its driver does not stamp it, or too little of it is there.
        """
        if len(self.data) < 12:
            return 0
        seconds, nanoseconds = struct.unpack_from("<iI" if self.data[1] & 1 else ">iI", self.data, 4)
        return seconds * 1_000_000_000 + nanoseconds

    @property
    def taken_ns(self) -> int:
        """When what it holds was taken: `stamp_ns`; of a driver that does not stamp, the time of recording."""
        return self.stamp_ns or self.log_ns

    def decode(self) -> Any:
        """The message as rosbags has it, arrays as views of `data`.

        Raises FrameError where it is damaged, SourceError where its type is not known.
        """
        return self.types.decode(self.data, self.type, self.topic)


class Types:
    """Message types of a bag: those that rosbags knows, those that it defines, those of this environment."""

    def __init__(self, definitions: dict[str, Definition]) -> None:
        self._store: Typestore = get_typestore(Stores.LATEST)
        self._definitions = definitions

    def decode(self, data: bytes, kind: str, topic: str) -> Any:
        """As `Message.decode`."""
        if kind not in self._store.fielddefs:
            self._register(kind)
        try:
            return self._store.deserialize_cdr(data, kind)
        except Exception as error:  # rosbags lets through whatever damaged bytes make it stumble on
            raise FrameError(f"{topic}: a damaged message of {len(data)} bytes ({one_line(error)})") from None

    def _register(self, kind: str) -> None:
        definition = self._definitions.get(kind)
        if definition is None or not definition.text:
            register_type(self._store, kind)
            return
        try:
            if definition.format == "ros2idl":
                found = get_types_from_idl(definition.text)
            else:
                found = get_types_from_msg(definition.text, kind)
            self._store.register({name: found[name] for name in found.keys() - self._store.fielddefs.keys()})
        except Exception as error:  # as above
            raise SourceError(f"message type {kind}: its definition cannot be read ({one_line(error)})") from None


class Bag:
    """An open rosbag2: a folder, or a storage file alone.

    topics: all that there are, by name; of what was cut off, with as many messages as are left. problem: one line that
    says what is missing, empty where nothing is; what only shows on the way is there when `messages` has come to its
    end.
    """

    def __init__(self, path: str | Path) -> None:
        """Raises SourceError where there is no bag, or nothing of it can be read."""
        self.path = Path(path)
        self._problems: list[str] = []
        self._stack = ExitStack()
        self._storages: list[Storage] = []
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        topics: dict[str, Topic] = {}
        definitions: dict[str, Definition] = {}
        for storage in self._storages:
            definitions |= storage.definitions
            for name, topic in storage.topics.items():
                before = topics.get(name, Topic(topic.type, 0))
                topics[name] = Topic(before.type, before.count + topic.count)
        self.topics = dict(sorted(topics.items()))
        self.types = Types(definitions)

    @property
    def problem(self) -> str:
        damaged = (f"{storage.path.name}: {storage.problem}" for storage in self._storages if storage.problem)
        return "; ".join((*self._problems, *damaged))

    def image_topics(self) -> dict[str, int]:
        """Topics of sensor_msgs Image and CompressedImage that hold messages, with their number."""
        images = {name: topic for name, topic in self.topics.items() if topic.type in (IMAGE, COMPRESSED_IMAGE)}
        return {name: topic.count for name, topic in images.items() if topic.count}

    def messages(self, topics: Collection[str] | None = None) -> Iterator[Message]:
        """The messages of these topics, or all, in the order of their log times; from the beginning each time."""
        wanted = frozenset(self.topics if topics is None else topics)
        for storage in self._storages:
            for topic, kind, log_ns, data in storage.messages(wanted):
                if data[:4] == _ZSTD_MAGIC:
                    with suppress(zstd.ZstdError):  # decoding it says that it is damaged
                        data = zstd.decompress(data)
                yield Message(topic, kind, log_ns, data, self.types)

    def close(self) -> None:
        """Close it; closing twice is once."""
        self._stack.close()

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _open(self) -> None:
        files, listed = self._files()
        unreadable = []
        for file in files:
            try:
                self._storages.append(open_storage(self._unpacked(file)))
            except OSError as error:
                unreadable.append(f"{file.name}: {error.strerror or one_line(error)}")
            except UnreadableError as error:
                unreadable.append(f"{file.name}: {error}")
        if not self._storages:
            why = "; ".join((*self._problems, *unreadable)) or "it has no .mcap or .db3 file"
            raise SourceError(f"{self.path}: not a rosbag2 that can be read ({why})")
        self._problems += unreadable
        if not listed and not all(storage.finished or storage.problem for storage in self._storages):
            self._problems.append("no metadata.yaml: the recording was not finished")

    def _files(self) -> tuple[list[Path], bool]:
        """The storage files in order of recording, and whether it is known that these are all."""
        if self.path.is_file():
            return [self.path], True
        metadata = self.path / "metadata.yaml"
        if metadata.is_file():
            try:
                content = yaml.safe_load(metadata.read_text(encoding="utf-8"))
                names = content["rosbag2_bagfile_information"]["relative_file_paths"]
                return [self.path / Path(name).name for name in names], True
            except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
                self._problems.append("metadata.yaml is damaged")
        return natural_sort(p for p in self.path.iterdir() if is_storage(p)), False

    def _unpacked(self, file: Path) -> Path:
        """The file itself, or, where it is compressed, what it holds, in a temporary folder for as long as this."""
        if file.suffix != COMPRESSED:
            return file
        folder = Path(self._stack.enter_context(TemporaryDirectory(prefix="m2f_bag_")))
        unpacked = folder / file.stem
        try:
            with open(file, "rb") as packed, open(unpacked, "wb") as out:
                try:
                    whole = _unpack(packed, out)
                except zstd.ZstdError:
                    whole = False
        except OSError as error:
            if not file.is_file():
                raise
            raise SourceError(
                f"{file}: cannot be unpacked into {folder} ({error.strerror}); set TMPDIR to where there is room"
            ) from None
        if not whole:
            self._problems.append(f"{file.name}: damaged or cut off")
        return unpacked


def _unpack(packed: BinaryIO, out: BinaryIO) -> bool:
    """Write what a zstd file holds; False where its end is missing."""
    decompressor = zstd.ZstdDecompressor()
    while block := packed.read(1 << 20):
        while block:
            if decompressor.eof:
                decompressor = zstd.ZstdDecompressor()
            out.write(decompressor.decompress(block))
            block = decompressor.unused_data
    return decompressor.eof


def is_bag(path: Path) -> bool:
    """Whether the path is a rosbag2: a folder with metadata.yaml or storage files, finished or not, or such a file."""
    if path.is_dir():
        return (path / "metadata.yaml").is_file() or any(map(is_storage, path.iterdir()))
    return path.is_file() and is_storage(path)


def is_storage(path: Path) -> bool:
    """Whether a file is, by its name, one of a rosbag2."""
    return Path(path.name.removesuffix(COMPRESSED)).suffix in SUFFIXES and not path.name.startswith(".")
