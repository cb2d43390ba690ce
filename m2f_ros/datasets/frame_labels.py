"""The labels of one frame, and its name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m2f_ros.frame.segment import Segment
from m2f_ros.taxonomy import Taxonomy

# Suffixes that data sets append to the name of the image; Cityscapes has one for image files, too.
_TAILS = re.compile(
    r"(_leftImg8bit)?(_gtFine|_gtCoarse)?(_label(Train)?Ids|_instance(Train)?Ids|_L|_label|_panoptic)?$"
)
# (subfolder, name of the frame)
Key = tuple[str, str]


@dataclass
class FrameLabels:
    """Labels of a frame, and its segments if known.

    Attributes:
        labels: (H, W) train ids.
        ids: (H, W) ids of segments, 0 for none.
        segments: the segments of these ids.
    """

    labels: np.ndarray
    ids: np.ndarray | None = None
    segments: Sequence[Segment] | None = None


def with_stuff(
    labels: np.ndarray, ids: np.ndarray, things: Sequence[Segment], taxonomy: Taxonomy
) -> tuple[np.ndarray, list[Segment]]:
    """Add a segment for each class of stuff to the segments of things.

    labels: (H, W) train ids. ids: (H, W) ids of things, below 2**16 + 1; 0 elsewhere. Returns (H, W) int32 ids.
    """
    ids, segments, first = ids.astype(np.int32), list(things), 2**16 + 1
    for train_id in np.unique(labels).tolist():
        if train_id != taxonomy.unlabelled and not taxonomy.classes[train_id].thing:
            ids[labels == train_id] = first + train_id
            segments.append(Segment(first + train_id, train_id))
    return ids, segments


def frame_name(path: Path) -> str:
    """Return the name of the image: frankfurt_000000_000294 for frankfurt_000000_000294_gtFine_labelIds.png."""
    return _TAILS.sub("", path.stem)


def frame_key(path: Path, folder: Path) -> Key:
    """Return the subfolder of a file in `folder`, "" for the folder itself, and its `frame_name`."""
    inside = path.parent.relative_to(folder).as_posix()
    return "" if inside == "." else inside, frame_name(path)
