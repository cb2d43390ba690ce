"""Lines for the log that may come with every message: few of them get there. No ROS in here."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

FIRST, LAST = 60.0, 3600.0  # seconds of silence after the first line of a kind, and after each that follows
KINDS = 3
CUT = 300  # characters of a text that somebody else decides on


def cut(text: str, limit: int = CUT) -> str:
    """In one line, and at most `limit` characters of it."""
    text = " ".join(text[: 4 * limit].split()) if len(text) > 4 * limit else " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def kind_of(text: str) -> str:
    """Take numbers and quoted texts, which change from line to line, out of a line."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|[\d.]+", "#", text)[:CUT]


@dataclass
class _Silence:
    until: float  # time.monotonic()
    seconds: float  # of the next silence
    left_out: int = 0


class Throttle:
    """Passes the first line of each kind on, one after FIRST seconds, and then one after LAST seconds each.

    A kind that did not come for LAST seconds begins anew. Thread-safe.

    Args:
        say: takes a line.
        clock: seconds that never go back.
        kinds: that are told apart; all others share one.
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
        """Say a line, unless it is too soon. kind: by its words, where it is not given."""
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
