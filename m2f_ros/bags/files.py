"""The storage files of a rosbag2: finds, groups and decompresses them."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from backports import zstd

from m2f_ros.bags.bounds import most_of, require_file
from m2f_ros.bags.mcap_records import MAGIC
from m2f_ros.bags.sqlite_file import SqliteFile
from m2f_ros.bags.storage import MOST_FILES, SUFFIXES, McapFile, Storage, Topic, UnreadableError, convert, read_metadata
from m2f_ros.datasets.ids import natural_sort
from m2f_ros.documents import read_text
from m2f_ros.errors import SourceError, say_once, some

METADATA = "metadata.yaml"
COMPRESSED = (".zstd", ".zst")
# A file of a recording begins at most OVERLAP_NS before, or GAP_NS after, the end of the previous file.
OVERLAP_NS, GAP_NS = 10**9, 10 * 10**9
SQLITE, ROS1 = b"SQLite format 3\0", b"#ROSBAG V"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # of a frame (RFC 8878)
# Bytes decompressed at a time. With a small block, many small frames do not each copy all bytes behind them.
_BLOCK, _SMALL_BLOCK = 1 << 20, 4096
_ROOM = 1 << 28  # bytes to leave free on the disk


class SeveralRecordingsError(SourceError):
    """A folder holds files of several recordings.

    Attributes:
        recordings: path of each recording, for `Bag`.
        found: line that lists the recordings.
    """

    def __init__(self, folder: Path, recordings: Sequence[Sequence[str]]) -> None:
        names = [",".join(parts) for parts in recordings]
        self.recordings = [folder / name for name in names]
        self.found = f"{folder}: {len(names)} recordings that do not continue each other: {some(names, '; ')}"
        super().__init__(f"{self.found}; name one of them")


@dataclass(frozen=True)
class Listing:
    """The existing storage files of a bag, with the plain and compressed variants of each.

    Attributes:
        topics: topics in metadata.yaml; None without it, when files may be missing.
        problem: description of a mismatch with metadata.yaml, or "".
    """

    files: list[list[Path]]
    topics: dict[str, Topic] | None
    problem: str = ""


def list_files(path: Path) -> Listing:
    """List the storage files of a bag. path: see `Bag`."""
    if not path.is_dir():
        return Listing([[part] for part in _parts(path) or [path]], {})
    there = natural_sort({_plain(file) for file in path.iterdir() if is_storage(file)})
    metadata, topics, problem = path / METADATA, None, ""
    listed = there
    if metadata.is_file():
        try:
            names, topics = read_metadata(read_text(metadata))
            # Only the file names count: no path may lead out of the folder.
            listed = list(dict.fromkeys(_plain(path / Path(name).name) for name in names if Path(name).name != ".."))
        except (OSError, ValueError):
            problem = "metadata.yaml is damaged"
    if len(there) > MOST_FILES:
        raise SourceError(f"{path}: {len(there)} files of bags, more than the {MOST_FILES} that are read")
    known = {*there}
    missing = [file for file in listed if file not in known]
    known = {*listed}
    others = [file for file in there if file not in known]
    named = some([file.name for file in others])
    if others and not missing:
        say_once(f"{path}: {named}: left out, since metadata.yaml does not list it")
    elif others and len(others) <= len(missing):
        say_once(
            f"{path}: {named}: read in place of {missing[0].name}, which metadata.yaml lists, but which is not there"
        )
        listed = [file for file in listed if file not in missing] + others
    elif others:
        problem = f"metadata.yaml lists other files than there are ({named}): name one of these"
    return Listing([_variants(file) or [file] for file in listed], topics, problem)


def open_storage(path: Path, packed: int | None = None) -> Storage:
    """Open a storage file, whole or damaged. Raises UnreadableError if no message can be read, or OSError.

    packed: size of the compressed file, bytes; None if it was not compressed.
    """
    require_file(path)
    with open(path, "rb") as file:
        begin = file.read(16)
    if not begin:
        raise UnreadableError("the file is empty")
    if begin.startswith(SQLITE):
        return SqliteFile(path)
    if begin.startswith(ROS1):
        raise UnreadableError(f"it is of ROS 1: {convert(path)}")
    if not begin.startswith(MAGIC):
        raise UnreadableError("neither MCAP nor SQLite")
    return McapFile(path, packed)


def unpacked(file: Path, stack: ExitStack) -> tuple[Path, str]:
    """Return the file, or its decompressed content in a temporary folder that `stack` removes.

    Return also a description of the damage, or "". Raises SourceError if the disk has no room, OSError if it is not a
    regular file.
    """
    require_file(file)
    with open(file, "rb") as packed:
        if packed.read(4) != ZSTD_MAGIC:
            return file, ""
        packed.seek(0)
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="m2f_bag_")))
        found = folder / _plain(file).name
        try:
            with open(found, "wb") as out:
                problem = _unpack(packed, out, most_of(os.fstat(packed.fileno()).st_size))
        except OSError as error:
            raise SourceError(
                f"{file}: cannot be unpacked into {folder} ({error.strerror}); set TMPDIR to where there is room"
            ) from None
    return found, problem


def _unpack(packed: BinaryIO, out: BinaryIO, most: int) -> str:
    """Decompress at most `most` bytes of a zstd file. Return a description of the damage, or "". Raises OSError."""
    decompressor, piece, step, written, checked = zstd.ZstdDecompressor(), b"", _BLOCK, 0, 0
    while True:
        if decompressor.eof:
            piece, decompressor, step = decompressor.unused_data, zstd.ZstdDecompressor(), _SMALL_BLOCK
            if not (piece := piece or packed.read(step)):
                return ""
        elif decompressor.needs_input and not (piece := packed.read(step)):
            return "damaged or cut off"
        try:
            block = decompressor.decompress(piece, max_length=_BLOCK)
        except zstd.ZstdError:
            return "damaged or cut off"
        piece = b""
        written += len(block)
        if written > most:
            return f"unpacks to more than {most >> 20} MiB, and the rest is left out"
        if written >= checked:
            if shutil.disk_usage(out.fileno()).free < _ROOM:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            checked = written + _ROOM // 2
        out.write(block)


def recordings_of(storages: Sequence[Storage]) -> list[list[Storage]]:
    """Group files into recordings, ordered by time. Files without messages belong to the first one."""
    recordings: list[list[Storage]] = []
    filled = [storage for storage in storages if any(topic.count for topic in storage.topics.values())]
    for storage in sorted(filled, key=lambda storage: storage.first_ns):
        before = [parts for parts in recordings if _continues(parts[-1], storage)]
        if before:
            max(before, key=lambda parts: (_title(parts[-1]) == _title(storage), parts[-1].last_ns)).append(storage)
        else:
            recordings.append([storage])
    empty = [storage for storage in storages if not any(topic.count for topic in storage.topics.values())]
    return [recordings[0] + empty, *recordings[1:]] if recordings else [empty]


def _continues(before: Storage, storage: Storage) -> bool:
    """Return True if a file begins when the other ends, within tolerance, and shares a topic with it."""
    overlap = min(OVERLAP_NS, (before.last_ns - before.first_ns) // 10)
    if not -overlap <= storage.first_ns - before.last_ns <= GAP_NS:
        return False
    topics = ({(n, t.type) for n, t in part.topics.items() if t.count} for part in (before, storage))
    return bool(set.intersection(*topics))


def _title(storage: Storage) -> str:
    """Return the name of a file without its number."""
    return _plain(Path(storage.name)).stem.rstrip("0123456789")


def bag_path(path: str | Path) -> Path:
    """Return the folder for the path of a metadata.yaml, else the path itself."""
    path = Path(path)
    return path.parent if path.name == METADATA and path.is_file() else path


def bag_name(path: Path) -> str:
    """Return the name for the results of a bag."""
    path = bag_path(path)
    if path.is_dir():
        return os.path.basename(os.path.abspath(path))
    return _plain((_parts(path) or [path])[0]).stem


def is_bag(path: str | Path) -> bool:
    """Return True for the path of a bag, finished or not, or of a ROS 1 bag, which `Bag` refuses."""
    path = bag_path(path)
    if path.is_dir():
        return (path / METADATA).is_file() or any(map(is_storage, path.iterdir()))
    return bool(_parts(path))


def is_storage(path: Path) -> bool:
    """Return True for the name of a storage file of rosbag2."""
    return _plain(path).suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _parts(path: Path) -> list[Path]:
    """Return the storage files in a path: one, or several of one folder, separated by commas; else none."""
    if path.is_file():
        return [path] if is_storage(path) or _begins_like_a_bag(path) else []
    parts = [path.with_name(name) for name in path.name.split(",") if name]
    return parts if len(parts) > 1 and all(part.is_file() and is_storage(part) for part in parts) else []


def _begins_like_a_bag(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(16).startswith((MAGIC, SQLITE, ROS1))
    except OSError:
        return False


def _plain(path: Path) -> Path:
    """Return the path of a file without the suffix of its compression."""
    return path.with_suffix("") if path.suffix in COMPRESSED else path


def _variants(file: Path) -> list[Path]:
    """Return the existing variants of a file, plain and compressed."""
    plain = _plain(file)
    return [path for path in (plain, *(Path(f"{plain}{suffix}") for suffix in COMPRESSED)) if path.is_file()]
