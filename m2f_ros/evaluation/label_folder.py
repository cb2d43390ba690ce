"""Folders of label PNGs: one channel or a palette, ids by a taxonomy, and instances beside them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import EvaluationError
from m2f_ros.evaluation.frame_labels import FrameLabels, Key, frame_name
from m2f_ros.evaluation.ids import KnownIds
from m2f_ros.evaluation.pairs import Segment
from m2f_ros.replay.instances import Thing, read_things
from m2f_ros.replay.labels import PEEK, SUFFIXES, choose_taxonomy, natural_sort, read_ids
from m2f_ros.taxonomy import Taxonomy

# PNGs that lie beside the labels in Cityscapes' folders. Instances are read with their labels.
_NOT_LABELS = re.compile(r"(_color|_colour|_instanceIds|_instanceTrainIds|_gtFine_polygons|_disparity)$")


class LabelFolder:
    """A folder of label PNGs. files: path by (subfolder, frame). taxonomy: of the train ids that `read` returns."""

    def __init__(self, folder: Path, spec: str | None, what: str, like: Taxonomy | None = None) -> None:
        """spec: taxonomy of the ids. what: begins error messages. like: taxonomy where neither spec nor names say it.

        Raises SourceError where it is not plain what the ids mean, EvaluationError where there are no labels.
        """
        found = natural_sort(p for p in folder.rglob("*.png") if not _NOT_LABELS.search(p.stem))
        # Cityscapes has both kinds of ids side by side.
        suffix = next((s for s in SUFFIXES[1:] if any(p.stem.endswith(s) for p in found)), "")
        found = [p for p in found if p.stem.endswith(suffix)]
        if not found:
            raise EvaluationError(f"{what} {folder}: no label PNGs in this folder or its subfolders")
        self.files = {(_subfolder(p, folder), frame_name(p)): p for p in found}
        self.taxonomy = self._find_taxonomy(folder, found, spec, what, like)
        self._known = KnownIds(self.taxonomy)
        self._hint = "say with --taxonomy, and of predictions --prediction-taxonomy, what the ids mean"

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

    def read(self, key: Key) -> FrameLabels:
        """Raises SourceError for a damaged file, EvaluationError for ids that the taxonomy has not."""
        path = self.files[key]
        labels = self._known.train_ids(read_ids(path), str(path), self._hint)
        found = read_things(path, labels.shape, self.taxonomy)
        return FrameLabels(labels) if found is None else self._with_segments(labels, *found)

    def _with_segments(self, labels: np.ndarray, values: np.ndarray, things: dict[int, Thing]) -> FrameLabels:
        segments = [Segment(value + 1, thing.train_id, thing.crowd) for value, thing in things.items()]
        ids = np.where(np.isin(values, list(things)), values.astype(np.int32) + 1, 0)
        # Stuff is in one piece; its ids come after all that 16 bits hold.
        first = 2**16 + 1
        for train_id in np.unique(labels).tolist():
            if train_id != self.taxonomy.unlabelled and not self.taxonomy.classes[train_id].thing:
                ids[labels == train_id] = first + train_id
                segments.append(Segment(first + train_id, train_id))
        return FrameLabels(labels, ids, segments)


def _subfolder(path: Path, folder: Path) -> str:
    inside = path.parent.relative_to(folder).as_posix()
    return "" if inside == "." else inside
