"""Records signals that ask a process to end, for polling."""

from __future__ import annotations

import multiprocessing
import signal
from types import FrameType

from m2f_ros import signals


class Stop:
    """Returns True when called after a signal that asks the process to end. Main thread only.

    Attributes:
        number: number of the signal, or 0.
    """

    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> bool:
        return self.number > 0

    def listen(self) -> None:
        """Handle signals from now on."""
        signals.listen(self._note)

    def __enter__(self) -> Stop:
        self._before = signals.listen(self._pass_on)
        return self

    def __exit__(self, *exc: object) -> None:
        signals.restore(self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        if number == signal.SIGHUP:
            signals.leave_terminal()

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """Record the signal, and stop the child processes, too. The next signal ends this process at once."""
        self._note(number, frame)
        self.__exit__()
        for child in multiprocessing.active_children():
            child.terminate()  # which is SIGTERM
