"""YAML and JSON of strangers: a plain value, or one line that says why not, in little time and memory."""

import math
import os

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from m2f_ros import documents
from m2f_ros.documents import DEPTH, LIMIT, parse_json, parse_yaml, read_text, read_yaml
from m2f_ros.errors import DocumentError, M2fError

NODES = 100_000  # fewer than the package takes, in less time
LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
MERGES = "a: &a {" + ", ".join(f"k{i}: 1" for i in range(2000)) + "}\nb: [" + "{<<: *a}, " * 2000 + "]"
YAML = {
    "a billion laughs": (LAUGHS, "it comes to more than"),
    "quadratic merges": (MERGES, "it comes to more than"),
    "a long text again and again": (f"a: &a {'x' * 10**6}\nb: [{'*a, ' * 1000}]", "it comes to more than"),
    "many values": (f"[{'{a: },' * (NODES // 3 + 1)}]", "it comes to more than"),
    "alias of itself": ("a: &a [*a]", "alias a inside what it stands for, in line 1"),
    "alias of nothing": ("a: *b", "alias b of nothing"),
    "brackets": ("[" * 10**6, "nesting depth|deeper than"),
    "blocks": ("".join(f"{' ' * i}a:\n" for i in range(DEPTH + 2)), f"deeper than {DEPTH}"),
    "keys in keys": ("? " * 10**5, f"deeper than {DEPTH}"),
    "base 60": (f"a: 1{':1' * 10**5}", "a number of 200001 characters"),
    "digits": (f"a: {'9' * 21}", "more than 20 digits"),
    "hexadecimal": (f"a: 0x{'f' * 90}", "more than 20 digits"),
    "no date": ("a: 2000-13-40", "2000-13-40: month must be in 1..12"),
    "key given twice": ("a: 1\na: 2", "a is given twice, in line 2"),
    "list for a key": ("? [a]\n: 1", "a list or mapping for a key"),
    "code": ("a: !!python/object/apply:os.system [true]", "tag tag:yaml.org,2002:python/object/apply:os.system"),
    "a bad merge": ("<<: 5", "followed by no mapping"),
    "two documents": ("a: 1\n---\nb: 1", "expected a single document"),
    "a zero byte": ("a: b\0", "not valid YAML"),
    "half a character": ('a: "\\ud800"', "not valid YAML"),
    "unfinished": ("a: [", "not valid YAML"),
}
JSON = {
    "depth": ("[" * 10**6, f"deeper than {DEPTH}"),
    "some depth": ("[" * 100 + "]" * 100, f"deeper than {DEPTH}"),
    "objects": ('{"a":' * 100 + "1" + "}" * 100, f"deeper than {DEPTH}"),
    "digits": ("[" + "1" * 10**6 + "]", "more than 20 digits"),
    "infinite": ("[1e999]", "the number 1e999 is too large"),
    "NaN": ("[NaN]", "it holds NaN"),
    "Infinity": ("[-Infinity]", "it holds -Infinity"),
    "key given twice": ('{"a": 1, "a": 2}', "a is given twice"),
    "unfinished": ("[", "not valid JSON"),
    "nothing": ("", "not valid JSON"),
}


@pytest.mark.parametrize(("text", "message"), YAML.values(), ids=YAML)
def test_yaml_that_is_not_taken(text, message, monkeypatch):
    monkeypatch.setattr(documents, "NODES", NODES)
    with pytest.raises(DocumentError, match=message) as error:
        parse_yaml(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "message"), JSON.values(), ids=JSON)
def test_json_that_is_not_taken(text, message):
    with pytest.raises(DocumentError, match=message):
        parse_json(text)


PLAIN = st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.floats(allow_nan=False) | st.dates() | st.text()
KEYS = st.text() | st.integers(-1000, 1000) | st.booleans()
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner), max_leaves=20)


@given(VALUES, st.booleans())
def test_yaml_is_read_as_the_library_reads_it(value, flow):
    text = yaml.safe_dump(value, default_flow_style=flow, allow_unicode=True)
    assert parse_yaml(text) == yaml.safe_load(text)


def test_anchors_merges_and_what_yaml_cpp_writes():
    text = 'a: &a {x: 1, y: 2}\nb: &b {z: 3}\nc: {<<: [*a, *b], x: 5}\nd: ! ""\ne: !!str 5\nf: .inf\ng: *b'
    value = parse_yaml(text)
    assert value["c"] == yaml.safe_load(text)["c"] == {"x": 5, "y": 2, "z": 3}
    assert (value["d"], value["e"], value["f"], value["g"]) == ("", "5", math.inf, {"z": 3})
    assert parse_yaml("") is None
    assert parse_yaml("a: 1\n---\nb: [", first=True) == {"a": 1}


@given(st.text(max_size=30) | st.text("{}[]&*a!:,-?<'\"\n 0|>#%", max_size=30))
def test_any_text_is_read_or_refused(text):
    for parse in (parse_yaml, parse_json):
        try:
            parse(text)
        except DocumentError as error:
            assert "\n" not in str(error)


def test_what_is_no_file_of_text(tmp_path):
    pipe, large, binary = (tmp_path / name for name in ("pipe", "large", "binary"))
    os.mkfifo(pipe)
    with large.open("wb") as file:
        file.truncate(1 << 40)  # takes no space
    binary.write_bytes(b"a: \xff")
    for path in (pipe, "/dev/zero", tmp_path, "a\0"):
        with pytest.raises(DocumentError, match=r"no regular file|no name of a file"):
            read_text(path)
    with pytest.raises(DocumentError, match=f"larger than the {LIMIT >> 20} MiB"):
        read_yaml(large)
    with pytest.raises(DocumentError, match=r"no text in UTF-8 \(byte 3\)"):
        read_yaml(binary)
    with pytest.raises(FileNotFoundError):
        read_yaml(tmp_path / "none")


def test_a_message_is_one_short_line_whatever_is_in_it():
    assert str(M2fError("a\nb\x1b[31m\ud800\u2028 Straße 路")) == "a\\nb\\x1b[31m\\ud800\\u2028 Straße 路"
    assert len(str(M2fError("x" * 10**7))) < 2100
