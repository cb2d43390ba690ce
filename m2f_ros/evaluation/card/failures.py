"""Pictures of where a model fails: the worst frames of simulated streets, which can be drawn again at any time.

A drive called street_SEED is one of these (`m2f bag street:SEED --out …/street_SEED`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import EvaluationError
from m2f_ros.evaluation.card.evidence import Evidence, Facts
from m2f_ros.evaluation.classes import choose
from m2f_ros.evaluation.measures import number
from m2f_ros.evaluation.report.worst import side_by_side
from m2f_ros.evaluation.result import Result
from m2f_ros.metrics import Confusion
from m2f_ros.model import load
from m2f_ros.pipeline import Frame, Pipeline
from m2f_ros.street import Street
from m2f_ros.taxonomy import Taxonomy

# Other devices and backends round otherwise; other weights are further off.
TOLERANCE = 0.02
_NAME = re.compile(r"street_(\d+)")
_PANEL = 320, 240  # pixels, width and height
_GAP = 4
_ROW = 16  # pixels of a line of the legend
_LEAST_SHARE = 0.002  # of a class in the frame that the legend names


@dataclass(frozen=True)
class Failure:
    """A frame of a simulated street: frame `index` of Street(seed, rate=rate). seconds: of the drive.

    drive, miou: as the evaluation has them; miou is of this frame alone.
    """

    evidence: Evidence
    drive: str
    seed: int
    rate: float
    index: int
    seconds: float
    miou: float


def worst(evidence: Sequence[Evidence], count: int) -> list[Failure]:
    """The worst frame of each of the `count` simulated streets that have the worst."""
    found: dict[str, Failure] = {}
    for e in evidence:
        for row in e.result.worst:
            drive, miou = row["drive"], row["miou"]
            match = _NAME.fullmatch(drive)
            if match and miou is not None and (drive not in found or miou < found[drive].miou):
                found[drive] = Failure(e, drive, int(match[1]), *_place(e.result, drive, row["stamp_ns"]), miou)
    return sorted(found.values(), key=lambda failure: (failure.miou, failure.drive))[:count]


def draw(found: Sequence[Failure], facts: Facts) -> list[bytes]:
    """A JPEG of each: the image, the truth, the prediction, and under them the classes' colours.

    The frames are segmented anew. Raises EvaluationError where the mean IoU of one is not the evaluation's: that was of
    other weights.
    """
    pipeline = Pipeline(load(facts.folder), facts.taxonomy, device="cpu")
    pictures = []
    for failure in found:
        frame = Street(failure.seed, rate=failure.rate).frame(failure.index)
        label = pipeline.segment(Frame(frame.image, "rgb8"), {"label"}).label
        assert label is not None  # it was asked for
        spec = failure.evidence.result.settings.get("classes")
        classes = choose(taxonomies.get("cityscapes"), facts.taxonomy, spec)
        truth, prediction = classes.truth.labels(frame.label), classes.prediction.labels(label)
        confusion = Confusion(len(classes.taxonomy.classes))
        confusion.update(truth, prediction, classes.taxonomy.unlabelled)
        _check(failure, confusion.miou(), facts.spec)
        pictures.append(_compose(frame.image, truth, prediction, classes.taxonomy))
    return pictures


def _check(failure: Failure, miou: float | None, spec: str) -> None:
    if miou is None or abs(miou - failure.miou) > TOLERANCE:
        raise EvaluationError(
            f"{failure.evidence.file}: {failure.drive} at {failure.seconds:g} s has a mean IoU of {failure.miou:.3f} "
            f"there, {spec} gives {number(miou)}: the evaluation is of other weights, or of no simulated street; "
            "measure anew, or give --pictures 0"
        )


def _place(result: Result, drive: str, stamp_ns: int) -> tuple[float, int, float]:
    """(frames a second, number of the frame, seconds from the first) of a frame of a drive with even stamps."""
    blocks = [block for block in result.blocks if block["drive"] == drive]
    first, last = blocks[0]["first_stamp_ns"], blocks[-1]["last_stamp_ns"]
    frames = sum(block["frames"] for block in blocks)
    rate = round((frames - 1) * 1e9 / (last - first), 6) if last > first else 1.0
    seconds = (stamp_ns - first) / 1e9
    return rate, round(seconds * rate), seconds


def _compose(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray, taxonomy: Taxonomy) -> bytes:
    row = side_by_side(image, (truth, prediction), taxonomy.palette(), _PANEL, _GAP)
    picture = np.vstack([row, _legend(row.shape[1], truth, prediction, taxonomy)])
    return cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()


def _legend(width: int, truth: np.ndarray, prediction: np.ndarray, taxonomy: Taxonomy) -> np.ndarray:
    """(H, width, 3) RGB: name and colour of each class that is more than a speck of the frame."""
    counts = np.zeros(taxonomy.unlabelled + 1, np.int64)
    for labels in (truth, prediction):
        counts = np.maximum(counts, np.bincount(labels.ravel(), minlength=len(counts)))
    named = [c for c in taxonomy.classes if counts[c.id] >= _LEAST_SHARE * truth.size]
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.4
    places, x, y = [], _GAP, _GAP
    for c in named:
        length = 14 + cv2.getTextSize(c.name, font, size, 1)[0][0] + 12
        if x + length > width:
            x, y = _GAP, y + _ROW
        places.append((c, x, y))
        x += length
    legend = np.full((y + _ROW, width, 3), 255, np.uint8)
    for c, x, y in places:
        cv2.rectangle(legend, (x, y), (x + 10, y + 10), c.colour, cv2.FILLED)
        cv2.putText(legend, c.name, (x + 14, y + 9), font, size, (0, 0, 0), 1, cv2.LINE_AA)
    return legend
