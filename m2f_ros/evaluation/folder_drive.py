"""A drive in folders: label files of ground truth and of predictions, matched by the name of the frame."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from m2f_ros.datasets import Key, Labels, frame_name, open_labels
from m2f_ros.errors import EvaluationError, FrameError
from m2f_ros.evaluation.classes import Classes
from m2f_ros.evaluation.options import Options
from m2f_ros.evaluation.pair_reader import check_size
from m2f_ros.evaluation.pairs import Pair
from m2f_ros.frame.pictures import read_colours
from m2f_ros.sources.files import is_image
from m2f_ros.taxonomy import Taxonomy

log = logging.getLogger("m2f_ros.evaluation")
# The remedy for ids that a taxonomy does not have.
HINT = "say with --taxonomy, and of predictions --prediction-taxonomy, what the ids mean"


@dataclass(frozen=True)
class FolderDrive:
    """The label files of a subfolder.

    Attributes:
        matches: frame of the ground truth -> its prediction; None where none came.
        images: files of the frames' images, by name.
        alone: number of predictions without ground truth.
        truth_absent: number of files of the truth that are not there.
    """

    name: str
    truth: Labels
    predictions: Labels
    matches: dict[Key, Key | None]
    images: dict[str, Path]
    alone: int
    truth_absent: int

    model = ""
    consecutive = False  # files need not be

    @property
    def truth_taxonomy(self) -> Taxonomy:
        return self.truth.taxonomy

    @property
    def prediction_taxonomy(self) -> Taxonomy:
        return self.predictions.taxonomy

    @property
    def frames(self) -> int:
        return len(self.matches)

    @property
    def in_order(self) -> bool:
        """True where predictions are matched to frames by order, since no name fits."""
        return any(other is not None and other[1] != key[1] for key, other in self.matches.items())

    def pairs(self, classes: Classes, problems: list[str], left_out: list[str], images: bool = True) -> Iterator[Pair]:
        """Every frame with ground truth, in natural order. Arguments as BagDrive's.

        Raises EvaluationError and SourceError for files that cannot be read or do not fit each other.
        """
        for key, match in self.matches.items():
            truth = self.truth.read(key)
            labels = classes.truth.labels(truth.labels)
            pair = Pair(self.name, key[1], 0, labels, None)
            if truth.ids is not None and truth.segments is not None:
                pair.truth_ids, pair.truth_segments = truth.ids, classes.truth.segments(truth.segments)
            if match is not None:
                found = self.predictions.read(match)
                pair.prediction = classes.prediction.labels(found.labels)
                check_size(pair)
                if found.ids is not None and found.segments is not None:
                    pair.ids, pair.segments = found.ids, classes.prediction.segments(found.segments)
            if images and key[1] in self.images:
                try:
                    pair.image = read_colours(self.images[key[1]])
                except FrameError as error:
                    left_out.append(f"{self.images[key[1]]}: not a readable image: {error}")  # which no score needs
                if pair.image is not None and pair.image.shape[:2] != labels.shape:
                    height, width = pair.image.shape[:2]
                    raise EvaluationError(
                        f"{self.images[key[1]]}: is {width}x{height}, which is not the size of its ground truth"
                    )
            yield pair


def folder_drives(name: str, predictions: Path, truth: Path, options: Options) -> list[FolderDrive]:
    """The subfolders (Cityscapes' cities) with ground truth: one drive each.

    Raises EvaluationError or SourceError where there are no labels, or none of the names fit.
    """
    wanted = open_labels(truth, options.taxonomy, "--truth", HINT)
    there = open_labels(predictions, options.prediction_taxonomy, "PREDICTIONS", HINT, wanted.taxonomy)
    matches = match(list(wanted.files), list(there.files), truth, predictions)
    images: dict[str, Path] = {}
    if options.images:
        folder = Path(options.images)
        images = {frame_name(p): p for p in sorted(folder.rglob("*")) if is_image(p)} if folder.is_dir() else {}
        if not images:
            raise EvaluationError(f"--images {folder}: no images in this folder")
        if not any(key[1] in images for key in wanted.files):
            raise EvaluationError(
                f"--images {folder}: none is called after a frame of {truth}, as {next(iter(wanted.files))[1]}"
            )
    subfolders: dict[str, dict[Key, Key | None]] = {}
    for key, other in matches.items():
        subfolders.setdefault(key[0], {})[key] = other
    alone = len(there.files) - sum(other is not None for other in matches.values())
    drives: list[FolderDrive] = []
    for subfolder, some in subfolders.items():
        label = "/".join(part for part in (name, subfolder) if part)
        once = (alone, wanted.absent) if not drives else (0, 0)
        drives.append(FolderDrive(label, wanted, there, some, images, *once))
    return drives


def match(truth: list[Key], predictions: list[Key], truth_path: Path, predictions_path: Path) -> dict[Key, Key | None]:
    """The prediction of each frame, or None: that of the same subfolder and name; the only one of the same name; or in
    order, with a warning, where no name fits but the numbers agree. Raises EvaluationError where none fits.
    """
    there = set(predictions)
    by_name: dict[str, list[Key]] = {}
    for key in predictions:
        by_name.setdefault(key[1], []).append(key)
    single = {name: keys[0] for name, keys in by_name.items() if len(keys) == 1}
    times = Counter(name for _, name in truth)
    found = {key: key if key in there else single.get(key[1]) if times[key[1]] == 1 else None for key in truth}
    if any(other is not None for other in found.values()):
        return found
    if len(truth) == len(predictions):
        log.warning("%s: no name is that of a frame of %s: matched in their order", predictions_path, truth_path)
        return dict(zip(truth, predictions, strict=True))
    raise EvaluationError(
        f"PREDICTIONS {predictions_path}: none of its {len(predictions)} files (first: {predictions[0][1]}) is called "
        f"after one of the {len(truth)} frames of {truth_path} (first: {truth[0][1]}), and the numbers differ"
    )
