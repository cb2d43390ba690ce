"""Classifies the stamps of a camera's frames: in order, late, or after a jump. Does not import ROS."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

TAKE, DROP, RESET = "take", "drop", "reset"
# Consecutive late frames, with ascending stamps, that indicate a jump of time.
LATE_IN_A_ROW = 3


@dataclass(frozen=True)
class Verdict:
    """The classification of a stamp.

    Attributes:
        kind: ok, repeated, out_of_order, jumped_back, jumped_ahead, future, unstamped or no_clock.
        action: TAKE; DROP for a frame older than an earlier one; RESET to take it and forget the state of earlier
            frames (class scores, tracks).
        line: line for the log at the first frame of a kind, else "".
    """

    kind: str
    action: str
    line: str = ""


class StampWatch:
    """Classifies the stamps of one camera. Not thread-safe.

    Args:
        back_s: seconds; a frame older than the newest by more is a jump back of a clock or a bag. A less old frame is
            late; LATE_IN_A_ROW late frames are a jump.
        ahead_s: seconds; a frame newer than the newest by more comes after a gap.
        future_s: most seconds of a stamp ahead of the node's clock.
    """

    def __init__(self, back_s: float = 1.0, ahead_s: float = 5.0, future_s: float = 0.5):
        self._back, self._ahead, self._future = (round(s * 1e9) for s in (back_s, ahead_s, future_s))
        self._newest: int | None = None
        self._late: list[int] = []
        self._counts: Counter[str] = Counter()

    @property
    def counts(self) -> dict[str, int]:
        """Number of frames of each kind so far."""
        return dict(self._counts)

    def judge(self, stamp_ns: int, now_ns: int) -> Verdict:
        """Classify the next frame.

        stamp_ns: header stamp, nanoseconds; 0 if the driver sets none.
        now_ns: time of the node's clock, nanoseconds; 0 before the first message on /clock.
        """
        kind, action, line = self._judge(stamp_ns, now_ns)
        self._counts[kind] += 1
        return Verdict(kind, action, line if self._counts[kind] == 1 else "")

    def _judge(self, stamp: int, now: int) -> tuple[str, str, str]:
        if stamp <= 0:
            line = "frames have no stamp: their age and order are unknown; have the driver set header.stamp"
            return "unstamped", TAKE, line
        first, newest = self._newest is None, stamp if self._newest is None else self._newest
        if stamp < newest and not self._jumped_back(stamp, newest):
            line = (
                f"a frame came out of order, {_seconds(newest - stamp)} older than the newest: such frames are dropped"
            )
            return "out_of_order", DROP, line
        self._newest, self._late = stamp, []
        if stamp < newest:
            return "jumped_back", RESET, f"time jumped back by {_seconds(newest - stamp)}: starting over from there"
        action = RESET if stamp - newest > self._ahead else TAKE
        if 0 < now < stamp - self._future:
            line = (
                f"stamps are {_seconds(stamp - now)} ahead of this node's clock: synchronise the clocks, "
                "or set use_sim_time where a bag plays"
            )
            return "future", action, line
        if action == RESET:
            return "jumped_ahead", action, f"no frame for {_seconds(stamp - newest)}: starting over"
        if stamp == newest and not first:
            return "repeated", TAKE, "frames repeat the stamp of the one before: they cannot be told apart downstream"
        if now <= 0:
            return "no_clock", TAKE, "the clock is at 0: use_sim_time is set, and nothing publishes /clock yet"
        return "ok", TAKE, ""

    def _jumped_back(self, stamp: int, newest: int) -> bool:
        if newest - stamp > self._back:
            return True
        if self._late and stamp < self._late[-1]:
            self._late = []
        self._late.append(stamp)
        return len(self._late) >= LATE_IN_A_ROW


def _seconds(ns: int) -> str:
    return f"{ns / 1e9:.3f} s"
