"""Frames scored in a thread: all that find room, in order; a failure is told and raised."""

from __future__ import annotations

import threading

import pytest

from m2f_ros.errors import EvaluationError
from m2f_ros.node.matching import Gathered
from m2f_ros.node.scorer import Scorer


def test_frames_are_scored_in_order_and_those_without_room_are_counted():
    scorer, scored = Scorer(10, failed=pytest.fail), []
    for stamp, size in enumerate((4, 6, 1, 0)):
        scorer.put(Gathered(stamp, size=size))
    scorer.start(lambda frame: scored.append(frame.stamp))
    scorer.close()
    assert (scored, scorer.skipped) == ([0, 1, 3], 1)


def test_one_frame_has_room_however_large_it_is():
    scorer, scored = Scorer(10, failed=pytest.fail), []
    scorer.put(Gathered(1, size=11))
    scorer.start(lambda frame: scored.append(frame.stamp))
    scorer.close()
    assert (scored, scorer.skipped) == ([1], 0)


def test_a_failure_is_told_at_once_and_raised_at_the_end():
    told = threading.Event()
    scorer = Scorer(10, failed=told.set)

    def score(frame):
        raise EvaluationError("sizes differ")

    scorer.start(score)
    scorer.put(Gathered(1))
    assert told.wait(60)
    with pytest.raises(EvaluationError, match="sizes differ"):
        scorer.close()
