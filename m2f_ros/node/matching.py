"""What several topics say of one frame, put together by its stamp. No ROS in here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

TRUTH, LABEL = "truth", "label"
# A topic beside these two may be silent: after so many newer labels it is not waited for.
PATIENCE = 8


@dataclass
class Gathered:
    """A frame: its stamp in nanoseconds, what each topic said of it by the topic's name, and the bytes of all that."""

    stamp: int
    parts: dict[str, object] = field(default_factory=dict)
    size: int = 0


class Matcher:
    """Gathers frames and gives each, oldest first, once all that can come of it has come. Not for several threads.

    Every topic sends in the order of stamps: what it has not sent of a frame does not come once it has sent of a
    newer one.

    Args:
        parts: names of the topics; TRUTH and LABEL are among them.
        limit: bytes that waiting frames may hold. Above it the oldest are given as they are.
    """

    def __init__(self, parts: Iterable[str], limit: int) -> None:
        self._parts = frozenset(parts)
        self._limit = limit
        self._waiting: dict[int, Gathered] = {}
        self._newest: dict[str, int] = {}
        self._given = -1  # stamp of the last
        self._held = 0  # bytes
        self.late = 0  # truths and labels that came when their frame had been given
        self.late_truths = 0  # of these

    def put(self, part: str, stamp: int, message: object, size: int) -> list[Gathered]:
        """Add a message of `size` bytes; returns the frames that need not wait any longer."""
        self._newest[part] = max(stamp, self.newest(part))
        if stamp <= self._given:
            self.late += part in (TRUTH, LABEL)
            self.late_truths += part == TRUTH
            return self._ready()
        frame = self._waiting.setdefault(stamp, Gathered(stamp))
        if part not in frame.parts:  # of two with one stamp the first
            frame.parts[part] = message
            frame.size += size
            self._held += size
        return self._ready()

    def newest(self, part: str) -> int:
        """Stamp of the newest message of a topic; -1 before the first."""
        return self._newest.get(part, -1)

    @property
    def waits_for_label(self) -> bool:
        """Whether it is open if a label comes for some truth."""
        return any(TRUTH in frame.parts and LABEL not in frame.parts for frame in self._waiting.values())

    def rest(self) -> list[Gathered]:
        """All frames that wait, as they are."""
        return [self._give(stamp) for stamp in sorted(self._waiting)]

    def _ready(self) -> list[Gathered]:
        ready = []
        for stamp in sorted(self._waiting):
            absent = self._parts - self._waiting[stamp].parts.keys()
            if self._held <= self._limit and not all(self._is_over(part, stamp) for part in absent):
                break
            ready.append(self._give(stamp))
        return ready

    def _is_over(self, part: str, stamp: int) -> bool:
        """Whether a topic has nothing more to say of a frame."""
        if self.newest(part) > stamp:
            return True
        labels = (other for other, frame in self._waiting.items() if other > stamp and LABEL in frame.parts)
        return part not in (TRUTH, LABEL) and sum(1 for _ in labels) >= PATIENCE

    def _give(self, stamp: int) -> Gathered:
        frame = self._waiting.pop(stamp)
        self._held -= frame.size
        self._given = stamp
        return frame
