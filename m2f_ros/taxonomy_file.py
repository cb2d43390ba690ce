"""The fields of a taxonomy file, which m2f_ros.taxonomy describes, and their types."""

from __future__ import annotations

from typing import Annotated

import msgspec

from m2f_ros.typed import From0, as_type

# A field that is absent is None; null in its place does not fit the type.
_FileId = Annotated[int, msgspec.Meta(ge=0, le=65535)]
_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]


class Class(msgspec.Struct, forbid_unknown_fields=True):
    """An entry of `classes` in a taxonomy file."""

    id: From0
    name: str
    colour: tuple[_Byte, _Byte, _Byte] = None  # type: ignore[assignment]
    thing: bool = False
    aliases: tuple[str, ...] = ()


class File(msgspec.Struct, forbid_unknown_fields=True):
    """A taxonomy file."""

    classes: Annotated[list[Class], msgspec.Meta(min_length=1, max_length=65535)]
    name: str = None  # type: ignore[assignment]
    file_ids: dict[_FileId, int] = None  # type: ignore[assignment]
    ignore: list[_FileId] = []
    merge_into: dict[str, dict[str, str]] = {}


def read(data: object) -> File:
    """Check the contents of a file. Raises DocumentError, with the wrong field."""
    return as_type(data, File)
