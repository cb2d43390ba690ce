"""Scores and blocks add up to the same in any parts, and their memory is bounded."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2f_ros import taxonomy
from m2f_ros.evaluation.blocks import Blocks, per_drive
from m2f_ros.evaluation.latency import Latency
from m2f_ros.evaluation.measures import METRICS
from m2f_ros.evaluation.pairs import Pair
from m2f_ros.evaluation.scores import Scores
from m2f_ros.frame.segment import Segment
from m2f_ros.metrics import Confusion

CAMVID = taxonomy.get("camvid")
STEP = 100_000_000


def frames(drive, count, seed):
    rng = np.random.default_rng(seed)
    for i in range(count):
        truth = rng.integers(0, 12, (20, 24)).astype(np.uint8)
        truth[truth == 11] = 255
        prediction = np.where(rng.random(truth.shape) < 0.3, rng.integers(0, 11, truth.shape), truth).astype(np.uint8)
        yield Pair(
            drive,
            str(i),
            (i + 1) * STEP,
            truth,
            None if i % 5 == 4 else prediction,
            confidence=rng.integers(0, 256, truth.shape).astype(np.uint8),
            image=rng.integers(0, 256, (20, 24, 3)).astype(np.uint8),
            truth_ids=(truth != 255) * (truth + 1).astype(np.uint16),
            truth_segments=[Segment(c + 1, c) for c in range(11)],
            ids=(prediction + 1).astype(np.uint16),
            segments=[Segment(c + 1, c) for c in range(11)],
            latency_ms=float(rng.uniform(5, 50)),
            drops={"newer": i},
        )


def result(scores):
    return scores.result(predictions="P", truth="T")


def test_scores_of_parts_are_those_of_the_whole():
    drives = {name: list(frames(name, 7, seed)) for seed, name in enumerate(("a", "b", "c"))}
    whole = Scores(CAMVID, blocks=4, worst=3)
    for turn in zip(*drives.values(), strict=True):
        for pair in turn:
            whole.update(pair)
    parts = Scores(CAMVID, blocks=4, worst=3)
    for name in ("c", "a", "b"):
        part = Scores(CAMVID, blocks=4, worst=3)
        for pair in drives[name]:
            part.update(pair)
        part.end_drive(name)
        parts += pickle.loads(pickle.dumps(part))
    assert result(parts) == result(whole)
    assert parts.worst == whole.worst
    assert all(score is not None or METRICS[key].seldom for key, score in result(whole).metrics.items())
    assert result(whole).drops == {"newer": 18}
    with pytest.raises(ValueError, match="one drive cannot be merged: a, b, c"):
        parts += whole


def test_a_prediction_alone_scores_nothing():
    scores = Scores(CAMVID)
    (pair,) = frames("a", 1, 0)
    pair.truth = None
    scores.update(pair)
    found = result(scores)
    assert found.frames == {"truth": 0, "scored": 0, "missing": 0, "without_truth": 1}
    assert found.metrics["miou"] is None and found.blocks == [] and found.calibration is None


@pytest.mark.parametrize("gap, compared", [(4, True), (6, False)])
def test_frames_far_apart_are_not_compared(gap, compared):
    scores = Scores(CAMVID)
    for i, pair in enumerate(frames("a", 2, 0)):
        pair.stamp_ns = i * gap * STEP
        scores.update(pair)
    assert (result(scores).metrics["flips"] is not None) is compared


@settings(max_examples=30)
@given(st.integers(0, 200), st.integers(2, 9))
def test_blocks_are_bounded_and_lose_nothing(count, most):
    blocks, total = Blocks(2, most), Confusion(2)
    rng = np.random.default_rng(count)
    for i in range(count):
        frame = None
        if i % 7 != 3:
            frame = Confusion(2)
            frame.matrix += rng.integers(0, 9, (2, 3))
            total += frame
        blocks.add(i * STEP, frame, latency_ms=float(i))
        assert len(blocks.rows("d")) <= most
    rows = blocks.rows("d")
    for name, counts in (("hit", total.hit()), ("truth", total.truth()), ("prediction", total.prediction())):
        assert np.sum([row[name] for row in rows], axis=0, dtype=int).tolist() == (counts.tolist() if rows else 0)
    assert [row["first"] for row in rows] == np.cumsum([0, *(row["frames"] for row in rows)])[:-1].tolist()
    assert sum(row["frames"] for row in rows) == blocks.frames == count
    assert sum(row["missing"] for row in rows) == blocks.missing == len(range(3, count, 7))
    for row in rows:
        members = range(row["first"], row["first"] + row["frames"])
        assert (row["first_stamp_ns"], row["last_stamp_ns"]) == (members[0] * STEP, members[-1] * STEP)
        assert row["latency_ms"] == pytest.approx(np.mean(members))
    assert blocks.miou() == total.miou()


def test_many_drives_have_few_blocks_each():
    assert [per_drive(n) for n in (0, 1, 4, 1000)] == [1024, 1024, 256, 8]


@given(st.lists(st.floats(0.01, 1e5), min_size=1))
def test_latency_to_three_digits(values):
    halves = Latency(), Latency()
    for i, value in enumerate(values):
        halves[i % 2].update(value)
    both = halves[0]
    both += halves[1]
    found, ordered = both.summary(), sorted(values)
    assert found["max"] == pytest.approx(ordered[-1], rel=0.006)
    for key, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        wanted = np.quantile(ordered, share, method="inverted_cdf")
        assert found[key] == pytest.approx(wanted, rel=0.006)
