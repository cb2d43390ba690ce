"""Frame counts of a camera, and stage times."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

RECENT = 256  # number of newest frames for percentiles
UNWANTED = ("unwanted", "deactivated")  # reasons for dropping a frame that was taken from the inbox


@dataclass(frozen=True)
class Tally:
    """Counts at one moment, since the node was configured.

    Attributes:
        arrived: number of messages.
        received: number of messages while an output was wanted: segmented, bad, dropped or in progress.
        segmented: number of frames with published outputs.
        bad: number of frames that could not be decoded or segmented.
        stretched: number of frames stretched to a size that was ready, with less exact labels.
        dropped: reason -> number of dropped frames.
        error: reason of the newest bad frame, or "".
        heard: time of the newest arrival, time.monotonic(); None before the first.
        waiting: start of the present wait for a result, time.monotonic(); None if no frame is in progress.
        failing: number of consecutive bad frames up to now.
        newest: header stamp of the newest frame among `received` that could be read, nanoseconds; None before it.
        ages: time from stamp to publication of recent frames, milliseconds, oldest first.
    """

    arrived: int = 0
    received: int = 0
    segmented: int = 0
    bad: int = 0
    stretched: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    error: str = ""
    heard: float | None = None
    waiting: float | None = None
    failing: int = 0
    newest: int | None = None
    ages: tuple[float, ...] = ()


class Counts:
    """Counts the frames of a camera. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrived = self._received = self._segmented = self._bad = self._failing = 0
        self._stretched = 0
        self._dropped: dict[str, int] = {}
        self._error = ""
        self._heard: float | None = None
        self._waiting: float | None = None
        self._newest: int | None = None
        self._ages: deque[float] = deque(maxlen=RECENT)

    def arrive(self) -> None:
        with self._lock:
            self._arrived += 1
            self._heard = time.monotonic()

    def receive(self, stamp_ns: int | None = None) -> int:
        """Count a frame that arrives while an output is wanted; return the number of such frames."""
        with self._lock:
            self._received += 1
            self._newest = self._newest if stamp_ns is None else stamp_ns
            return self._received

    def expect(self) -> None:
        """Count a frame that enters the inbox, and expect its result."""
        with self._lock:
            if self._waiting is None:
                self._waiting = time.monotonic()

    def stretch(self) -> int:
        """Count a stretched frame; return the number of stretched frames."""
        with self._lock:
            self._stretched += 1
            return self._stretched

    def drop(self, reason: str) -> None:
        with self._lock:
            if reason in UNWANTED:
                self._waiting = None
            self._dropped[reason] = self._dropped.get(reason, 0) + 1

    def fail(self, error: str) -> int:
        """Count a bad frame with its reason; return the number of bad frames."""
        with self._lock:
            self._bad += 1
            self._failing += 1
            self._waiting = None
            self._error = error
            return self._bad

    def segment(self, age_ms: float) -> int:
        """Count a frame with published outputs; return the number of such frames."""
        with self._lock:
            self._segmented += 1
            self._failing = 0
            self._waiting = None
            self._ages.append(age_ms)
            return self._segmented

    def tally(self) -> Tally:
        with self._lock:
            return Tally(
                arrived=self._arrived,
                received=self._received,
                segmented=self._segmented,
                bad=self._bad,
                stretched=self._stretched,
                dropped=dict(self._dropped),
                error=self._error,
                heard=self._heard,
                waiting=self._waiting,
                failing=self._failing,
                newest=self._newest,
                ages=tuple(self._ages),
            )


@dataclass(frozen=True)
class SpaceTally:
    """Counts of the outputs in space at one moment, since the node was configured.

    Attributes:
        published: output -> number of messages.
        missed: output -> number of frames or clouds without a message; input -> number of bad messages.
        trouble: output or input -> reason of the newest of `missed`.
        dropped: number of frames that were replaced by newer ones.
        ground: camera -> how its frames come onto the grid.
        stopped: camera -> line on its depth images, which have stopped.
    """

    published: dict[str, int] = field(default_factory=dict)
    missed: dict[str, int] = field(default_factory=dict)
    trouble: dict[str, str] = field(default_factory=dict)
    dropped: int = 0
    ground: dict[str, str] = field(default_factory=dict)
    stopped: dict[str, str] = field(default_factory=dict)


class SpaceCounts:
    """Counts the outputs in space. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._published: dict[str, int] = {}
        self._missed: dict[str, int] = {}
        self._trouble: dict[str, str] = {}
        self._dropped = 0
        self._ground: dict[str, str] = {}
        self._stopped: dict[str, str] = {}

    def publish(self, output: str) -> None:
        with self._lock:
            self._published[output] = self._published.get(output, 0) + 1

    def miss(self, name: str, reason: str) -> None:
        """Count a message that cannot be made, or a bad message of an input."""
        with self._lock:
            self._missed[name] = self._missed.get(name, 0) + 1
            self._trouble[name] = reason

    def drop(self, frames: int) -> None:
        with self._lock:
            self._dropped += frames

    def ground(self, camera: str, kind: str, stopped: str = "") -> None:
        """Note how the frames of a camera come onto the grid. stopped: line on depth images that have stopped; ""."""
        with self._lock:
            self._ground[camera] = kind
            self._stopped.pop(camera, None)
            if stopped:
                self._stopped[camera] = stopped

    def tally(self) -> SpaceTally:
        with self._lock:
            return SpaceTally(
                dict(self._published),
                dict(self._missed),
                dict(self._trouble),
                self._dropped,
                dict(self._ground),
                dict(self._stopped),
            )


class StageTimes:
    """Durations of each stage of the pipeline for recent frames, milliseconds. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: dict[str, deque[float]] = {}

    def note(self, stages: Mapping[str, float]) -> None:
        with self._lock:
            for stage, time_ms in stages.items():
                self._times.setdefault(stage, deque(maxlen=RECENT)).append(time_ms)

    def recent(self) -> dict[str, tuple[float, ...]]:
        with self._lock:
            return {stage: tuple(times) for stage, times in self._times.items()}


class RateLimit:
    """Limits the average rate of frames. For use by one thread."""

    def __init__(self) -> None:
        self._due = 0.0

    def passes(self, now: float, rate: float) -> bool:
        """Return True if a frame that comes at `now` (seconds) may pass. rate: frames a second; 0 lets all pass."""
        if rate <= 0:
            return True
        self._due = min(self._due, now + 1 / rate)  # the rate may have been lower before
        if now < self._due:
            return False
        # The next due time is relative to the last one, not to now: despite jitter a limit of 10 out of 30 Hz gives 10.
        # After a pause no two frames pass at once.
        self._due = max(self._due + 1 / rate, now + 0.5 / rate)
        return True
