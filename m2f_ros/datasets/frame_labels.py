"""The labels of one frame, as files have them, and its name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m2f_ros.frame.segment import Segment
from m2f_ros.taxonomy import Taxonomy

# Endings that data sets put behind the name of the image, and Cityscapes behind that of the image file, too.
_TAILS = re.compile(
    r"(_leftImg8bit)?(_gtFine|_gtCoarse)?(_label(Train)?Ids|_instance(Train)?Ids|_L|_label|_panoptic)?$"
)
# Subfolder, and name of the frame.
Key = tuple[str, str]


@dataclass
class FrameLabels:
    """Labels of a frame, and its segments where they are known.

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
    """Segments of things and of stuff, from those of things alone. Each class of stuff is one segment.

    labels: (H, W) train ids. ids: (H, W) of things, below 2**16 + 1; 0 elsewhere. Returns ids (H, W) int32.
    """
    ids, segments, first = ids.astype(np.int32), list(things), 2**16 + 1
    for train_id in np.unique(labels).tolist():
        if train_id != taxonomy.unlabelled and not taxonomy.classes[train_id].thing:
            ids[labels == train_id] = first + train_id
            segments.append(Segment(first + train_id, train_id))
    return ids, segments


def frame_name(path: Path) -> str:
    """The name of the image: frankfurt_000000_000294 of frankfurt_000000_000294_gtFine_labelIds.png."""
    return _TAILS.sub("", path.stem)


def frame_key(path: Path, folder: Path) -> Key:
    """Its subfolder of `folder`, "" for the folder itself, and its `frame_name`."""
    inside = path.parent.relative_to(folder).as_posix()
    return "" if inside == "." else inside, frame_name(path)
