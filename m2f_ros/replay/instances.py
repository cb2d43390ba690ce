"""Instances of label files, from the PNGs that Cityscapes and Mapillary put beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from m2f_ros import taxonomy as taxonomies
from m2f_ros.datasets.ids import read_ids
from m2f_ros.datasets.label_folder import CITYSCAPES_FACTOR, MAPILLARY_FACTOR, instance_file
from m2f_ros.errors import SourceError
from m2f_ros.taxonomy import Taxonomy


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
