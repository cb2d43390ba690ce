"""The end of a process by a signal while its modules are imported. Only the standard library in here."""

from __future__ import annotations

import os
import signal
import sys

# Its exit status says whether a report is there.
WITHOUT_RESULT = {"evaluation_node": "error: interrupted before it began: there is no report"}


def may_end(name: str) -> None:
    """Let SIGINT and SIGTERM end the executable of this name at once, with the exit status that they have later on."""

    def end(*_: object) -> None:
        line = WITHOUT_RESULT.get(name)
        if line:
            print(f"{name}: {line}", file=sys.stderr, flush=True)
        os._exit(2 if line else 0)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
