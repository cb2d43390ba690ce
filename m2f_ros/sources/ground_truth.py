"""Panoptic ground truth from labels and instances."""

from __future__ import annotations

import cv2
import numpy as np

from m2f_ros.frame.segment import Segment
from m2f_ros.taxonomy import Taxonomy


def panoptic_truth(label: np.ndarray, instances: np.ndarray, taxonomy: Taxonomy) -> tuple[np.ndarray, list[Segment]]:
    """Make the segments of an image: one for each instance of a thing, and one for each class of stuff.

    label: (H, W) train ids. instances: (H, W) uint16, id of the object, at most 65534 less the number of classes; 0
        outside things.
    Returns (H, W) uint16 ids, 0 for no segment (no class, or a thing without an instance), and the segments by id. A
    thing has its instance's id, a class of stuff 65535 - K + its train id: both persist from frame to frame.
    """
    first_stuff = 65535 - len(taxonomy.classes)
    stuff = np.zeros(taxonomy.unlabelled + 1, np.uint16)
    for c in taxonomy.classes:
        stuff[c.id] = 0 if c.thing else first_stuff + c.id
    ids = np.where(instances, instances, stuff[label])
    found, first = np.unique(ids, return_index=True)
    segments = []
    for number, position in zip(found.tolist(), first.tolist(), strict=True):
        if number:
            mask = (ids == number).view(np.uint8)
            train_id = int(label.flat[position])
            x, y, width, height = cv2.boundingRect(mask)
            segments.append(Segment(number, train_id, area=cv2.countNonZero(mask), box=(x, y, width, height)))
    return ids, segments
