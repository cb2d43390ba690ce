"""Caches files on disk, in folders that only this user can write to.

The process runs code from these files: another user with write access could run code as this user.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from m2f_ros.errors import say_once

# Most bytes of the files in a folder; the least recently used files are evicted.
BYTES = 2 << 30
_DIGEST = 32  # bytes of SHA-256
_LENGTH = 8  # bytes of the length before each part
_PARTIAL = ".partial"
_ABANDONED = 3600.0  # seconds after which a temporary file belongs to a killed process


def cache_folder(name: str) -> Path:
    """Return m2f_ros/NAME in $XDG_CACHE_HOME, if that is absolute, or in ~/.cache. It may be missing or relative."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if os.path.isabs(base) else os.path.expanduser("~/.cache")) / "m2f_ros" / name


def private(folder: Path) -> str:
    """Create a folder, mode 0700, and its missing parents. Return "", or why the folder is not private.

    All its parents must belong to this user or root, and be writable by nobody else, unless they have the sticky bit,
    such as /tmp; the folder itself must belong to this user.
    """
    if not folder.is_absolute():
        return "there is no home"
    try:
        for place in reversed((folder, *folder.parents)):
            with contextlib.suppress(FileExistsError):
                place.mkdir(0o700)
        # Both the given and the resolved path, since a link may belong to another user.
        for path in (folder, folder.resolve()):
            for place in (path, *path.parents):
                found = place.lstat()
                if found.st_uid not in (os.geteuid(), 0):
                    return f"{place} belongs to another user"
                open_to_others = found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX
                if stat.S_ISDIR(found.st_mode) and open_to_others:
                    return f"others may write to {place}: chmod go-w closes it"
        found = folder.stat()
        if not stat.S_ISDIR(found.st_mode):
            return f"{folder} is no folder"
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            return f"{folder} is not of this user alone"
        if found.st_mode & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        return f"{error.filename or folder}: {error.strerror}"
    return ""


def read(path: Path) -> list[bytes] | None:
    """Read the parts that `write` stored at `path`; None if there are none, or, with a warning, if they are damaged."""
    if private(path.parent):
        return None
    try:
        # Does not follow a link, and does not block on a pipe.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except FileNotFoundError:
        return None
    except OSError as error:
        return _bad(path, str(error.strerror))
    with file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            return _bad(path, "not a file of this user alone")
        try:
            digest, content = file.read(_DIGEST), memoryview(file.read(BYTES))
        except OSError as error:
            return _bad(path, str(error.strerror))
        with contextlib.suppress(OSError):  # on a read-only disk
            _mark_used(file.fileno())
    if hashlib.sha256(_name(path) + content).digest() != digest:
        return _bad(path, "damaged")
    parts = []
    while content:
        end = _LENGTH + int.from_bytes(content[:_LENGTH], "little")
        parts.append(bytes(content[_LENGTH:end]))
        content = content[end:]
    return parts


def write(path: Path, parts: Sequence[bytes]) -> None:
    """Store parts for `read` atomically, and evict old files.

    A full or read-only disk gives a warning, not an error: the next start repeats the work.
    """
    if why := private(path.parent):
        return _not_kept(why)
    content = [piece for part in parts for piece in (len(part).to_bytes(_LENGTH, "little"), part)]
    digest = hashlib.sha256(_name(path))
    for piece in content:
        digest.update(piece)
    partial = None
    try:
        descriptor, partial = tempfile.mkstemp(_PARTIAL, ".", path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(digest.digest())
            file.writelines(content)
            file.flush()
            _mark_used(descriptor)
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(partial or "")
        return _not_kept(f"{path.parent}: {error.strerror}")
    _make_room(path)


def _make_room(kept: Path) -> None:
    files = []
    for path in kept.parent.glob("*"):
        with contextlib.suppress(OSError):  # another process may evict the same file
            found = path.lstat()
            if path.suffix == _PARTIAL:
                if found.st_mtime < time.time() - _ABANDONED:
                    path.unlink()
            elif path.suffix == kept.suffix:
                files.append((found.st_mtime_ns, found.st_size, path))
    room = BYTES
    for _, size, path in sorted(files, reverse=True):
        room -= size
        if room < 0 and path != kept:
            with contextlib.suppress(OSError):
                path.unlink()


def _not_kept(why: str) -> None:
    say_once(f"nothing is kept for the next start, which takes as long as this one: {why}")


def _bad(path: Path, why: str) -> list[bytes] | None:
    say_once(f"{path}: {why}: made anew")
    return None


def _name(path: Path) -> bytes:
    """Return the file's name and format for the hash, so that a renamed file or another version does not match."""
    return b"1\0" + path.name.encode() + b"\0"


def _mark_used(descriptor: int) -> None:
    """Set the time of use for `_make_room`; the kernel's own has a resolution of 4 ms."""
    now = time.time_ns()
    os.utime(descriptor, ns=(now, now))
