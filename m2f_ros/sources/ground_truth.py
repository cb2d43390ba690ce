"""Panoptic ground truth from labels and instances."""

from __future__ import annotations

import cv2
import numpy as np

from m2f_ros.frame.segment import Segment
from m2f_ros.taxonomy import Taxonomy


def panoptic_truth(label: np.ndarray, instances: np.ndarray, taxonomy: Taxonomy) -> tuple[np.ndarray, list[Segment]]:
    """Segments of an image: each instance of a thing is one, and each class of stuff.

    label: (H, W) train ids. instances: (H, W) uint16, 0 where the class is no thing, else the object's id, at most
        65534 less the number of classes.
    Returns ids (H, W) uint16, 0 = no segment (no class, or a thing without instance), and the segments by id. A thing
    has its instance's id, a class of stuff 65535 - K + its train id, so that both last from frame to frame.
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
