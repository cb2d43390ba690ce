"""Labels that tell things apart, in one number a pixel: train id + (unlabelled + 1) * number of the thing, from 1.

Stuff has the number 0, so that a plain label image is a map of segments, too.
"""

from __future__ import annotations

import numpy as np

from m2f_ros.datasets import FrameLabels
from m2f_ros.taxonomy import Taxonomy


def segment_map(frame: FrameLabels, merge: np.ndarray, taxonomy: Taxonomy) -> np.ndarray:
    """(H, W) int32 map of the segments of a frame.

    merge: from the train ids of the frame to those of `taxonomy`, see taxonomy.merge_table. Things that are not told
    apart, all of them where the frame has no segments, are unlabelled: a mask of several would teach the wrong thing.
    """
    labels = merge[frame.labels].astype(np.int32)
    things = np.zeros(taxonomy.unlabelled + 1, bool)
    things[[c.id for c in taxonomy.classes if c.thing]] = True
    labels[things[labels]] = taxonomy.unlabelled
    if frame.segments is None or frame.ids is None:
        return labels
    found, inverse = np.unique(frame.ids, return_inverse=True)
    values = np.full(len(found), -1, np.int32)
    place = {int(value): i for i, value in enumerate(found)}
    for number, segment in enumerate(frame.segments, 1):
        train_id = int(merge[segment.train_id])
        if things[train_id] and not segment.crowd and segment.id in place:
            values[place[segment.id]] = train_id + (taxonomy.unlabelled + 1) * number
    values = values[inverse.reshape(labels.shape)]
    return np.where(values >= 0, values, labels)


def train_ids(labels: np.ndarray, unlabelled: int) -> np.ndarray:
    """Train ids (H, W) of a map of segments, or of labels, which are that already."""
    return labels % (unlabelled + 1) if labels.dtype == np.int32 else labels


def without_small_things(labels: np.ndarray, pixels: int, unlabelled: int) -> np.ndarray:
    """The map (H, W), with things that have fewer pixels than so many unlabelled."""
    values, counts = np.unique(labels, return_counts=True)
    small = values[(values > unlabelled) & (counts < pixels)]
    return np.where(np.isin(labels, small), labels.dtype.type(unlabelled), labels)
