"""Throttles log lines that may repeat with every message. Does not import ROS."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

FIRST, LAST = 60.0, 3600.0  # seconds of silence after the first line of a kind, and after each later one
KINDS = 3
CUT = 300  # characters of an external text


def cut(text: str, limit: int = CUT) -> str:
    """Return a text in one line, with at most `limit` characters."""
    text = " ".join(text[: 4 * limit].split()) if len(text) > 4 * limit else " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def kind_of(text: str) -> str:
    """Return the kind of a line: its text without numbers and quoted texts, which vary."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|[\d.]+", "#", text)[:CUT]


@dataclass
class _Silence:
    until: float  # time.monotonic()
    seconds: float  # of the next silence
    left_out: int = 0


class Throttle:
    """Passes on the first line of each kind, the next one after FIRST seconds, and then one every LAST seconds.

    A kind without lines for LAST seconds begins anew. Thread-safe.

    Args:
        say: function that logs a line.
        clock: function that returns monotonic seconds.
        kinds: number of distinct kinds; further ones count as one kind.
        first: seconds of silence after the first line of a kind, in place of FIRST.
    """

    def __init__(
        self,
        say: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
        kinds: int = KINDS,
        first: float = FIRST,
    ) -> None:
        self._say, self._clock, self._kinds, self._first = say, clock, kinds, first
        self._lock = threading.Lock()
        self._silences: dict[str, _Silence] = {}

    def __call__(self, line: str, kind: str | None = None) -> None:
        """Log a line, unless it comes too soon. kind: kind of the line; None to derive it from the text."""
        kind = kind_of(line) if kind is None else kind
        with self._lock:
            now = self._clock()
            if kind not in self._silences and len(self._silences) >= self._kinds:
                kind = ""
            silence = self._silences.get(kind)
            if silence is None or now > silence.until + LAST:
                silence = self._silences[kind] = _Silence(now, self._first)
            if now < silence.until:
                silence.left_out += 1
                return
            left_out, silence.left_out = silence.left_out, 0
            silence.until, silence.seconds = now + silence.seconds, LAST
        line = cut(line, 2 * CUT)
        self._say(f"{line} ({left_out} more such lines were left out)" if left_out else line)
