"""The frames on which models differ most."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from m2f_ros.evaluation.bag_drive import BagDrive
from m2f_ros.evaluation.classes import Classes
from m2f_ros.evaluation.pairs import Pair, join


@dataclass(order=True)
class Difference:
    """A frame.

    Attributes:
        share: share of the pixels with ground truth that have not the same label from all models, 0..1.
        drive, stamp_ns: as in Pair.
        image: (H, W, 3) uint8 BGR; None without images.
        truth: (H, W) train ids.
        labels: train ids (H, W) by the name of the model.
        right: share of these pixels that each model labels right, by its name.
    """

    share: float
    drive: str = field(compare=False)
    stamp_ns: int
    image: np.ndarray | None = field(compare=False)
    truth: np.ndarray = field(compare=False)
    labels: dict[str, np.ndarray] = field(compare=False)
    right: dict[str, float] = field(compare=False)


def most_different(drives: Sequence[Mapping[str, tuple[BagDrive, Classes]]], most: int) -> list[Difference]:
    """Return the frames on which the models differ most, the most different first, one of each second of a drive.

    drives: predictions of each model for each drive, by the name of the model, scored in the same classes.
    """
    kept: dict[tuple[str, int], Difference] = {}
    for drive in drives:
        for found in _differences(drive):
            place = found.drive, found.stamp_ns // 10**9
            if place not in kept or kept[place] < found:
                kept[place] = found
            if len(kept) > most:
                del kept[min(kept, key=lambda at: kept[at])]
    return heapq.nlargest(most, kept.values())


def _differences(drive: Mapping[str, tuple[BagDrive, Classes]]) -> Iterator[Difference]:
    unlabelled = next(classes.taxonomy.unlabelled for _, classes in drive.values())
    streams = {}
    for number, (name, (bags, classes)) in enumerate(drive.items()):
        pairs = bags.pairs(classes, [], [], images=number == 0)
        streams[name] = _both(pairs)
    for stamp, found in join(streams):
        if len(found) < len(drive):
            continue
        first: Pair = next(found[name] for name in drive)
        labels = {name: label for name in drive if (label := found[name].prediction) is not None}
        truth = first.truth
        assert truth is not None  # as `_both` has it
        known = truth != unlabelled
        pixels = np.count_nonzero(known)
        if not pixels or any(label.shape != truth.shape for label in labels.values()):
            continue
        one = next(iter(labels.values()))
        differ = np.zeros_like(known)
        for label in labels.values():
            differ |= label != one
        right = {name: float((label == truth)[known].mean()) for name, label in labels.items()}
        share = np.count_nonzero(differ & known) / pixels
        yield Difference(share, first.drive, stamp, first.image, truth, labels, right)


def _both(pairs: Iterator[Pair]) -> Iterator[tuple[int, Pair]]:
    for pair in pairs:
        if pair.truth is not None and pair.prediction is not None:
            yield pair.stamp_ns, pair
