"""Files that are written whole or not at all, and names for them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from m2f_ros.errors import OutputError

# Bytes of a file's name: file systems take 255, of which an ending such as ".mcap.partial" needs some.
MOST_NAME = 200
PARTIAL = ".partial"


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file that replaces `path` when the block ends.

    A block that raises, for a full disk or anything else, leaves the file at `path` as it was and removes the temporary
    file, which is `path` with .partial after its name. One that a killed process left is written over.
    """
    partial = path.with_name(f"{path.name}{PARTIAL}")
    try:
        partial.unlink(missing_ok=True)  # a link would be followed
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file in UTF-8, or raise OSError and leave what was there as it was."""
    with whole(path) as partial:
        # A lone surrogate, which JSON and YAML can bring, has no encoding.
        partial.write_text(text, encoding="utf-8", errors="replace")


def replace_own(path: Path, text: str, is_own: Callable[[str], bool]) -> None:
    """Write a file that a command was told to write, whole or not at all: see `refuse_foreign`.

    Writes to a device such as /dev/stdout in place. Raises OSError where the write fails.
    """
    refuse_foreign(path, is_own)
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
    else:
        write_whole(path, text)


def refuse_foreign(path: Path, is_own: Callable[[str], bool], pictures: Iterable[str] = ()) -> None:
    """Raise OutputError where something is in the way of a file of text, or of the pictures that it shows.

    is_own: returns True for a text of the kind to be written; an empty file is in nobody's way.
    pictures: their paths from the folder of `path`, as Markdown has them. One that is there must be in the old text.
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
    """For `replace_own`: whether a text is a JSON object with these keys."""

    def is_own(text: str) -> bool:
        found = json.loads(text)
        return isinstance(found, dict) and found.keys() >= set(keys)

    return is_own


def file_name(text: str) -> str:
    """A name for a file, made of any text: the same where that is a name already.

    Letters, digits and most signs stay. Characters with a meaning in a path or a shell become "_": separators, control
    characters, a "-", "." or "~" in front. A long name is cut, with a hash of the whole in place of the rest.
    """
    name = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in text)
    name = name.encode(errors="replace").decode()
    name = re.sub(r"^[-.~ ]|[. ]$", "_", name) or "_"
    if len(name.encode()) > MOST_NAME:
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
        name = f"{name.encode()[: MOST_NAME - 17].decode(errors='ignore')}_{digest}"
    return name


def file_names(texts: Iterable[str], reserved: Iterable[str] = ()) -> list[str]:
    """A name for each text, as `file_name`, no two the same or the same but for case: else "__2" and so on follows.

    reserved: names that none may have.
    """
    return distinct(map(file_name, texts), reserved)


def distinct(names: Iterable[str], reserved: Iterable[str] = (), between: str = "__") -> list[str]:
    """The names, but that one that was there before, or there in another case, gets a number behind it.

    between: goes before the number.
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
