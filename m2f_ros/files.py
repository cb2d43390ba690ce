"""Atomic writing of files, and file names."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from m2f_ros.errors import OutputError

# Bytes of a file's name: file systems allow 255, and suffixes such as ".mcap.partial" are added.
MOST_NAME = 200
PARTIAL = ".partial"


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file that replaces `path` when the block ends.

    If the block raises, the file at `path` is unchanged, and the temporary file is removed. Its name is that of `path`
    with .partial appended; one that a killed process left is overwritten.
    """
    partial = path.with_name(f"{path.name}{PARTIAL}")
    try:
        partial.unlink(missing_ok=True)  # writing would follow a link
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file in UTF-8 atomically. Raises OSError."""
    with whole(path) as partial:
        # A lone surrogate, which JSON and YAML can bring, has no encoding.
        partial.write_text(text, encoding="utf-8", errors="replace")


def replace_own(path: Path, text: str, is_own: Callable[[str], bool]) -> None:
    """Write the output file of a command atomically, after `refuse_foreign`.

    Writes to a device such as /dev/stdout in place. Raises OSError if writing fails.
    """
    refuse_foreign(path, is_own)
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
    else:
        write_whole(path, text)


def refuse_foreign(path: Path, is_own: Callable[[str], bool], pictures: Iterable[str] = ()) -> None:
    """Raise OutputError if a text file, or a picture that it shows, would overwrite a foreign file.

    is_own: function that returns True for a text of the same kind; an empty file may be overwritten.
    pictures: paths relative to the folder of `path`, as in Markdown. An existing one must be in the old text.
    """
    text = ""
    if path.is_file() and path.stat().st_size:
        try:
            text = path.read_text(encoding="utf-8")
            own = is_own(text)
        except (OSError, ValueError, RecursionError):
            own = False
        if not own:
            raise OutputError(f"{path}: is there, and not of this command: move it away, or name another file")
    for name in pictures:
        if os.path.lexists(path.parent / name) and f"]({name})" not in text:
            raise OutputError(f"{path.parent / name}: is in the way, and {path} does not show it: move it away")


def has_keys(*keys: str) -> Callable[[str], bool]:
    """Return a function for `replace_own` that returns True for a JSON object with these keys."""

    def is_own(text: str) -> bool:
        found = json.loads(text)
        return isinstance(found, dict) and found.keys() >= set(keys)

    return is_own


def file_name(text: str) -> str:
    """Turn any text into a file name; a valid name stays the same.

    Letters, digits and most signs stay. Characters with a meaning in a path or a shell become "_": separators, control
    characters, a leading "-", "." or "~". A long name is cut, and ends with a hash of the whole.
    """
    name = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in text)
    name = name.encode(errors="replace").decode()
    name = re.sub(r"^[-.~ ]|[. ]$", "_", name) or "_"
    if len(name.encode()) > MOST_NAME:
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
        name = f"{name.encode()[: MOST_NAME - 17].decode(errors='ignore')}_{digest}"
    return name


def file_names(texts: Iterable[str], reserved: Iterable[str] = ()) -> list[str]:
    """Return a `file_name` for each text, unique even without case, by suffixes "__2" and so on.

    reserved: names that are not allowed.
    """
    return distinct(map(file_name, texts), reserved)


def distinct(names: Iterable[str], reserved: Iterable[str] = (), between: str = "__") -> list[str]:
    """Append a number to each name that equals an earlier one without case.

    between: text before the number.
    """
    taken = {name.casefold() for name in reserved}
    found = []
    for wanted in names:
        name, number = wanted, 1
        while name.casefold() in taken:
            number += 1
            name = f"{wanted}{between}{number}"
        taken.add(name.casefold())
        found.append(name)
    return found
