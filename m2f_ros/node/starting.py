"""Start and end of a node's process: signals while modules are imported. Imports the standard library only."""

from __future__ import annotations

import os

from m2f_ros import signals

# Executables whose exit status says if there is a result.
WITHOUT_RESULT = {"evaluation_node": "error: interrupted before it began: there is no report"}


def may_end(name: str) -> None:
    """Let a signal end the executable of this name at once, with the same exit status as later.

    If the variable signals.PARENT names the process that started this one, its end is such a signal, too.
    """

    def end(*_: object) -> None:
        line = WITHOUT_RESULT.get(name)
        if line:
            signals.tell(f"{name}: {line}")
        os._exit(2 if line else 0)

    signals.listen(end)
    signals.open_standard_files()
    # Child processes of this one must not see it.
    parent = os.environ.pop(signals.PARENT, "")
    if parent.isdecimal():
        signals.end_with_parent(int(parent))


def leave(code: int) -> None:
    """End the process at once with this exit status, in spite of signals and closed outputs.

    The node is closed, and unloading torch and OpenVINO would take a second or more.
    """
    signals.ignore()
    signals.flush()
    os._exit(code)
