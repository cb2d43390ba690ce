"""Regions of a frame that are worth an explanation."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from m2f_ros.evaluation.explain.watched import Watched

_LEAST = 16  # pixels of a mistake


class Region(NamedTuple):
    """A part of a frame.

    Attributes:
        title: its class and place.
        mask: (H, W) bool.
        train_id: class of the model that it got.
        other: the class of the model that it is compared with: the true one of a mistake, else the second best.
        wrong: number of its pixels that are wrong; None without truth.
    """

    title: str
    mask: np.ndarray
    train_id: int
    other: int
    wrong: int | None = None


class Truth(NamedTuple):
    """True labels in the classes of the model.

    Attributes:
        right: (H, W) bool.
        wrong: (H, W) bool; a pixel without truth is neither.
        label: (H, W) train ids of the truth's own classes.
        names: name of each class of the truth.
        as_model: train id of the truth -> the model's class that stands for it: of several that merge into it, the one
            whose pixels are the most in the prediction.
    """

    right: np.ndarray
    wrong: np.ndarray
    label: np.ndarray
    names: tuple[str, ...]
    as_model: dict[int, int]


def truth_of(watched: Watched, label: np.ndarray, names: tuple[str, ...], table: np.ndarray, unlabelled: int) -> Truth:
    """Compare with the truth. table: train id of the model -> train id of the truth; see `taxonomy.merge_table`."""
    mapped = table[watched.label]
    valid = label != unlabelled
    score = watched.scores.mean((1, 2))
    as_model: dict[int, int] = {}
    for one in sorted(range(len(watched.taxonomy.classes)), key=lambda i: -score[i]):
        as_model.setdefault(int(table[one]), one)
    return Truth(valid & (mapped == label), valid & (mapped != label), label, names, as_model)


def segments(watched: Watched, truth: Truth | None, most: int) -> list[Region]:
    """Return the panoptic segments, or else the classes, the largest first; with truth those with most wrong pixels."""
    result, names = watched.result, [one.name for one in watched.taxonomy.classes]
    found = []
    if result.segments is not None and result.ids is not None:
        parts = [
            (f"{names[s.train_id]} (segment {s.id}, score {s.score:.2f})", result.ids == s.id, s.train_id)
            for s in result.segments
        ]
    else:
        parts = [(names[i], watched.label == i, int(i)) for i in np.unique(watched.label) if i < len(names)]
    for title, mask, train_id in parts:
        if mask.any():
            wrong = None if truth is None else int((truth.wrong & mask).sum())
            found.append(Region(title, mask, train_id, _second(watched, mask, train_id), wrong))
    found.sort(key=lambda region: (-(region.wrong or 0), -int(region.mask.sum())))
    return found[:most]


def mistakes(watched: Watched, truth: Truth, most: int) -> list[Region]:
    """Return the largest connected regions of one true and one predicted class that differ, the largest first."""
    found: list[tuple[int, int, int, np.ndarray]] = []
    for true in np.unique(truth.label[truth.wrong]):
        for predicted in np.unique(watched.label[truth.wrong & (truth.label == true)]):
            if predicted >= len(watched.taxonomy.classes):
                continue
            here = truth.wrong & (truth.label == true) & (watched.label == predicted)
            number, labels, stats, _ = cv2.connectedComponentsWithStats(here.view(np.uint8), connectivity=8)
            for i in range(1, number):
                if stats[i, cv2.CC_STAT_AREA] >= _LEAST:
                    found.append((int(stats[i, cv2.CC_STAT_AREA]), int(true), int(predicted), labels == i))
    found.sort(key=lambda one: -one[0])
    return [_mistake(watched, truth, mask, true, predicted) for _, true, predicted, mask in found[:most]]


def at(watched: Watched, truth: Truth | None, x: int, y: int) -> Region:
    """Return the connected region around a pixel: of its true class where there is truth, else of its predicted one."""
    known = truth is not None and bool(truth.right[y, x] or truth.wrong[y, x])
    labels = truth.label if truth is not None and known else watched.label
    _, parts = cv2.connectedComponents((labels == labels[y, x]).view(np.uint8), connectivity=8)
    mask = parts == parts[y, x]
    values = watched.label[mask]
    values = values[values < len(watched.taxonomy.classes)]
    predicted = int(np.bincount(values).argmax()) if len(values) else int(watched.scores[:, y, x].argmax())
    if truth is None or not known:
        region = Region("", mask, predicted, _second(watched, mask, predicted))
    else:
        region = _mistake(watched, truth, mask, int(labels[y, x]), predicted)
    return region._replace(title=f"At {x},{y}: {region.title or watched.taxonomy.classes[predicted].name}")


def _mistake(watched: Watched, truth: Truth, mask: np.ndarray, true: int, predicted: int) -> Region:
    rows, columns = np.nonzero(mask)
    other = truth.as_model.get(true, -1)
    if other in (-1, predicted):
        other = _second(watched, mask, predicted)
    title = (
        f"{truth.names[true]}, predicted as {watched.taxonomy.classes[predicted].name}, around "
        f"{int(columns.mean())},{int(rows.mean())}"
    )
    return Region(title, mask, predicted, other, int((truth.wrong & mask).sum()))


def _second(watched: Watched, mask: np.ndarray, train_id: int) -> int:
    """Return the class with the best mean score over a region, beside one."""
    scores = watched.scores[:, mask].mean(1)
    scores[train_id] = -1
    return int(scores.argmax())
