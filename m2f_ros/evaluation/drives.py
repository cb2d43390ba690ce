"""Pairs recordings of predictions with those of ground truth by name, from lists and globs on both sides."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from m2f_ros.bags.files import bag_name, is_bag
from m2f_ros.bags.reader import bags_in
from m2f_ros.errors import EvaluationError
from m2f_ros.evaluation.bag_drive import BagDrive, bag_drives
from m2f_ros.evaluation.folder_drive import FolderDrive, folder_drives
from m2f_ros.evaluation.options import Options

Drive = BagDrive | FolderDrive


def find_drives(options: Options) -> list[Drive]:
    """The drives to score, in the order of the ground truth.

    Raises EvaluationError where a place does not exist, the two sides do not go together, or names fit no partner.
    """
    found: list[Drive] = []
    for name, predictions, truth in pair_paths(
        places(options.predictions, "PREDICTIONS"), places(options.truth, "--truth")
    ):
        kinds = {path: is_bag(path) for path in (predictions, truth)}
        if len(set(kinds.values())) > 1:
            bag, folder = sorted(kinds, key=lambda path: kinds[path], reverse=True)
            raise EvaluationError(
                f"{bag} is a bag but {folder} is none: stamps do not match names; `m2f bag` makes a bag of a folder "
                "of images with its labels"
            )
        _check_options(options, truth, kinds[truth])
        make = bag_drives if kinds[truth] else folder_drives
        found += make(name, predictions, truth, options)
    if len(found) > 1:  # several would keep too much open
        for drive in found:
            if isinstance(drive, BagDrive):
                drive.close()
    return found


def _check_options(options: Options, truth: Path, bags: bool) -> None:
    if bags and options.images:
        raise EvaluationError(f"--images is for folders; {truth} is a bag, and the images are taken from it")
    for option, value in (("--topic", options.topic), ("--truth-topic", options.truth_topic)):
        if value and not bags:
            raise EvaluationError(f"{option} is for bags; {truth} is a folder of labels")
    if options.flips and not bags and not options.images:
        raise EvaluationError("--flips needs the pictures: say with --images where they are")


def places(given: Sequence[str], what: str) -> list[Path]:
    """Paths of a list of paths and globs; a folder of bags stands for the bags in it. what: begins error messages."""
    found: list[Path] = []
    for text in given:
        paths = [Path(text)] if Path(text).exists() or is_bag(text) else [Path(p) for p in sorted(glob.glob(text))]
        if not paths:
            is_glob = glob.has_magic(text)
            raise EvaluationError(
                f"{what} {text}: {'nothing fits this pattern' if is_glob else 'no such file or folder'}"
            )
        for path in paths:
            found += bags_in(path) or [path]
    for path in found:
        if found.count(path) > 1:
            raise EvaluationError(f"{what} {path}: is given twice")
    return found


def pair_paths(predictions: Sequence[Path], truth: Sequence[Path]) -> list[tuple[str, Path, Path]]:
    """(name, predictions, truth): one of each belong together, more of them by their file names."""
    if len(predictions) == len(truth) == 1:
        return [(_name(truth[0]), predictions[0], truth[0])]
    by_name = []
    for what, paths in (("PREDICTIONS", predictions), ("--truth", truth)):
        names = {_name(path): path for path in paths}
        if len(names) < len(paths):
            raise EvaluationError(
                f"{what}: two of {', '.join(map(str, paths))} have the same name: they cannot be paired"
            )
        by_name.append(names)
    there, wanted = by_name
    for what, alone in (("predictions", wanted.keys() - there.keys()), ("ground truth", there.keys() - wanted.keys())):
        if alone:
            raise EvaluationError(
                f"no {what} for {', '.join(sorted(alone))}: several drives are paired by name; "
                f"predictions are {', '.join(there)}, ground truth {', '.join(wanted)}"
            )
    return [(name, there[name], wanted[name]) for name in wanted]


def _name(path: Path) -> str:
    return bag_name(path) if is_bag(path) else path.stem
