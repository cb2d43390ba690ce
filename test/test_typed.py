"""Values checked against types: the first fault is named by its place, what was expected and what was found."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2f_ros.errors import DocumentError
from m2f_ros.typed import From1, Number, NumberAbove0, as_type


class Row(TypedDict, total=False):
    id: int
    of: dict[str, float | None]


class Closed(msgspec.Struct, forbid_unknown_fields=True):
    size: tuple[int, int] = (1, 1)
    ids: dict[int, int] = {}


@dataclass
class File:
    name: str
    steps: From1 = 1
    rate: NumberAbove0 = 1.0
    scale: Number = 1.0
    mode: Literal["a", "b", "c"] = "a"
    rows: list[Row] = field(default_factory=list)
    closed: Closed | None = None
    names: Annotated[tuple[str, ...], msgspec.Meta(max_length=1)] = ()


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ([], "expected keys and values (name, steps, rate, scale, mode, rows, closed, names), found []"),
        ({}, "key 'name' is missing"),
        ({"name": None}, "name: expected text, found null"),
        ({"steps": 0}, "steps: expected a whole number at least 1, found 0"),
        ({"steps": 1.5}, "steps: expected a whole number, found 1.5"),
        ({"steps": True}, "steps: expected a whole number, found true"),
        ({"rate": 0}, "rate: expected a number above 0, found 0"),
        ({"rate": "fast"}, "rate: expected a number, found 'fast'"),
        ({"scale": float("nan")}, "scale: expected a number, found NaN"),
        ({"scale": float("-inf")}, "scale: expected a number, found -Infinity"),
        ({"mode": "d"}, "mode: expected a, b or c, found 'd'"),
        ({"mode": 3}, "mode: expected a, b or c, found 3"),
        ({"rows": [{}, {"id": "x"}]}, "rows[1].id: expected a whole number, found 'x'"),
        ({"rows": [{"of": {"car": 1, "bus": "x"}}]}, "rows[0].of.bus: expected a number or null, found 'x'"),
        ({"closed": 3}, "closed: expected keys and values (size, ids) or null, found 3"),
        ({"closed": {"size": [1]}}, "closed.size: expected a list of 2 entries, found [1]"),
        ({"closed": {"ids": {1: 2, "x": 3}}}, "closed.ids: a key: expected a whole number, found 'x'"),
        ({"closed": {"sise": 3}}, "closed: unknown key 'sise'; known are size, ids (meant: size?)"),
        ({"names": ["a", "b"]}, 'names: expected a list of at most 1 entries, found ["a", "b"]'),
        (
            {"x` - at `$.name": 1, "closed": {}, "steps": "y" * 99},
            f"steps: expected a whole number, found '{'y' * 59}…",
        ),
    ],
)
def test_the_first_fault_is_named(value, fault):
    if isinstance(value, dict) and value:
        value = {"name": "n", **value}
    with pytest.raises(DocumentError) as caught:
        as_type(value, File)
    assert str(caught.value) == fault


def test_files_written_by_hand_have_no_unknown_keys_and_numbers_in_any_notation():
    content: dict[str, Any] = {"name": "5e-4", "rate": "5e-4", "rows": [{"id": 1, "of": {"car": "1e2"}}]}
    assert as_type(content, File, by_hand=True) == File("5e-4", rate=5e-4, rows=[{"id": 1, "of": {"car": 100.0}}])
    assert as_type({"name": "n", "other": 1, "rows": [{"x": 1}]}, File) == File("n", rows=[{}])
    for value, fault in (
        ({"name": "n", "stepz": 1}, "unknown key 'stepz'; known are name, steps, .* \\(meant: steps\\?\\)$"),
        ({"name": "n", "rows": [{}, {"idd": 1}]}, r"^rows\[1\]: unknown key 'idd'; known are id, of \(meant: id\?\)$"),
        ({"name": "n", "rate": "-1e2"}, "rate: expected a number above 0, found -100.0"),
    ):
        with pytest.raises(DocumentError, match=fault):
            as_type(value, File, by_hand=True)


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.dates() | st.text(max_size=5)
KEYS = st.sampled_from([*File.__dataclass_fields__, "id", "of", "size", "ids"]) | st.text(max_size=5) | st.integers()
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner), max_leaves=9)


@given(VALUES, st.booleans())
def test_any_value_fits_or_is_refused_in_one_line(value, by_hand):
    try:
        as_type(value, File, by_hand=by_hand)
    except DocumentError as error:
        assert "\n" not in str(error)
