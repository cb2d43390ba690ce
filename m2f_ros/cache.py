"""Folders and files that are kept from one start to the next, and that nobody but this user can have written.

The process runs code that it loads from them: in a folder that somebody else may write to he could run code as this
user.
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

# Bytes of disk that the files of a folder may take; the least recently used files make way.
BYTES = 2 << 30
_DIGEST = 32  # bytes of SHA-256
_LENGTH = 8  # bytes of a part's length before it
_PARTIAL = ".partial"
_ABANDONED = 3600.0  # seconds after which a file that is not whole is of a process that was killed


def cache_folder(name: str) -> Path:
    """m2f_ros/NAME in $XDG_CACHE_HOME, if that is absolute, or ~/.cache. It need not be there, nor absolute."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if os.path.isabs(base) else os.path.expanduser("~/.cache")) / "m2f_ros" / name


def private(folder: Path) -> str:
    """Make a folder, mode 0700, and the missing ones above it. Empty, or why nothing may be kept there.

    All folders down to it have to belong to this user or root, and nobody else may write to them, unless they have the
    sticky bit as /tmp has; the folder itself is this user's.
    """
    if not folder.is_absolute():
        return "there is no home"
    try:
        for place in reversed((folder, *folder.parents)):
            with contextlib.suppress(FileExistsError):
                place.mkdir(0o700)
        # As it is written, and where that leads: each link may be somebody's.
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
    """The parts that `write` stored at `path`; None where there are none, or, with a warning, damaged ones."""
    if private(path.parent):
        return None
    try:
        # A link is not followed, and a pipe not waited for.
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
        with contextlib.suppress(OSError):  # on a disk that is only read
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
    """Store parts for `read`, whole or not at all, and make room for them.

    A disk that is full or read-only gives a warning, not an error: the next start does the work anew.
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
        with contextlib.suppress(OSError):  # another process may make room, too
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
    """Part of the hash, so that a renamed file, or one of another version of this format, does not fit."""
    return b"1\0" + path.name.encode() + b"\0"


def _mark_used(descriptor: int) -> None:
    """For `_make_room`. The kernel's own times are 4 ms apart."""
    now = time.time_ns()
    os.utime(descriptor, ns=(now, now))
