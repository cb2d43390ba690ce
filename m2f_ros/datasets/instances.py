"""Instances of label files, from the PNGs that Cityscapes and Mapillary put beside them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from m2f_ros import taxonomy as taxonomies
from m2f_ros.datasets.ids import SUFFIXES, KnownIds, read_ids
from m2f_ros.errors import LabelError
from m2f_ros.taxonomy import Taxonomy

# (value of an instance) // this = class.
CITYSCAPES_FACTOR, MAPILLARY_FACTOR = 1000, 256


def instance_file(label: Path) -> tuple[Path | None, int]:
    """The PNG with the instances of a label PNG, and its factor; None, 0 where there is none.

    Cityscapes: NAME_gtFine_instanceIds.png beside the labels. Mapillary: instances/NAME.png beside the folder labels.
    """
    for suffix in SUFFIXES:
        if suffix.endswith("Ids") and label.stem.endswith(suffix):
            stem = label.stem.removesuffix(suffix) + ("_gtFine" if "_gtFine" in suffix else "")
            beside = label.with_name(f"{stem}_instanceIds.png")
            return (beside, CITYSCAPES_FACTOR) if beside.is_file() else (None, 0)
    beside = label.parent.parent / "instances" / label.name
    return (beside, MAPILLARY_FACTOR) if label.parent.name == "labels" and beside.is_file() else (None, 0)


class Thing(NamedTuple):
    """The meaning of a value in a PNG of instances. crowd: several objects that were not told apart."""

    train_id: int
    crowd: bool


def read_things(label: Path, shape: tuple[int, ...], taxonomy: Taxonomy) -> tuple[np.ndarray, dict[int, Thing]] | None:
    """The values (H, W) in the PNG of instances of a label PNG, and which of them are things; None without such a PNG.

    shape: of the label. Cityscapes writes a group that was not told apart as its bare class; Mapillary numbers every
    object. Raises LabelError for a damaged file, one of another shape, or classes that the taxonomy has not.
    """
    path, factor = instance_file(label)
    if path is None:
        return None
    values = read_ids(path)
    if values.shape != shape:
        raise LabelError(
            f"{path}: {values.shape[1]}x{values.shape[0]}, but {label.name} beside it is {shape[1]}x{shape[0]}"
        )
    cityscapes = taxonomies.get("cityscapes")
    if factor == CITYSCAPES_FACTOR and taxonomy.names == cityscapes.names:
        taxonomy = cityscapes  # instances have label ids, also beside labels with train ids
    there = np.unique(values).astype(np.int64)
    crowds = (there < factor) & (factor == CITYSCAPES_FACTOR)
    classes = np.where(crowds, there, there // factor)
    KnownIds(taxonomy).check(np.unique(classes), str(path), "name the taxonomy of its classes, or mend the file")
    things = {}
    for value, crowd, class_id in zip(there.tolist(), crowds.tolist(), classes.tolist(), strict=True):
        train_id = taxonomy.file_ids.get(class_id)
        if train_id is not None and taxonomy.classes[train_id].thing:
            things[value] = Thing(train_id, crowd)
    return values, things
