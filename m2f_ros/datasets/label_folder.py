"""Folders of label PNGs: one channel or a palette, ids by a taxonomy, and instances beside them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from m2f_ros import taxonomy as taxonomies
from m2f_ros.datasets.frame_labels import FrameLabels, Key, Segment, frame_key, with_stuff
from m2f_ros.datasets.ids import KnownIds, choose_taxonomy, natural_sort, read_ids
from m2f_ros.errors import LabelError
from m2f_ros.taxonomy import Taxonomy

# What data sets put behind the name of the image. Train ids first: Cityscapes folders hold both.
SUFFIXES = ("", "_gtFine_labelTrainIds", "_gtFine_labelIds", "_labelTrainIds", "_labelIds", "_L", "_label")
# How many files are looked at to find out what the ids mean.
PEEK = 8
# PNGs that lie beside the labels in Cityscapes' folders. Instances are read with their labels.
INSTANCES = "_instanceIds"
_NOT_LABELS = re.compile(r"(_color|_colour|_instanceIds|_instanceTrainIds|_gtFine_polygons|_disparity)$")
# (value of an id) // this = class, in the PNGs of instances.
CITYSCAPES_FACTOR, MAPILLARY_FACTOR = 1000, 256


class LabelFolder:
    """A folder of label PNGs. files: path by (subfolder, frame). taxonomy: of the train ids that `read` returns."""

    def __init__(self, folder: Path, spec: str | None, what: str, hint: str, like: Taxonomy | None = None) -> None:
        """spec: taxonomy of the ids. what: begins error messages. hint: what to do about ids that the taxonomy has not.
        like: taxonomy where neither spec nor names say it.

        Raises LabelError where there are no labels, or it is not plain what their ids mean.
        """
        found = natural_sort(p for p in folder.rglob("*.png") if not _NOT_LABELS.search(p.stem))
        # Cityscapes has both kinds of ids side by side.
        suffix = next((s for s in SUFFIXES[1:] if any(p.stem.endswith(s) for p in found)), "")
        found = [p for p in found if p.stem.endswith(suffix)]
        if not found:
            raise LabelError(f"{what} {folder}: no label PNGs in this folder or its subfolders")
        self.files = {frame_key(p, folder): p for p in found}
        self.taxonomy = self._find_taxonomy(folder, found, spec, what, like)
        self._known = KnownIds(self.taxonomy)
        self._hint = hint

    def _find_taxonomy(
        self, folder: Path, found: list[Path], spec: str | None, what: str, like: Taxonomy | None
    ) -> Taxonomy:
        own = folder / "taxonomy.yaml"
        if spec is None and own.is_file():
            return Taxonomy.from_yaml(own)
        if spec is None and like is not None:
            named = {"_labelIds": "cityscapes", "_labelTrainIds": "cityscapes_trainids"}
            return next((taxonomies.get(of) for end, of in named.items() if found[0].stem.endswith(end)), like)
        peeked = found[:: max(1, len(found) // PEEK)][:PEEK]
        values = set(np.unique(np.concatenate([np.unique(read_ids(path)) for path in peeked])).tolist())
        return choose_taxonomy(spec, values, str(found[0].resolve()), f"{what} {folder}")

    def read(self, key: Key, segments: bool = True) -> FrameLabels:
        """segments: whether to read the instances, too, where there are any.

        Raises LabelError for a damaged file, or ids that the taxonomy has not.
        """
        path = self.files[key]
        labels = self._known.train_ids(read_ids(path), str(path), self._hint)
        instances, factor = instance_file(path) if segments else (None, 0)
        if instances is None:
            return FrameLabels(labels)
        values = read_ids(instances)
        if values.shape != labels.shape:
            raise LabelError(f"{instances}: another size than {path.name}")
        return FrameLabels(labels, *self._segments(values, factor, labels))

    def _segments(self, values: np.ndarray, factor: int, labels: np.ndarray) -> tuple[np.ndarray, list[Segment]]:
        """Cityscapes writes a group that was not told apart as the bare class; Mapillary numbers every object."""
        # Instance files hold label ids, whatever the labels beside them hold.
        cityscapes = factor == CITYSCAPES_FACTOR
        file_ids = taxonomies.get("cityscapes").file_ids if cityscapes else self.taxonomy.file_ids
        segments = []
        for value in np.unique(values).tolist():
            bare = cityscapes and value < factor
            train_id = file_ids.get(value if bare else value // factor)
            if train_id is not None and self.taxonomy.classes[train_id].thing:
                segments.append(Segment(value + 1, train_id, crowd=bare))
        # One more, for 0 is of no segment.
        ids = np.where(np.isin(values, [s.id - 1 for s in segments]), values.astype(np.int32) + 1, 0)
        return with_stuff(labels, ids, segments, self.taxonomy)


def instance_file(path: Path) -> tuple[Path | None, int]:
    """The PNG with the instances of a label PNG, and its factor; None, 0 where there is none."""
    for suffix in SUFFIXES[1:]:
        if suffix.endswith("Ids") and path.stem.endswith(suffix):
            stem = path.stem.removesuffix(suffix) + ("_gtFine" if "_gtFine" in suffix else "")
            beside = path.with_name(f"{stem}{INSTANCES}.png")
            return (beside, CITYSCAPES_FACTOR) if beside.is_file() else (None, 0)
    beside = path.parent.parent / "instances" / path.name
    return (beside, MAPILLARY_FACTOR) if path.parent.name == "labels" and beside.is_file() else (None, 0)
