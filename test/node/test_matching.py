"""Frames gathered by their stamps: exact, in order, within bounds, whatever is lost and however topics interleave."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from m2f_ros.node.matching import LABEL, PATIENCE, TRUTH, Matcher

BIG = 1 << 30


def put(matcher, *messages):
    """Stamps and parts of what is given when these (part, stamp) come in turn."""
    return [(f.stamp, set(f.parts)) for part, stamp in messages for f in matcher.put(part, stamp, part, 1)]


def test_a_frame_is_given_once_all_of_it_is_there():
    matcher = Matcher((TRUTH, LABEL, "confidence"), BIG)
    assert put(matcher, (TRUTH, 1), (LABEL, 1)) == []
    assert put(matcher, ("confidence", 1)) == [(1, {TRUTH, LABEL, "confidence"})]


def test_a_newer_label_says_that_an_older_one_never_comes():
    matcher = Matcher((TRUTH, LABEL), BIG)
    assert put(matcher, (TRUTH, 1), (TRUTH, 2), (TRUTH, 3)) == []
    assert matcher.waits_for_label
    assert put(matcher, (LABEL, 3)) == [(1, {TRUTH}), (2, {TRUTH}), (3, {TRUTH, LABEL})]
    assert not matcher.waits_for_label


def test_a_label_waits_for_its_truth_only_until_a_newer_one():
    matcher = Matcher((TRUTH, LABEL), BIG)
    assert put(matcher, (LABEL, 1), (LABEL, 2)) == []
    assert put(matcher, (TRUTH, 2)) == [(1, {LABEL}), (2, {TRUTH, LABEL})]


def test_a_topic_that_is_silent_is_not_waited_for():
    matcher = Matcher((TRUTH, LABEL, "confidence"), BIG)
    both = [(part, stamp) for stamp in range(PATIENCE + 1) for part in (TRUTH, LABEL)]
    assert put(matcher, *both[:-1]) == []
    assert put(matcher, both[-1]) == [(0, {TRUTH, LABEL})]


def test_above_the_limit_the_oldest_frames_go_as_they_are():
    matcher = Matcher((TRUTH, LABEL), 2)
    assert put(matcher, (TRUTH, 1), (TRUTH, 2)) == []
    assert put(matcher, (TRUTH, 3)) == [(1, {TRUTH})]
    assert put(matcher, (LABEL, 1)) == []
    assert (matcher.late, matcher.late_truths) == (1, 0)
    assert put(matcher, (TRUTH, 0)) == []
    assert (matcher.late, matcher.late_truths) == (2, 1)


def test_what_is_left_at_the_end_is_given_as_it_is():
    matcher = Matcher((TRUTH, LABEL), BIG)
    put(matcher, (TRUTH, 1), (TRUTH, 2), (LABEL, 1))
    assert [(f.stamp, set(f.parts)) for f in matcher.rest()] == [(2, {TRUTH})]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=30),
    st.randoms(use_true_random=False),
)
def test_any_interleaving_gives_every_message_once_in_order(frames, random):
    """Each topic sends in order; how the topics interleave is left to chance."""
    parts = (TRUTH, LABEL, "confidence")
    queues = {p: [s for s, sent in enumerate(frames) if sent[i]] for i, p in enumerate(parts)}
    expected = {s: {p for p in parts if s in queues[p]} for s in range(len(frames))}
    matcher, got = Matcher(parts, BIG), []
    while any(queues.values()):
        part = random.choice([p for p in parts if queues[p]])
        stamp = queues[part].pop(0)
        got += matcher.put(part, stamp, part, 1)
    got += matcher.rest()
    stamps = [f.stamp for f in got]
    assert stamps == sorted(set(stamps))
    # What is optional may be given up, also where there is nothing else; truth and label never, nor torn apart.
    assert [f.stamp for f in got if f.parts.keys() & {TRUTH, LABEL}] == [
        s for s, there in expected.items() if there & {TRUTH, LABEL}
    ]
    for frame in got:
        assert frame.parts.keys() & {TRUTH, LABEL} == expected[frame.stamp] & {TRUTH, LABEL}
        assert frame.parts.keys() <= expected[frame.stamp]
    assert matcher.late == 0


def test_an_optional_message_that_comes_too_late_is_left_out():
    matcher = Matcher((TRUTH, LABEL, "confidence"), BIG)
    labels = [(LABEL, stamp) for stamp in range(2, PATIENCE + 2)]
    assert put(matcher, (TRUTH, 1), *labels) == [(1, {TRUTH})]
    assert put(matcher, ("confidence", 0)) == []
    assert matcher.late == 0
