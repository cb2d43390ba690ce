"""Ground truth and prediction of one frame, joined by the stamp of their image."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from m2f_ros.errors import EvaluationError
from m2f_ros.frame.segment import Segment

# Messages of a topic that may come after one of a later stamp.
DISORDER = 8


@dataclass
class Pair:
    """One frame. At least one of truth and prediction is there.

    Attributes:
        drive: name of the recording.
        name: of the frame in it.
        stamp_ns: of its image; 0 where files have none.
        truth: (H, W) uint8 or uint16 train ids of the taxonomy that is scored in; None: a prediction alone.
        prediction: the same; None where it never came.
        confidence: (H, W) uint8, 0..255.
        image: (H, W, 3) uint8 BGR.
        truth_ids, ids: (H, W) int ids of segments, 0 where none is.
        truth_segments, segments: the segments of these ids.
        latency_ms: from the stamp to the publication of the label.
        drops: frames that the node dropped until then, by reason.
    """

    drive: str
    name: str
    stamp_ns: int
    truth: np.ndarray | None
    prediction: np.ndarray | None
    confidence: np.ndarray | None = None
    image: np.ndarray | None = None
    truth_ids: np.ndarray | None = None
    truth_segments: Sequence[Segment] | None = None
    ids: np.ndarray | None = None
    segments: Sequence[Segment] | None = None
    latency_ms: float | None = None
    drops: dict[str, int] | None = None

    @property
    def where(self) -> str:
        """The frame, as an error message names it."""
        return f"{self.drive}, frame {self.name}" if self.drive else f"frame {self.name}"


def join(streams: Mapping[str, Iterable[tuple[int, Any]]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(stamp, {stream: item}) of every stamp that occurs, ascending; streams without that stamp are left out.

    streams: (stamp, item) pairs, by name, ascending but for DISORDER of them; of two with one stamp the first counts.
    No more than DISORDER items of each stream are held at a time. Raises EvaluationError where stamps go back further.
    """
    ordered = {name: ascending(stream, name) for name, stream in streams.items()}
    heads = {name: head for name, stream in ordered.items() if (head := next(stream, None))}
    while heads:
        stamp = min(head[0] for head in heads.values())
        found = {}
        for name in [name for name, head in heads.items() if head[0] == stamp]:
            found[name] = heads.pop(name)[1]
            if head := next(ordered[name], None):
                heads[name] = head
        yield stamp, found


def ascending(stream: Iterable[tuple[int, Any]], name: str) -> Iterator[tuple[int, Any]]:
    """The items by strictly ascending stamp; name: of the stream, for the EvaluationError, see `join`."""
    waiting: list[tuple[int, int, Any]] = []
    last = None

    def smallest() -> Iterator[tuple[int, Any]]:
        nonlocal last
        stamp, _, item = heapq.heappop(waiting)
        if last is not None and stamp < last:
            raise EvaluationError(
                f"{name}: the stamp {stamp} comes after {last}: stamps that start again cannot be matched; "
                "record each run into a bag of its own"
            )
        if stamp != last:
            yield stamp, item
        last = stamp

    for count, (stamp, item) in enumerate(stream):
        heapq.heappush(waiting, (stamp, count, item))
        if len(waiting) > DISORDER:
            yield from smallest()
    while waiting:
        yield from smallest()
