"""Percentiles of the latency of any number of frames, in bounded memory."""

from __future__ import annotations

from collections import Counter
from typing import TypedDict


class Percentiles(TypedDict, total=False):
    """From the stamp of a frame to the publication of its label, in ms, to three digits."""

    p50: float | None
    p90: float | None
    p99: float | None
    max: float | None


class Latency:
    """Counts values rounded to three digits, 900 for each power of ten. Merging is exact."""

    def __init__(self) -> None:
        self._counts: Counter[float] = Counter()

    def update(self, milliseconds: float) -> None:
        self._counts[float(f"{milliseconds:.3g}")] += 1

    def __iadd__(self, other: Latency) -> Latency:
        self._counts.update(other._counts)
        return self

    def summary(self) -> Percentiles | None:
        """Return nearest-rank percentiles; None where there are no values."""
        if not self._counts:
            return None
        return {"p50": self._at(0.5), "p90": self._at(0.9), "p99": self._at(0.99), "max": max(self._counts)}

    def _at(self, share: float) -> float:
        wanted = share * self._counts.total()
        seen = 0
        for value in sorted(self._counts):
            seen += self._counts[value]
            if seen >= wanted:
                break
        return value
