"""Message types of a bag, which decode its messages. Definitions in a bag are untrusted."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from rosbags.interfaces import Nodetype
from rosbags.interfaces.typing import Typesdict
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from m2f_ros.bags.storage import Definition, clean
from m2f_ros.bags.writer import register_type
from m2f_ros.errors import FrameError, SourceError, words_of

# CDR, big-endian and little-endian.
ENCAPSULATIONS = (b"\0\0", b"\0\1")

# Most types and fields in a definition, and array elements for which code is generated one by one.
_TYPES, _FIELDS, _ELEMENTS = 100, 1000, 500
# Lines of a .msg that declare fields, without constants, defaults and comments, which could stall a parser; and
# separators of types.
_FIELD = re.compile(r"[ \t]*([\w/]+(?:<=\d+)?(?:\[(?:<=)?\d*\])?)[ \t]+(\w+)(?![ \t]*=|\w)")
_SEPARATOR, _NAME = "=" * 80, re.compile(r"MSG: ([\w/]+)\s*")


class Types:
    """Message types of a bag, from rosbags, from the bag's definitions, or from the ROS environment."""

    def __init__(self, definitions: dict[str, Definition]) -> None:
        self._store: Typestore = get_typestore(Stores.LATEST)
        self._definitions = definitions
        self._unknown: dict[str, str] = {}  # type -> why it is unknown

    def decode(self, data: bytes, kind: str, topic: str) -> Any:
        """Decode a message; see `Message.decode`."""
        store = self._store_of(kind)
        try:
            return store.deserialize_cdr(data, kind)
        except Exception as error:  # rosbags raises errors of any type for damaged bytes
            why = words_of(error)
            if len(data) >= 4 and data[:2] not in ENCAPSULATIONS:
                why = f"its encapsulation is 0x{data[:2].hex()}, that of plain CDR is 0x0000 or 0x0001"
            raise FrameError(f"{topic}: a damaged message of {len(data)} bytes ({why})") from None

    def from_ros1(self, data: bytes, kind: str) -> bytes:
        """Convert a message from ROS 1's encoding to CDR; b"" for a damaged one. Errors as in `decode`."""
        store = self._store_of(kind)
        try:
            return bytes(store.ros1_to_cdr(data, kind))
        except Exception:  # as above
            return b""

    def _store_of(self, kind: str) -> Typestore:
        """Return the store that knows a type. Raises SourceError if none does."""
        if kind in _known().fielddefs:
            return _known()
        if kind not in self._store.cache:
            if kind in self._unknown:
                raise SourceError(self._unknown[kind])
            try:
                self._register(kind)
            except SourceError as error:
                self._unknown[kind] = str(error)
                raise
        return self._store

    def _register(self, kind: str) -> None:
        definition = self._definitions.get(kind)
        # The bag's definition does not replace types that this package uses.
        if kind not in self._store.fielddefs and (definition is None or not definition.text or _is_own(kind)):
            register_type(self._store, kind)
        if definition is None or kind in self._store.fielddefs:
            return
        try:
            found = _parsed(definition, kind)
            self._store.register({name: found[name] for name in found.keys() - self._store.fielddefs.keys()})
            self._store.get_msgdef(kind)
        except Exception as error:  # as above
            self._store.fielddefs.pop(kind, None)
            try:
                register_type(self._store, kind)
            except SourceError as unknown:
                raise SourceError(f"{unknown}; that in the bag cannot be read ({words_of(error)})") from None


@cache
def _known() -> Typestore:
    """Return the types that rosbags knows, which no bag changes: compiled code is shared by all bags."""
    return get_typestore(Stores.LATEST)


def _is_own(kind: str) -> bool:
    return kind.startswith("m2f_ros/msg/")


def _parsed(definition: Definition, kind: str) -> Typesdict:
    """Parse a definition, within bounds of time and memory. Raises errors of any type."""
    if definition.format in ("ros2idl", "omgidl"):
        raise ValueError("it is in IDL, whose parser a short text can keep busy for ever")
    types = get_types_from_msg(_fields_alone(definition.text), kind)
    if len(types) > _TYPES or sum(len(fields) for _, fields in types.values()) > _FIELDS:
        raise ValueError(f"it has more than {_TYPES} types or {_FIELDS} fields")
    elements = 0
    for name, (_, fields) in types.items():
        for field, (node, inner) in fields:
            if node == Nodetype.ARRAY:
                array: Any = inner
                (of, what), length = array
                if length < 1:
                    raise ValueError(f"{clean(name)}: {field} has {length} elements")
                elements += length if of == Nodetype.NAME or what[0] == "string" else 0
    if elements > _ELEMENTS:
        raise ValueError(f"its arrays have {elements} elements")
    return types


def _fields_alone(text: str) -> str:
    """Return only those lines of .msg definitions that determine the layout of a message."""
    lines = []
    for line in text.splitlines():
        if line.startswith(_SEPARATOR[:8]) and not line.strip("= \t"):
            lines.append(_SEPARATOR)
        elif found := _NAME.fullmatch(line) or _FIELD.match(line):
            lines.append(found[0].rstrip())
        elif line.partition("#")[0].strip() and "=" not in line:
            lines.append(line)  # not a field; the parser reports it
    return "\n".join(lines) + "\n"
