"""A segment of a panoptic image: the one record that networks, files, messages and scores share."""

from __future__ import annotations

from typing import NamedTuple


class Segment(NamedTuple):
    """One segment of one image.

    Attributes:
        id: value of its pixels in the map of ids, from 1 up.
        train_id: its class.
        score: class probability, 0..1; of fused stuff, the first query's.
        area: pixels of the map; 0 where nobody counted them.
        box: x and y of its left and top pixel, width, height; upright and as small as can be.
        crowd: several objects that the annotator did not tell apart (COCO's iscrowd, Cityscapes' groups).
    """

    id: int
    train_id: int
    score: float = 1.0
    area: int = 0
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
    crowd: bool = False
