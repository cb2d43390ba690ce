"""Start and end of a node's process: signals while modules are imported. Imports the standard library only."""

from __future__ import annotations

import os

from m2f_ros import signals

# Executable -> message for a signal before its start; its exit status says if there is a result.
WITHOUT_RESULT = {"evaluation_node": "error: interrupted before it began: there is no report"}


def may_end(name: str) -> None:
    """Let a signal end the executable of this name at once, with its usual exit status.

    If the environment variable signals.PARENT names the parent process, the end of the parent is such a signal, too.
    """

    def end(*_: object) -> None:
        line = WITHOUT_RESULT.get(name)
        if line:
            signals.tell(f"{name}: {line}")
        os._exit(2 if line else 0)

    signals.listen(end)
    signals.open_standard_files()
    # Removed, so that child processes do not inherit it.
    parent = os.environ.pop(signals.PARENT, "")
    if parent.isdecimal():
        signals.end_with_parent(int(parent))


def leave(code: int) -> None:
    """End the process at once with this exit status, despite signals and closed outputs.

    The node is closed by then; a regular exit would spend a second or more on unloading torch and OpenVINO.
    """
    signals.ignore()
    signals.flush()
    os._exit(code)
