"""Values of YAML and JSON files, as m2f_ros.documents reads them, checked against types by msgspec.

msgspec finds the fault; this module says it as the package does: where, what was expected, what was found.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import sys
import types
import typing
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from m2f_ros.errors import DocumentError

T = TypeVar("T")
_MOST = sys.float_info.max
# Numbers that are neither infinite nor NaN, which YAML can hold.
Number = Annotated[float, msgspec.Meta(ge=-_MOST, le=_MOST)]
NumberAbove0 = Annotated[float, msgspec.Meta(gt=0, le=_MOST)]
From0 = Annotated[int, msgspec.Meta(ge=0)]
From1 = Annotated[int, msgspec.Meta(ge=1)]
_SHOWN = 60  # characters of a wrong value in a message
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "text",
    "array": "a list",
    "object": "keys and values",
}
_BOUNDS = {">=": " at least", "<=": " at most", ">": " above", "<": " below", None: ""}
_EXPECTED = re.compile(r"Expected `([a-z| ]+)`(?: (of length )?(?:([<>]=?) )?(\S+?))?(?:, got|$)")


def as_type(value: Any, kind: type[T], by_hand: bool = False) -> T:
    """Convert a value to a type that msgspec knows: Struct, dataclass, TypedDict, list, dict and others.

    Args:
        value: of lists, dicts and plain values.
        by_hand: somebody wrote the file: a key that is no field of a dataclass or TypedDict is a fault, and a text such
            as 5e-4, which is none to YAML 1.1, a number where one belongs. Changes `value`.
    Raises:
        DocumentError: the value does not fit; names the first place that does not ("blocks[1].hit: expected a list,
            found 3").
    """
    if by_hand:
        _refuse_unknown(value, kind)
    while True:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            place = _find(value, kind, str(error))
        if not (by_hand and place.take_number()):
            raise DocumentError(f"{place.name}: {place.fault()}" if place.name else place.fault())


@dataclasses.dataclass
class _Place:
    """A place inside a value that does not fit its type.

    Attributes:
        name: the way from the outermost value, "blocks[1].hit".
        value: found there.
        kind: type expected there.
        message: msgspec's, without the place.
        into: the dict or list that holds the value.
        key: of the value in `into`.
    """

    name: str
    value: Any
    kind: Any
    message: str
    into: Any = None
    key: Any = None

    def take_number(self) -> bool:
        """Put a number in the place of its text; False where no number belongs there or the text is none."""
        if not self.message.startswith("Expected `float") or not isinstance(self.value, str):
            return False
        try:
            self.into[self.key] = float(self.value)
        except (TypeError, ValueError):
            return False
        return True

    def fault(self) -> str:
        """Say what was expected and what was found."""
        names = list(_fields(self.kind))
        if self.message.startswith("Object contains unknown field"):
            return _unknown(next((key for key in self.value if key not in names), None), names)
        if found := re.match("Object missing required field `(.*)`", self.message):
            return f"key {found[1]!r} is missing"
        literals = [part for part in _parts(self.kind) if typing.get_origin(part) is Literal]
        choices = [str(choice) for literal in literals for choice in typing.get_args(literal)]
        found = _EXPECTED.match(self.message)
        if choices:
            words = f"{', '.join(choices[:-1])} or {choices[-1]}"
        elif found:
            words = " or ".join(_WORDS.get(name, name) for name in found[1].split(" | "))
            words = words.replace(_WORDS["object"], f"{_WORDS['object']} ({', '.join(names)})") if names else words
            if found[4] and "e+308" not in found[4]:
                words += (" of" if found[2] else "") + f"{_BOUNDS[found[3]]} {found[4].removesuffix('.0')}"
                words += " entries" if found[1] == "array" else ""
        else:
            return self.message
        return f"expected {words}, found {shown(self.value)}"


def shown(value: Any) -> str:
    """A value as a message shows it, cut where it is long."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str, skipkeys=True, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _refuse_unknown(value: Any, kind: Any, place: str = "") -> None:
    fields, arguments = _fields(kind), _arguments(kind)
    if fields and isinstance(value, dict):
        for key, inner in value.items():
            if key not in fields:
                raise DocumentError(f"{place}: {_unknown(key, list(fields))}".removeprefix(": "))
            _refuse_unknown(inner, fields[key], f"{place}.{key}".removeprefix("."))
    elif arguments and isinstance(value, list):
        for i, inner in enumerate(value):
            _refuse_unknown(inner, arguments[0], f"{place}[{i}]")


def _unknown(key: object, names: list[str]) -> str:
    near = difflib.get_close_matches(str(key), names, n=1)
    return f"unknown key {shown(key)}; known are {', '.join(names)}" + (f" (meant: {near[0]}?)" if near else "")


def _find(value: Any, kind: Any, error: str) -> _Place:
    """Follow the path at the end of msgspec's message, "Expected `int`, got `str` - at `$.blocks[1].hit`"."""
    message, _, path = error.rpartition(" - at ") if " - at " in error else (error, "", "")
    place = _Place("", value, kind, message)
    for name, index in re.findall(r"\.(\w+)|\[(\d+|\.\.\.)\]", path):
        arguments = _arguments(place.kind)
        try:
            if name:
                key, inner, step = name, _fields(place.kind)[name], f".{name}"
            elif index == "...":  # msgspec does not say under which key of a dict
                inner = arguments[1]
                key = next(key for key, item in place.value.items() if not _fits(item, inner))
                step = f".{key}"
            else:
                key = int(index)
                inner = arguments[0 if len(arguments) == 1 or arguments[1] is ... else key]
                step = f"[{key}]"
            place = _Place((place.name + step).removeprefix("."), place.value[key], inner, message, place.value, key)
        except (LookupError, TypeError, StopIteration):  # a key of the file looks like such a path
            break
    if path.startswith("`key` in") and isinstance(place.value, dict):
        inner = (*_arguments(place.kind), str)[0]
        wrong = next((key for key in place.value if not _fits(key, inner)), None)
        place = _Place(f"{place.name}: a key".removeprefix(": "), wrong, inner, message)
    return place


def _fits(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _parts(kind: Any) -> list[Any]:
    """The types of a union without None, the type inside Annotated, or the type itself."""
    if typing.get_origin(kind) is Annotated:
        return _parts(typing.get_args(kind)[0])
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return [part for inner in typing.get_args(kind) if inner is not type(None) for part in _parts(inner)]
    return [kind]


def _arguments(kind: Any) -> tuple[Any, ...]:
    """The types of the items of a list, tuple or dict, or of the one in a union."""
    return next((arguments for part in _parts(kind) if (arguments := typing.get_args(part))), ())


def _fields(kind: Any) -> dict[str, Any]:
    """Names and types of the fields of a Struct, dataclass or TypedDict, or of the one in a union."""
    for part in _parts(kind):
        if dataclasses.is_dataclass(part) or typing.is_typeddict(part) or hasattr(part, "__struct_fields__"):
            return typing.get_type_hints(part, include_extras=True)
    return {}
