"""The labels of one frame, as files have them, and what the frame is called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m2f_ros.evaluation.pairs import Segment

# What data sets put behind the name of the image, and Cityscapes behind the images' own.
_TAILS = re.compile(
    r"(_leftImg8bit)?(_gtFine|_gtCoarse)?(_label(Train)?Ids|_instance(Train)?Ids|_L|_label|_panoptic)?$"
)
# Subfolder, and name of the frame.
Key = tuple[str, str]


@dataclass
class FrameLabels:
    """labels: (H, W) train ids. ids: (H, W) of segments, 0 for none; segments: what they are; None: not known."""

    labels: np.ndarray
    ids: np.ndarray | None = None
    segments: Sequence[Segment] | None = None


def frame_name(path: Path) -> str:
    """What the image is called: frankfurt_000000_000294 of frankfurt_000000_000294_gtFine_labelIds.png."""
    return _TAILS.sub("", path.stem)
