"""A node's process before and after its node: signals while modules are imported. Only the standard library in here."""

from __future__ import annotations

import os

from m2f_ros import signals

# Its exit status says whether a report is there.
WITHOUT_RESULT = {"evaluation_node": "error: interrupted before it began: there is no report"}


def may_end(name: str) -> None:
    """Let a signal end the executable of this name at once, with the exit status that it has later on.

    Where the variable signals.PARENT names the process that has started this one, its end is such a signal, too.
    """

    def end(*_: object) -> None:
        line = WITHOUT_RESULT.get(name)
        if line:
            signals.tell(f"{name}: {line}")
        os._exit(2 if line else 0)

    signals.listen(end)
    signals.open_standard_files()
    # Not for what this process starts.
    parent = os.environ.pop(signals.PARENT, "")
    if parent.isdecimal():
        signals.end_with_parent(int(parent))


def leave(code: int) -> None:
    """End the process with this exit status, whatever signal comes meanwhile and whoever has stopped to read.

    At once: the node is closed, and taking torch's and OpenVINO's libraries apart would take a second or more.
    """
    signals.ignore()
    signals.flush()
    os._exit(code)
