"""All scores: parts add up to the whole in any order, and counts survive JSON and another process."""

import math
import pickle

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2f_ros.frame.segment import Segment
from m2f_ros.metrics import (
    BoundaryScore,
    Calibration,
    CellScore,
    Confusion,
    Flips,
    InstanceIou,
    PanopticQuality,
    PointScore,
)
from m2f_ros.metrics.accumulator import PARTS, in_parts

THINGS = range(11, 19)


def regions(ids, labels):
    return [Segment(int(i), int(labels[ids == i][0])) for i in np.unique(ids) if i]


def counts(score):
    return {name: getattr(score, name).tolist() for name in score.COUNTS}


def flips(score, shot):
    score.restart()
    score.update(shot.image, shot.truth)
    score.update(shot.image, shot.prediction)


def cells(score, shot):
    """Take the labels as costs, and the columns as distances."""
    truth, prediction = ((labels.astype(np.int16).ravel() * 10) for labels in (shot.truth, shot.prediction))
    distance = np.tile(np.arange(shot.truth.shape[1]) / 10.0, len(shot.truth))
    score.update_precision(prediction, truth, shot.instance.ravel() > 0, distance)
    score.update_recall(truth, prediction, distance)


def points(score, shot):
    distance = np.tile(np.arange(shot.truth.shape[1]) / 5.0, len(shot.truth))
    score.update(shot.truth.ravel(), shot.prediction.ravel(), distance)


SCORES = {
    "confusion": (lambda: Confusion(19), lambda score, shot: score.update(shot.truth, shot.prediction)),
    "boundary": (lambda: BoundaryScore(19, 0.005), lambda score, shot: score.update(shot.truth, shot.prediction)),
    "calibration": (
        lambda: Calibration(19),
        lambda score, shot: score.update(shot.truth, shot.prediction, shot.image[..., 0]),
    ),
    "instances": (
        lambda: InstanceIou(19, THINGS),
        lambda score, shot: score.update(shot.prediction, shot.instance, regions(shot.instance, shot.truth)),
    ),
    "panoptic": (
        lambda: PanopticQuality(19, THINGS),
        lambda score, shot: score.update(
            shot.instance, regions(shot.instance, shot.truth), shot.found, regions(shot.found, shot.prediction)
        ),
    ),
    "flips": (Flips, flips),
    "cells": (CellScore, cells),
    "points": (lambda: PointScore(19), points),
}


@pytest.mark.parametrize("name", SCORES)
def test_parts_in_any_order_add_up_to_the_whole(name, street):
    new, update = SCORES[name]
    whole = new()
    for shot in street:
        update(whole, shot)
    backwards = new()
    for shot in reversed(street):
        part = new()
        update(part, shot)
        backwards += pickle.loads(pickle.dumps(part))
    assert counts(backwards) == counts(whole) != counts(new())


def test_counts_of_other_settings_do_not_add_up():
    confusion = Confusion(3)
    with pytest.raises(ValueError, match=r"Confusion\(num_classes=3\) and Confusion\(num_classes=4\) do not add up"):
        confusion += Confusion(4)
    with pytest.raises(ValueError, match="do not add up"):
        confusion += Calibration(3)


@given(st.integers(0, 10**9), st.integers(1, 10**9))
def test_ratios_in_parts_are_rounded(numerator, denominator):
    assert in_parts(numerator, denominator) / PARTS == pytest.approx(numerator / denominator, rel=1e-15, abs=1 / PARTS)


def test_scores_of_a_perfect_prediction(street):
    shot = street[0]
    confusion, boundary = Confusion(19), BoundaryScore(19)
    instances, panoptic = InstanceIou(19, THINGS), PanopticQuality(19, THINGS)
    calibration = Calibration(19)
    ids, segments = cv2.resize(shot.instance, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST), None
    truth = cv2.resize(shot.truth, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
    segments = regions(ids, truth)
    confusion.update(truth, truth)
    boundary.update(truth, truth)
    instances.update(truth, ids, segments)
    panoptic.update(ids, segments, ids, segments)
    calibration.update(truth, truth, np.full_like(truth, 255))
    scores = (
        confusion.miou(),
        confusion.frequency_weighted_iou(),
        boundary.mean_f_score(),
        instances.mean_iiou(confusion),
        panoptic.mean_pq(),
        1 - calibration.ece(),
    )
    assert all(math.isclose(score, 1, abs_tol=1e-12) for score in scores), scores
