"""Instances of label files, from the PNGs that Cityscapes and Mapillary put beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import SourceError
from m2f_ros.replay.labels import SUFFIXES, read_ids
from m2f_ros.taxonomy import Taxonomy

# (value of an instance) // this = class.
CITYSCAPES_FACTOR, MAPILLARY_FACTOR = 1000, 256


def instance_file(label: Path) -> tuple[Path | None, int]:
    """The PNG with the instances of a label PNG, and its factor; None, 0 where there is none.

    Cityscapes: NAME_gtFine_instanceIds.png beside the labels. Mapillary: instances/NAME.png beside the folder labels.
    """
    for suffix in SUFFIXES[1:]:
        if suffix.endswith("Ids") and label.stem.endswith(suffix):
            stem = label.stem.removesuffix(suffix) + ("_gtFine" if "_gtFine" in suffix else "")
            beside = label.with_name(f"{stem}_instanceIds.png")
            return (beside, CITYSCAPES_FACTOR) if beside.is_file() else (None, 0)
    beside = label.parent.parent / "instances" / label.name
    return (beside, MAPILLARY_FACTOR) if label.parent.name == "labels" and beside.is_file() else (None, 0)


def read_instances(label: Path, shape: tuple[int, ...], taxonomy: Taxonomy) -> np.ndarray | None:
    """(H, W) uint16: 1, 2, … in the things of a label PNG, 0 elsewhere; None where nothing tells them apart.

    shape: of the label. Objects of a group that Cityscapes does not tell apart are 0, too.
    Raises SourceError for a damaged file, or one of another shape.
    """
    path, factor = instance_file(label)
    if path is None:
        return None
    values = read_ids(path)
    if values.shape != shape:
        raise SourceError(
            f"{path}: {values.shape[1]}x{values.shape[0]}, but {label.name} beside it is {shape[1]}x{shape[0]}"
        )
    # Instances have label ids, whatever the labels beside them have.
    file_ids = taxonomies.get("cityscapes").file_ids if factor == CITYSCAPES_FACTOR else taxonomy.file_ids
    things = {c.id for c in taxonomy.classes if c.thing}
    found, inverse = np.unique(values, return_inverse=True)
    numbers, count = np.zeros(len(found), np.uint16), 0
    for i, value in enumerate(found.tolist()):
        told_apart = value >= factor or factor == MAPILLARY_FACTOR
        if told_apart and file_ids.get(value // factor) in things:
            count += 1
            numbers[i] = count
    return numbers[inverse.reshape(values.shape)]
