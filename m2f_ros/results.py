"""Folders of results: a command removes or overwrites only the files that it made."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath

import m2f_ros
from m2f_ros.errors import OutputError
from m2f_ros.files import PARTIAL, write_whole

MARK = ".m2f_ros.jsonl"
_ENDS = 1 << 20  # bytes to compare at the beginning and at the end of a file


class Results:
    """A folder of the results of one command.

    The folder has to be new, empty, or made by the same command. The file MARK in it (JSON Lines) names the command in
    its first line, {"m2f_ros": version, "command": …}, and lists the files that the command made. A name is listed
    before its file is created, so that a killed process leaves no unlisted file; `seal` adds size, time and digest. An
    unlisted file, or one that differs from its seal, is never removed or overwritten; a copy with other times does not
    differ. Links in the folder are not followed.

    A `with` block begins and seals.

    Args:
        folder: path of the folder, which `begin` creates.
        command: user's name of the command, such as "m2f demo".
        inputs: files and folders that the command reads; other texts are ignored.
        adopt: True if an earlier version made the folder, without MARK: its files become the command's.
    Raises:
        OutputError: the folder holds other files or an input, or it cannot be read.
    """

    def __init__(
        self, folder: str | Path, command: str, inputs: Iterable[str | Path | None] = (), *, adopt: bool = False
    ) -> None:
        self.folder, self._command = Path(folder), command
        self._made: dict[str, list | None] = {}  # name -> [size, time in ns, digest], or None before it is sealed
        self._lock: int | None = None
        self._marked = self._adopt = False
        with _os_errors(self.folder):
            if os.path.lexists(self.folder) and not self.folder.is_dir():
                raise OutputError(f"{self.folder}: is not a folder; name another one for the results")
            if self.folder.is_dir():
                self._read()
                others = (path for path in self.folder.iterdir() if path.name not in (MARK, MARK + PARTIAL))
                if not self._marked and not adopt and next(others, None):
                    raise OutputError(
                        f"{self.folder}: is not empty, and has no list of what {command} made there ({MARK}): "
                        "remove the folder where it is an earlier result, or name another one"
                    )
            self._adopt = adopt and not self._marked
            self.refuse(inputs)

    def refuse(self, inputs: Iterable[str | Path | None]) -> None:
        """Raise OutputError if one of these is the folder or in it, by any path."""
        folders = {PurePosixPath(name).parent for name in self._made}
        own = {_identity(self.folder / folder) for folder in folders | {PurePosixPath()}} - {None}
        for given in inputs:
            if not given:
                continue
            path = Path(os.path.expanduser(given))
            if not _identity(path):
                continue
            path = path.resolve()
            if any(_identity(place) in own for place in (path, *path.parents)):
                raise OutputError(
                    f"{self.folder}: {given} is read, and results must not go where that is: name another folder"
                )

    def begin(self) -> None:
        """Create the folder, and lock it against `begin` in other processes, until `close` or the end of this one."""
        if self._lock is not None:
            return
        with _os_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                raise OutputError(
                    f"{self.folder}: another {self._command} writes here; wait for it, or name another folder"
                ) from None
            except OSError:
                pass  # a network file system may have no locks
            self._lock = lock
            if not self._marked:
                self._write()
                self._marked = True

    def clear(self) -> None:
        """Remove all listed files; see `discard`."""
        self.discard(self._made)

    def discard(self, names: Iterable[str]) -> None:
        """Remove the listed files among these names, and their folders if these are then empty.

        Raises OutputError, before any removal, if a file differs from its seal.
        """
        self.begin()
        names = [name for name in names if name in self._made]
        if not names:
            return
        with _os_errors(self.folder):
            for name in names:
                self._check(name)
            for name in names:
                self._remove(name)
            self._remove_empty(names)
            for name in names:
                del self._made[name]
            self._write()

    def move(self, names: Iterable[str], folder: str) -> None:
        """Move the listed files among these names into a folder of this one, and list them there.

        Raises OutputError, before any is moved, if a file differs from its seal, or if an unlisted one is in the way.
        """
        self.begin()
        moved = {name: f"{folder}/{name}" for name in names if name in self._made}
        self.check(moved)
        self.claim(moved.values())
        with _os_errors(self.folder):
            for name, new in moved.items():
                target = self.place(new)
                with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as stack:
                    source = stack.enter_context(self._opened(PurePosixPath(name).parent))
                    parent = stack.enter_context(self._opened(PurePosixPath(new).parent))
                    os.rename(PurePosixPath(name).name, target.name, src_dir_fd=source, dst_dir_fd=parent)
                self._made[new] = self._made.pop(name)
            self._remove_empty(moved)
            self._write()

    def check(self, names: Iterable[str]) -> None:
        """Raise OutputError if `new` would for one of these names, without creating or removing files."""
        with _os_errors(self.folder):
            for name in names:
                self._check(name)

    def claim(self, names: Iterable[str], keep: bool = False) -> None:
        """List names, relative to the folder, of files that other code will create.

        keep: True to keep already listed files of these names; else they are removed. Raises OutputError if an unlisted
        file has one of these names.
        """
        self.begin()
        with _os_errors(self.folder):
            added = []
            for name in names:
                if not _is_below(name):
                    raise OutputError(f"{self.folder}: {name!r} is no name of a file in it")
                if name not in self._made or not keep:
                    self._check(name)
                    if name in self._made:
                        self._remove(name)
                if self._made.get(name, ()) is not None:
                    self._made[name] = None
                    added.append(name)
            if added:
                flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW
                with os.fdopen(os.open(self.folder / MARK, flags), "w") as file:
                    file.writelines(json.dumps({"name": name}) + "\n" for name in added)

    def new(self, name: str) -> Path:
        """List a name as `claim` does, and return its path for writing. Creates its parent folders."""
        self.claim([name])
        return self.place(name)

    def place(self, name: str) -> Path:
        """Return the path of a listed name. Creates its parent folders. Raises OutputError if one of them is a link."""
        path = self.folder / name
        with _os_errors(self.folder):
            place = self.folder
            for part in PurePosixPath(name).parts[:-1]:
                place = place / part
                with contextlib.suppress(FileExistsError):
                    place.mkdir()
                if not stat.S_ISDIR(place.lstat().st_mode):
                    raise OutputError(f"{place}: is in the way, and no folder: move it away, or name another --out")
        return path

    def seal(self) -> None:
        """Record size, time and digest of all listed files; a file that differs later is foreign."""
        with _os_errors(self.folder):
            for name, before in self._made.items():
                found = self._there(name)
                state = [found.st_size, found.st_mtime_ns] if found and stat.S_ISREG(found.st_mode) else None
                if state and (before is None or before[:2] != state):
                    self._made[name] = [*state, self._digest(name)]
                elif state is None:
                    self._made[name] = None
            self._write()

    def __enter__(self) -> Results:
        self.begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with contextlib.suppress(OutputError) if kind else contextlib.nullcontext():
            self.seal()
        self.close()

    def close(self) -> None:
        """Unlock the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def names(self) -> Collection[str]:
        """Listed names."""
        return self._made.keys()

    def _read(self) -> None:
        path = self.folder / MARK
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(path.lstat().st_mode):
                raise OutputError(f"{path}: is no file that {self._command} made: name another folder")
            with open(path, encoding="utf-8", errors="replace") as file:
                first = file.readline()
                if not first:
                    return  # killed at this very moment
                head = _line(first)
                if head.get("command") != self._command:
                    raise OutputError(
                        f"{self.folder}: holds what {head.get('command', 'something else')} made, and {self._command} "
                        "needs a folder of its own: name another one"
                    )
                for line in map(_line, file):
                    name, state = line.get("name"), line.get("state")
                    sealed = isinstance(state, list) and [*map(type, state)] == [int, int, str]
                    if isinstance(name, str) and _is_below(name) and (sealed or state is None):
                        self._made[name] = state
            self._marked = True

    def _write(self) -> None:
        head = {"m2f_ros": m2f_ros.__version__, "command": self._command}
        lines = [{"name": name, **({"state": state} if state else {})} for name, state in self._made.items()]
        write_whole(self.folder / MARK, "".join(json.dumps(line) + "\n" for line in (head, *lines)))

    def _there(self, name: str) -> os.stat_result | None:
        with contextlib.suppress(FileNotFoundError), self._opened(PurePosixPath(name).parent) as parent:
            return os.stat(PurePosixPath(name).name, dir_fd=parent, follow_symlinks=False)
        return None

    def _check(self, name: str) -> None:
        found, state = self._there(name), self._made.get(name)
        if found is None or (name not in self._made and self._adopt):
            return
        if name not in self._made:
            raise OutputError(
                f"{self.folder / name}: is in the way, and {self._command} did not make it: move it away, or "
                "name another folder"
            )
        if stat.S_ISREG(found.st_mode) and state is None:
            return
        same = state is not None and stat.S_ISREG(found.st_mode) and state[0] == found.st_size
        if state is None or not (same and (state[1] == found.st_mtime_ns or state[2] == self._digest(name))):
            raise OutputError(
                f"{self.folder / name}: is not as {self._command} left it: move it away, or name another folder"
            )

    def _digest(self, name: str) -> str:
        """Hash the first and last _ENDS bytes of a file; rewriting a file changes these, or its size."""
        path = PurePosixPath(name)
        with self._opened(path.parent) as parent:
            descriptor = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
        with os.fdopen(descriptor, "rb") as file:
            digest = hashlib.sha256(file.read(_ENDS))
            file.seek(max(file.tell(), os.fstat(descriptor).st_size - _ENDS))
            digest.update(file.read(_ENDS))
        return digest.hexdigest()[:32]

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError), self._opened(PurePosixPath(name).parent) as parent:
            os.unlink(PurePosixPath(name).name, dir_fd=parent)

    def _remove_empty(self, names: Iterable[str]) -> None:
        """Remove the folders of these names that are empty."""
        folders = {folder for name in names for folder in PurePosixPath(name).parents} - {PurePosixPath()}
        for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
            with contextlib.suppress(OSError), self._opened(folder.parent) as parent:
                os.rmdir(folder.name, dir_fd=parent)

    @contextlib.contextmanager
    def _opened(self, folder: PurePosixPath) -> Iterator[int]:
        """Open a folder below this one without following links."""
        with contextlib.ExitStack() as stack:
            place = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, place)
            for i, part in enumerate(folder.parts, 1):
                try:
                    place = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place)
                except NotADirectoryError:  # also for a link
                    raise OutputError(
                        f"{self.folder.joinpath(*folder.parts[:i])}: is no folder that {self._command} made: move it "
                        "away, or name another folder"
                    ) from None
                stack.callback(os.close, place)
            yield place


def _line(text: str) -> dict:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # truncated
        return {}
    return found if isinstance(found, dict) else {}


def _is_below(name: str) -> bool:
    """Return True for a normalised relative path that stays in its folder."""
    parts = name.split("/")
    return "\0" not in name and name != MARK and all(part not in ("", ".", "..") for part in parts)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _os_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error}); name another folder") from error
    except ValueError as error:  # a name with NUL
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{path}: is no name of a folder ({error})") from None
