"""The options of `m2f eval`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """A request to score predictions.

    Attributes:
        predictions, truth: paths and globs, see drives.find_drives.
        classes: classes to score in, see classes.choose.
        taxonomy, prediction_taxonomy: meaning of the ids where the data does not say.
        topic, truth_topic: label topics of bags that have several.
        images: folder of the images, for folders of labels.
        boundary: measures the boundary F-score.
        flips: measures flips; None: of bags alone, since the files of a folder need not be consecutive frames.
        worst: number of worst frames to show.
        allow_missing: how many frames with ground truth may be without prediction, as "20" or "5%", before the result
            is a partial one.
        workers: number of processes; 0: one for each core and drive.
        ray: spreads the drives over a Ray cluster.
        until_ns: stamp of the last frame to score, in nanoseconds; None: all.
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
    until_ns: int | None = None
