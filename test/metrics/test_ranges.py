"""Scores by distance, against the definition cell by cell and point by point."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2f_ros.errors import FrameError
from m2f_ros.metrics import CellScore, Confusion, PointScore
from m2f_ros.metrics.ranges import FREE, OCCUPIED

EDGES = (0, 5, 10)
DISTANCES = st.sampled_from([0.0, 4.999, 5.0, 9.0, 10.0, 50.0])
COSTS = st.sampled_from([-1, 0, 60, 99, 100, 101])
ID = st.sampled_from([0, 1, 2, 3, 255])


def state(cost):
    return "occupied" if cost == 100 else "free" if 0 <= cost < 100 else "unknown"


def within(distance):
    return 0 if distance < 5 else 1 if distance < 10 else None


def share(part, whole):
    return len(part) / len(whole) if whole else math.nan


def columns(rows, *dtypes):
    return [np.array([row[i] for row in rows], dtype) for i, dtype in enumerate(dtypes)]


@given(st.lists(st.tuples(COSTS, COSTS, st.booleans(), DISTANCES)))
def test_precision_and_recall_are_those_of_the_definition(cells):
    score = CellScore(EDGES)
    a, b, seen, distance = columns(cells, np.int8, np.int8, bool, float)
    score.update_precision(a, b, seen, distance)
    score.update_recall(b[seen], a[seen], distance[seen])
    for column, name in ((OCCUPIED, "occupied"), (FREE, "free")):
        expected = {"precision": [], "kept": [], "recall": []}
        for r in (0, 1, None):
            ranges = (0, 1) if r is None else (r,)
            for key, view in (("precision", True), ("kept", False)):
                here = [(state(p), state(t)) for p, t, s, d in cells if within(d) in ranges and s == view]
                predicted = [pair for pair in here if pair[0] == name and pair[1] != "unknown"]
                expected[key].append(share([p for p in predicted if p[1] == name], predicted))
            here = [(state(p), state(t)) for p, t, s, d in cells if within(d) in ranges and s]
            true = [pair for pair in here if pair[1] == name]
            expected["recall"].append(share([p for p in true if p[0] == name], true))
        for each, total, what in (
            (score.precisions(column), score.precision(column), "precision"),
            (score.precisions(column, False), score.precision(column, False), "kept"),
            (score.recalls(column), score.recall(column), "recall"),
        ):
            found = [*each.tolist(), math.nan if total is None else total]
            assert found == pytest.approx(expected[what], nan_ok=True)


def test_an_unknown_cell_is_no_error_of_precision_but_one_of_recall():
    score = CellScore((0, 20))
    prediction, truth = np.int8([100, 100, -1, 0]), np.int8([100, -1, 100, 60])
    score.update_precision(prediction, truth, np.ones(4, bool), np.ones(4))
    score.update_recall(truth, prediction, np.ones(4))
    assert (score.precision(OCCUPIED), score.recall(OCCUPIED)) == (1.0, 0.5)
    assert (score.precision(FREE), score.recall(FREE)) == (1.0, 1.0)


@given(st.lists(st.tuples(ID, ID, st.sampled_from([0.0, 4.0, 5.0, 9.9, 10.0, math.inf, math.nan]))))
def test_iou_of_points_is_that_of_the_labelled_ones(points):
    score = PointScore(3, EDGES)
    truth, prediction, distance = columns(points, np.uint8, np.uint8, float)
    score.update(truth, prediction, distance)
    for r in (0, 1):
        here = [(t, p) for t, p, d in points if t < 3 and (d < 5 if r == 0 else 5 <= d < 10)]
        labelled = [(t, p) for t, p in here if p < 3]
        flat = Confusion(3)
        flat.update(np.array([t for t, _ in labelled], np.uint16), np.array([p for _, p in labelled], np.uint16))
        miou = flat.miou()
        assert score.mious()[r] == pytest.approx(math.nan if miou is None else miou, nan_ok=True)
        assert score.labelled_shares()[r] == pytest.approx(share(labelled, here), nan_ok=True)
    assert score.matrix.sum() == sum(t < 3 and d < 10 for t, _, d in points)


def test_the_last_range_of_points_has_no_end():
    score = PointScore(2)
    score.update(np.uint8([0, 1, 1]), np.uint8([0, 1, 0]), np.array([51.0, 1e6, 3.0]))
    assert score.mious().tolist() == pytest.approx([0.0, math.nan, math.nan, math.nan, 1.0], nan_ok=True)
    assert score.iou().tolist() == [1 / 2, 1 / 2] and score.labelled() == 1.0


def test_nothing_has_no_score():
    cells, points = CellScore(), PointScore(3)
    nothing = np.zeros(0, np.int8)
    cells.update_precision(nothing, nothing, nothing > 0, np.zeros(0))
    assert cells.precision(OCCUPIED) is cells.recall(FREE) is points.miou() is points.labelled() is None
    assert np.isnan(cells.precisions(FREE)).all() and np.isnan(points.mious()).all()


def test_refusals():
    with pytest.raises(ValueError, match="edges of ranges must ascend from 0, not 0, 5, 5"):
        CellScore((0, 5, 5))
    with pytest.raises(ValueError, match="must ascend from 0, not 1, 5"):
        PointScore(3, (1, 5))
    with pytest.raises(ValueError, match="needs at least one class"):
        PointScore(0)
    with pytest.raises(FrameError, match="3 points have a true label, 2 a predicted one, 3 a distance"):
        PointScore(3).update(np.zeros(3, np.uint8), np.zeros(2, np.uint8), np.zeros(3))
    with pytest.raises(FrameError, match=r"cells of shapes \(3,\) and \(2,\)"):
        CellScore().update_recall(np.zeros(3, np.int8), np.zeros(2, np.int8), np.zeros(3))
