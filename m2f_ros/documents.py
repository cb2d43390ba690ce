"""Reads untrusted text, YAML and JSON, bounded in size, depth and time.

The readers return dict, list, str, int, float, bool, None and, in YAML, dates: at most DEPTH deep, with at most 20
digits in a number, and finite except for YAML's .inf and .nan. Code may then traverse the value, print it or convert
numbers to float without failing or hanging. `m2f_ros.typed` checks such a value against a type.
"""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

import yaml

from m2f_ros.errors import DocumentError

LIMIT = 16 << 20  # bytes of a file; a taxonomy of 65535 classes takes 5 to 8 MB
DEPTH = 64  # levels of nested lists and mappings
NODES = 2_000_000  # keys and values of YAML, with aliases expanded; that taxonomy has 1.1 million
_DIGITS = 20
_NUMBER = 100  # characters of a number or a date in YAML; its regular expressions also take 1:1:1:… for a number
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_YAML = "tag:yaml.org,2002:"
_TAGS = (None, "!", f"{_YAML}str", f"{_YAML}seq", f"{_YAML}map")


def read_text(path: str | Path, limit: int = LIMIT) -> str:
    """Read a regular file in UTF-8, without its byte order mark.

    Raises OSError, as open() does, or DocumentError if the file has more than `limit` bytes, is not regular, or is not
    UTF-8.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError:  # a zero byte
        raise DocumentError("is no name of a file") from None
    if not stat.S_ISREG(mode):  # opening a device may have side effects
        raise DocumentError("is no regular file")
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise DocumentError(f"is larger than the {limit >> 20} MiB that such a file may have")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(f"is no text in UTF-8 (byte {error.start})") from None


def read_json(path: str | Path, limit: int = LIMIT) -> Any:
    """Read a JSON file. For errors see `read_text` and `parse_json`."""
    return parse_json(read_text(path, limit))


def read_yaml(path: str | Path, first: bool = False) -> Any:
    """Read a YAML file. For `first` and errors see `read_text` and `parse_yaml`."""
    return parse_yaml(read_text(path), first)


def parse_json(text: str) -> Any:
    """Parse a JSON text. Raises DocumentError for invalid JSON, NaN, Infinity, and duplicate keys."""
    try:
        value = json.loads(
            text, parse_int=_integer, parse_float=_float, parse_constant=_refuse, object_pairs_hook=_object
        )
    except json.JSONDecodeError as error:
        raise DocumentError(f"not valid JSON: {error}") from None
    except RecursionError:
        raise DocumentError(f"not taken: it is deeper than {DEPTH}") from None
    level = [value]
    for _ in range(DEPTH + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return value
    raise DocumentError(f"not taken: it is deeper than {DEPTH}")


def parse_yaml(text: str, first: bool = False) -> Any:
    """Parse a YAML text; return None for an empty one. first: True to read only the first of several documents.

    Anchors, aliases and merges (`<<`) are supported. Raises DocumentError for invalid YAML, several documents, more
    than NODES nodes, duplicate keys, an alias inside its own anchor, and all tags, such as `!!python/name`.
    """
    loader = None
    try:
        loader = _Loader(text)
        if first:
            events = takewhile(lambda event: not isinstance(event, yaml.DocumentEndEvent), iter(loader.get_event, None))
            return _Builder(loader).build(events)
        return _Builder(loader).build(iter(loader.get_event, None))
    except yaml.YAMLError as error:
        raise DocumentError(f"not valid YAML: {' '.join(str(error).split())}") from None
    finally:
        if loader is not None:
            loader.dispose()


class _Open:
    """An unfinished list or mapping. begun: number of nodes and characters before it."""

    def __init__(self, value: dict | list, anchor: str | None, begun: tuple[int, int]) -> None:
        self.value, self.anchor, self.begun = value, anchor, begun
        self.key: Any = self  # self if the next value is a key
        self.merged: list[dict] = []


class _Builder:
    """Builds values from the events of a YAML document, without recursion.

    yaml's own constructor is three times slower, recurses, and expands merges before they can be counted.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._nodes = self._characters = 0
        self._anchors: dict[str, tuple[Any, int, int] | None] = {}  # value, nodes, characters; None: unfinished

    def build(self, events: Iterable[Any]) -> Any:
        stack: list[_Open] = []
        result, documents = None, 0
        for event in events:
            kind = type(event)
            if kind is yaml.DocumentStartEvent:
                documents += 1
                if documents > 1:
                    _fail("expected a single document", event, "not valid YAML")
            elif kind is yaml.ScalarEvent:
                self._count(1, len(event.value), event)
                merge, value = self._scalar(event, bool(stack) and stack[-1].key is stack[-1])
                if event.anchor is not None:
                    self._anchors[event.anchor] = value, 1, len(event.value)
                result = self._add(stack, _MERGE if merge else value, event)
            elif kind is yaml.AliasEvent:
                anchored = self._anchors.get(event.anchor)
                if anchored is None:
                    inside = event.anchor in self._anchors
                    _fail(f"alias {event.anchor} {'inside what it stands for' if inside else 'of nothing'}", event)
                value, nodes, characters = anchored
                self._count(nodes, characters, event)
                result = self._add(stack, value, event)
            elif kind in (yaml.MappingStartEvent, yaml.SequenceStartEvent):
                if event.tag not in _TAGS:
                    _fail(f"tag {event.tag} is not taken", event)
                if len(stack) == DEPTH:
                    _fail(f"it is deeper than {DEPTH}", event)
                if event.anchor is not None:
                    self._anchors[event.anchor] = None
                begun = self._nodes, self._characters
                self._count(1, 0, event)
                stack.append(_Open({} if kind is yaml.MappingStartEvent else [], event.anchor, begun))
            elif kind in (yaml.MappingEndEvent, yaml.SequenceEndEvent):
                ended = stack.pop()
                value = ended.value
                if ended.merged:
                    value = {}
                    for part in reversed(ended.merged):
                        value |= part
                    value |= ended.value
                if ended.anchor is not None:
                    nodes, characters = ended.begun
                    self._anchors[ended.anchor] = value, self._nodes - nodes, self._characters - characters
                result = self._add(stack, value, event)
        return result

    def _count(self, nodes: int, characters: int, event: Any) -> None:
        self._nodes += nodes
        self._characters += characters
        if self._nodes > NODES or self._characters > LIMIT:
            _fail(f"it comes to more than {NODES} keys and values, or {LIMIT >> 20} MiB of text", event)

    def _scalar(self, event: Any, is_key: bool) -> tuple[bool, Any]:
        """Return (True if the event is the key of a merge, its value)."""
        if event.tag not in _TAGS:
            _fail(f"tag {event.tag} is not taken", event)
        text = event.value
        tag = event.tag or self._loader.resolve(yaml.ScalarNode, text, event.implicit)
        kind = tag.removeprefix(_YAML)
        if kind == "merge" and is_key:
            return True, text
        if kind in ("int", "float", "timestamp", "bool", "null"):
            if len(text) > _NUMBER:
                _fail(f"a number of {len(text)} characters", event)
            try:
                value = self._loader.yaml_constructors[tag](self._loader, yaml.ScalarNode(tag, text))
            except (ValueError, ArithmeticError) as error:  # 2000-13-40
                _fail(f"{text}: {error}", event)
            if isinstance(value, int) and abs(value) >= 10**_DIGITS:
                _fail(f"a number of more than {_DIGITS} digits", event)
            return False, value
        return False, text

    def _add(self, stack: list[_Open], value: Any, event: Any) -> Any:
        """Add a value to the innermost unfinished list or mapping, if there is one; return the value."""
        if not stack:
            return value
        into = stack[-1]
        if isinstance(into.value, list):
            into.value.append(value)
        elif into.key is into:
            into.key = value
            if value is not _MERGE:
                try:
                    twice = value in into.value
                except TypeError:
                    _fail("a list or mapping for a key", event)
                if twice:
                    _fail(f"{value} is given twice", event, "not valid YAML")
        else:
            key, into.key = into.key, into
            if key is _MERGE:
                parts = value if isinstance(value, list) else [value]
                if not all(isinstance(part, dict) for part in parts):
                    _fail("<< is followed by no mapping, nor a list of them", event)
                into.merged += parts
            else:
                into.value[key] = value
        return value


_MERGE = object()


def _fail(what: str, event: Any, verdict: str = "not taken") -> NoReturn:
    mark = event.start_mark
    raise DocumentError(f"{verdict}: {what}, in line {mark.line + 1}, column {mark.column + 1}")


def _integer(text: str) -> int:
    if len(text) > _DIGITS:
        raise DocumentError(f"not taken: a number of more than {_DIGITS} digits")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if abs(value) == float("inf"):
        raise DocumentError(f"not taken: the number {text[:_DIGITS]} is too large")
    return value


def _refuse(text: str) -> NoReturn:
    raise DocumentError(f"not valid JSON: it holds {text}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = (key for key, _ in pairs)
        twice = next(key for key, times in Counter(keys).items() if times > 1)
        raise DocumentError(f"not valid JSON: {twice} is given twice")
    return value
