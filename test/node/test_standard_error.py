"""Standard error as libraries and ROS write it, in a process of its own: what is left of it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

START = """
import ctypes, os, sys
from m2f_ros.node import standard_error
taken_up = standard_error.take_up()
def c(text): ctypes.CDLL(None).dprintf(2, text.encode())
"""


def said(code: str, **env: str) -> list[str]:
    """The lines that come out of a process which runs this."""
    usual = {name: value for name, value in os.environ.items() if name != "RCUTILS_CONSOLE_OUTPUT_FORMAT"}
    process = subprocess.run(
        [sys.executable, "-c", START + code], env=usual | env, capture_output=True, text=True, timeout=600, check=True
    )
    return process.stderr.splitlines()


def test_what_comes_with_every_message_is_a_few_lines():
    lines = said("""
for number in range(3000):
    c(f"sequence size {number} exceeds remaining buffer\\n")
c("another\\n")
taken_up.close()
""")
    assert lines[0] == "sequence size 0 exceeds remaining buffer"
    assert lines[-1] == "another"
    assert 3 < len(lines) < 12


def test_what_changes_with_every_message_is_bounded():
    lines = said("""
letters = "abcdefghijklmnopqrstuvwxyz"
for number in range(3000):
    c("".join(letters[int(digit)] for digit in str(number)) + "\\n")
taken_up.close()
""")
    assert 200 < len(lines) < 300


def test_logs_and_tracebacks_stay_as_they_are():
    logged = "[WARN] [1.5] [node]: a line that comes again"
    lines = said(f"""
for _ in range(50):
    c("{logged}\\n")
try:
    {{}}["of that name"]
except KeyError:
    import traceback
    traceback.print_exc()
taken_up.close()
print("after", file=sys.stderr)
""")
    assert lines[:50] == [logged] * 50
    assert lines[50] == "Traceback (most recent call last):" and lines[-2:] == ["KeyError: 'of that name'", "after"]
    assert any(line.startswith('  File "') for line in lines)


def test_more_than_the_pipe_holds_is_lost_and_nobody_waits():
    # The lock is held all the while: the thread cannot read.
    lines = said("""
ctypes.PyDLL(None).dprintf(2, ("x" * 9_000_000 + "\\n").encode())
taken_up.close()
""")
    assert sum(map(len, lines)) < 9_000_000


def test_a_format_of_the_user_is_left_alone():
    lines = said(
        """
assert taken_up is None
for _ in range(50):
    c("my own format\\n")
""",
        RCUTILS_CONSOLE_OUTPUT_FORMAT="{message}",
    )
    assert lines == ["my own format"] * 50
