"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write what takes the place of `path` once the block has ended.

    A block that raises, for a full disk or anything else, leaves the file that was there as it was, and nothing beside
    it. What a killed process left beside it, `path` with .partial after its name, the next one writes over.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file in UTF-8, or raise OSError and leave what was there as it was."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
