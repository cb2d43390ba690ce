"""Frames on their way from the inbox to the pipeline: compressed ones are decoded in threads, one of each camera.

A decoder cannot be interrupted, and what a camera sends may keep it for long: that holds up this camera alone.
simplejpeg, Pillow and FFmpeg let other threads run meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING

from m2f_ros.node.inbox import Inbox

if TYPE_CHECKING:
    from m2f_ros.node.camera import Arrival
    from m2f_ros.pipeline import Frame

# Seconds for which the pipeline waits for the frame whose turn it is, while there are others. It does not wait for a
# camera whose last frame took longer.
PATIENCE = 0.1


@dataclass(eq=False)
class Decoded:
    """A frame that is being decoded, or has been.

    Attributes:
        until: time.monotonic() until when others wait for it.
        done: whether `frame`, or `error`, is there.
    """

    arrival: Arrival
    until: float
    done: bool = False
    frame: Frame | None = None
    error: Exception | None = None

    def decode(self) -> None:
        try:
            self.frame = self.arrival.decode()
        except Exception as error:  # whatever a camera sends
            self.error = error


class Decoding:
    """Gives the frames that go next, in the order of each camera. For one thread.

    Args:
        inbox: of what arrives; is woken when a frame is decoded.
        together: whether two may go as one batch.
        wanted: true where somebody still wants a frame; else it is left out.
    """

    def __init__(
        self,
        inbox: Inbox[Arrival],
        together: Callable[[Arrival, Arrival], bool],
        wanted: Callable[[Arrival], object],
    ) -> None:
        self._inbox, self._together, self._wanted = inbox, together, wanted
        self._begun: list[Decoded] = []  # the oldest first, one of each camera at most
        self._slow: set[str] = set()  # cameras for which nobody waits
        self._queues: dict[str, SimpleQueue[Decoded | None]] = {}
        self._threads: list[threading.Thread] = []

    def next(self, limit: int, waiting: Callable[[], Decoded | None] = lambda: None) -> list[Decoded]:
        """The next frame with up to `limit` - 1 others that go together with it, all of them done. Waits for them.

        waiting: gives a frame that was decoded before and had to wait, if one can go now.

        Raises Closed.
        """
        while True:
            changes = self._inbox.changes  # before the looks that follow
            if (first := waiting()) is not None:
                return [first]
            now = time.monotonic()
            awaited = [one for one in self._begun if not one.done and now < one.until]
            if (done := [one for one in self._begun if one.done]) and not any(
                self._together(done[0].arrival, one.arrival) for one in awaited
            ):
                return self._hand_over(done, limit)
            if not awaited and (taken := self._take(limit)):
                for arrival in filter(self._wanted, taken):
                    self._begin(arrival, now)
                continue
            self._inbox.changed(changes, min((one.until for one in awaited), default=now) - now if awaited else None)

    def close(self) -> list[threading.Thread]:
        """Begin nothing any more. The threads that may still run: a decoder cannot be interrupted."""
        for queue in self._queues.values():
            queue.put(None)
        return self._threads

    def _take(self, limit: int) -> list[Arrival]:
        return self._inbox.take(limit, self._together, {one.arrival.camera.name for one in self._begun})

    def _hand_over(self, done: Sequence[Decoded], limit: int) -> list[Decoded]:
        group = [one for one in done if one is done[0] or self._together(done[0].arrival, one.arrival)][:limit]
        self._begun = [one for one in self._begun if one not in group]
        return group

    def _begin(self, arrival: Arrival, now: float) -> None:
        camera = arrival.camera.name
        one = Decoded(arrival, now if camera in self._slow else now + PATIENCE)
        self._begun.append(one)
        if not arrival.slow:
            self._decode(one)
            one.done = True
            return
        if camera not in self._queues:
            queue: SimpleQueue[Decoded | None] = SimpleQueue()
            thread = threading.Thread(target=self._decode_all, args=(queue,), name=f"decoder {camera}", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # there are too many in this process, or on this machine
                one.error, one.done = error, True
                return
            self._threads.append(thread)
            self._queues[camera] = queue
        self._queues[camera].put(one)

    def _decode(self, one: Decoded) -> float:
        """Seconds that it took; they are its camera's."""
        began = time.monotonic()
        one.decode()
        seconds = time.monotonic() - began
        self._inbox.charge(one.arrival.camera.name, seconds)
        return seconds

    # A camera's thread

    def _decode_all(self, queue: SimpleQueue[Decoded | None]) -> None:
        while (one := queue.get()) is not None:
            slow = self._decode(one) > PATIENCE
            (self._slow.add if slow else self._slow.discard)(one.arrival.camera.name)
            one.done = True
            del one  # its pixels are not to wait here for the next
            self._inbox.wake()
