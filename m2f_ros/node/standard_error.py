"""Throttles the lines that libraries print on standard error.

ROS' generated code prints a line for each message with invalid lengths, and reports it in no other way.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import threading
from collections import Counter

from m2f_ros.node.throttle import Throttle, kind_of

# Lines of ROS' logging, which pass unthrottled: their callers throttle them.
_LOG = re.compile(rb"(\x1b\[\d+m)?\[(DEBUG|INFO|WARN|ERROR|FATAL)\]")
_FORMAT = "RCUTILS_CONSOLE_OUTPUT_FORMAT"  # changes the form of these lines
FIRST = 2  # lines of a kind that pass unthrottled, such as repeated lines of a traceback
KINDS = 256
PIPE = 1 << 20  # bytes


class StandardError:
    """Replaces file descriptor 2 by a pipe, until `close`; a thread passes its lines on.

    A line is lost if the pipe is full: its writer must not block, since it may hold the interpreter lock. Lines in the
    pipe are also lost if a signal kills the process.
    """

    def __init__(self) -> None:
        self._real = os.dup(2)
        self._reading, writing = os.pipe()
        with contextlib.suppress(OSError):  # more than this user may have
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE)
        os.set_blocking(writing, False)
        os.dup2(writing, 2)
        os.close(writing)
        self._seen: Counter[str] = Counter()
        self._throttle = Throttle(lambda line: self._write(line.encode() + b"\n"), kinds=KINDS)
        self._thread = threading.Thread(target=self._pass_on, name="standard error", daemon=True)
        self._thread.start()

    def close(self, timeout: float = 1.0) -> None:
        """Write the lines in the pipe, and restore file descriptor 2. Call it once."""
        os.dup2(self._real, 2)
        self._thread.join(timeout)  # a child process may still hold the pipe

    def _pass_on(self) -> None:
        with open(self._reading, "rb") as lines:
            for line in lines:
                self._take(line)

    def _take(self, line: bytes) -> None:
        if _LOG.match(line):
            self._write(line)
            return
        text = line.decode(errors="replace")
        kind = kind_of(text)
        if kind not in self._seen and len(self._seen) >= KINDS:
            kind = ""
        self._seen[kind] += 1
        if self._seen[kind] <= FIRST:
            self._write(line)
        elif text.strip():
            self._throttle(text, kind)

    def _write(self, line: bytes) -> None:
        try:
            os.write(self._real, line)
        except OSError:  # nobody reads it any more
            return


def take_up() -> StandardError | None:
    """Throttle standard error; return None, without effect, if the user's log format hides which lines are ROS'."""
    return None if os.environ.get(_FORMAT) else StandardError()
