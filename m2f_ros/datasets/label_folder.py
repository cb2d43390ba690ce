"""Folders of label PNGs: ids in one channel or a palette, or colours, by a taxonomy, and instances beside them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from m2f_ros import taxonomy as taxonomies
from m2f_ros.datasets.colours import KnownColours
from m2f_ros.datasets.frame_labels import FrameLabels, Key, frame_key, with_stuff
from m2f_ros.datasets.ids import (
    KnownIds,
    called,
    choose_taxonomy,
    holds_colours,
    holds_ids,
    log,
    natural_sort,
    peek,
    read_ids,
    suffixes_for,
)
from m2f_ros.datasets.instances import read_things
from m2f_ros.errors import LabelError
from m2f_ros.frame.segment import Segment
from m2f_ros.taxonomy import Taxonomy

# PNGs that lie beside the labels in Cityscapes' folders. Instances are read with their labels.
_NOT_LABELS = re.compile(r"(_color|_colour|_instanceIds|_instanceTrainIds|_disparity)$")


class LabelReader:
    """Reads label PNGs with ids of one taxonomy, or its colours, and the PNGs of instances beside them."""

    def __init__(self, taxonomy: Taxonomy, hint: str, colours: KnownColours | None = None) -> None:
        """hint: advice for undeclared ids. colours: of labels in colours."""
        self.taxonomy, self._known, self._hint, self._colours = taxonomy, KnownIds(taxonomy), hint, colours

    def read(self, path: Path) -> np.ndarray:
        """Read (H, W) train ids. Raises LabelError for a damaged file, or undeclared ids or colours."""
        if self._colours is not None:
            return self._colours.read(path)
        return self._known.train_ids(read_ids(path), str(path), self._hint)

    def read_segments(self, path: Path) -> FrameLabels:
        """As `read`, with the segments, where instances lie beside the labels."""
        labels = self.read(path)
        found = read_things(path, labels.shape, self.taxonomy)
        if found is None:
            return FrameLabels(labels)
        values, things = found
        # One more, for 0 is of no segment.
        ids = np.where(np.isin(values, list(things)), values.astype(np.int32) + 1, 0)
        told = [Segment(value + 1, thing.train_id, crowd=thing.crowd) for value, thing in things.items()]
        return FrameLabels(labels, *with_stuff(labels, ids, told, self.taxonomy))

    def read_instances(self, path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
        """(H, W) uint16: 1, 2, … in the things of a label PNG, 0 elsewhere; None where nothing tells them apart.

        Crowds are 0, too. Arguments and errors as those of `read_things`.
        """
        found = read_things(path, shape, self.taxonomy)
        if found is None:
            return None
        values, things = found
        numbers = np.zeros(np.iinfo(values.dtype).max + 1, np.uint16)
        told_apart = [value for value, thing in things.items() if not thing.crowd]
        numbers[told_apart] = range(1, len(told_apart) + 1)
        return numbers[values]


class LabelFolder:
    """A folder of label PNGs.

    Attributes:
        files: (subfolder, frame) -> path.
        taxonomy: taxonomy of the train ids.
        absent: number of missing files, always 0.
    """

    absent = 0  # nothing names them

    def __init__(self, folder: Path, spec: str | None, what: str, hint: str, like: Taxonomy | None = None) -> None:
        """spec: taxonomy of the ids. what: begins error messages. hint: what to do about ids that the taxonomy has not.
        like: taxonomy where neither spec, nor a taxonomy.yaml in the folder, nor the files' names say it.

        Raises LabelError where there are no labels, some frames have none of the kind that others have, or it is not
        plain what the ids mean.
        """
        found = natural_sort(p for p in folder.rglob("*") if p.suffix.lower() == ".png" and not p.name.startswith("."))
        found = [p for p in found if not _NOT_LABELS.search(p.stem)]
        if not found:
            raise LabelError(f"{what} {folder}: no label PNGs in this folder or its subfolders")
        # Cityscapes has both kinds of ids side by side.
        suffix = next((s for s in suffixes_for(spec) if any(p.stem.endswith(s) for p in found)), "")
        self.files = {frame_key(p, folder): p for p in found if p.stem.endswith(suffix)}
        # Pictures may lie beside their labels.
        others = [p for p in found if frame_key(p, folder) not in self.files and holds_ids(p)]
        if others:
            raise LabelError(
                f"{what} {folder}: {len(self.files)} frames have a label …{suffix}.png, {len(others)} have one of "
                f"another kind alone (first: {others[0]}): put labels of one kind into a folder of their own"
            )
        found = list(self.files.values())
        coloured = holds_colours(found[0])
        self.taxonomy = self._find_taxonomy(folder, found, spec, what, like, coloured)
        self._reader = LabelReader(self.taxonomy, hint, KnownColours(self.taxonomy, folder) if coloured else None)

    def _find_taxonomy(
        self, folder: Path, found: list[Path], spec: str | None, what: str, like: Taxonomy | None, coloured: bool
    ) -> Taxonomy:
        own = folder / "taxonomy.yaml"
        if spec is None and own.is_file():
            return Taxonomy.from_yaml(own)
        if coloured:
            if spec is None and like is None:
                raise LabelError(f"{what} {found[0]}: holds colours, not class ids; name the taxonomy of its classes")
            return like if spec is None and like is not None else taxonomies.get(str(spec))
        if spec is None and like is not None:
            named = {"_labelIds": "cityscapes", "_labelTrainIds": "cityscapes_trainids"}
            for end, of in named.items():
                if found[0].stem.endswith(end):
                    return taxonomies.get(of)
            values = peek(found)
            if like == taxonomies.get("cityscapes") and values <= {*range(19), 255}:
                raise LabelError(
                    f"{what} {folder}: its ids, none above 18, look like Cityscapes' train ids, and those of the "
                    "ground truth are label ids; name their taxonomy, cityscapes_trainids or cityscapes_labelids"
                )
            log.warning("%s %s: ids taken for those of the ground truth, of %s", what, folder, called(like))
            return like
        return choose_taxonomy(spec, peek(found), str(found[0].resolve()), f"{what} {folder}")

    def read(self, key: Key, segments: bool = True) -> FrameLabels:
        """segments: whether to read the instances, too, where there are any.

        Raises LabelError for a damaged file, or ids that the taxonomy has not.
        """
        path = self.files[key]
        return self._reader.read_segments(path) if segments else FrameLabels(self._reader.read(path))
