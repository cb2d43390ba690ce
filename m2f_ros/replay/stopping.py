"""SIGINT and SIGTERM as a wish that is asked for."""

from __future__ import annotations

import multiprocessing
import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether the end was asked for by a signal. Only for the main thread.

    Attributes:
        number: of the signal; 0: none came.
    """

    def __init__(self) -> None:
        self.number = 0

    def __call__(self) -> bool:
        return self.number > 0

    def listen(self) -> None:
        """Take signals from here on."""
        for number in SIGNALS:
            signal.signal(number, self._note)

    def __enter__(self) -> Stop:
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        for number in SIGNALS:
            signal.signal(number, self._pass_on)
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """Note it, and let the processes that this one has started stop, too. The next one ends this at once."""
        self.number = number
        self.__exit__()
        for child in multiprocessing.active_children():
            child.terminate()  # which is SIGTERM
