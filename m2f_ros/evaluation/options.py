"""What `m2f eval` can be asked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """predictions, truth: paths and globs, see drives.find_drives.

    classes: to score in, see classes.choose. taxonomy, prediction_taxonomy: what ids mean where the data does not say.
    topic, truth_topic: in bags, where there are several. images: folder of the images, for folders.
    boundary, flips: whether to measure these; flips None: of bags alone, since the files of a folder need not be
    consecutive frames. worst: how many frames to show. allow_missing: how many frames with ground truth may be without
    prediction, as "20" or "5%", before the result is one of a part. workers: processes, 0: one for each core and drive.
    """

    predictions: tuple[str, ...]
    truth: tuple[str, ...]
    classes: str | None = None
    taxonomy: str | None = None
    prediction_taxonomy: str | None = None
    topic: str | None = None
    truth_topic: str | None = None
    images: str | None = None
    boundary: bool = True
    flips: bool | None = None
    worst: int = 12
    allow_missing: str = "0"
    workers: int = 0
    ray: bool = False
