"""Labels in folders, in the conventions of data sets.

One-channel or palette PNGs, in the folder or in subfolders (Cityscapes' cities):
    Cityscapes      NAME_gtFine_labelTrainIds.png or …_labelIds.png; instances of …_instanceIds.png beside them
    CamVid          NAME.png, NAME_L.png, ids 0..11
    ADE20K          NAME.png, ids 0..150, 0 unlabelled
    Mapillary       labels/NAME.png; instances of instances/NAME.png, 256 * id + number
Panoptic PNGs with a JSON that says what their segments are (COCO's format; Cityscapes and Mapillary have it too):
    FOLDER.json beside FOLDER/NAME.png, id = red + 256 * green + 65536 * blue
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import EvaluationError, TaxonomyError
from m2f_ros.evaluation.ids import KnownIds
from m2f_ros.evaluation.pairs import Segment
from m2f_ros.replay.labels import PEEK, SUFFIXES, choose_taxonomy, natural_sort, read_ids
from m2f_ros.taxonomy import ClassInfo, Taxonomy

# What names end in that is not the frame's; instances are read beside their labels.
INSTANCES = "_instanceIds"
_NOT_LABELS = re.compile(r"(_color|_colour|_instanceIds|_instanceTrainIds|_gtFine_polygons|_disparity)$")
_TAILS = re.compile(
    r"(_leftImg8bit)?(_gtFine|_gtCoarse)?(_label(Train)?Ids|_instance(Train)?Ids|_L|_label|_panoptic)?$"
)
# (value of an id) // this = class, in the PNGs of instances.
CITYSCAPES_FACTOR, MAPILLARY_FACTOR = 1000, 256


# Subfolder, and name of the frame.
Key = tuple[str, str]


@dataclass
class FrameLabels:
    """labels: (H, W) train ids. ids: (H, W) of segments, 0 for none; segments: what they are; None: not known."""

    labels: np.ndarray
    ids: np.ndarray | None = None
    segments: Sequence[Segment] | None = None


def frame_name(path: Path) -> str:
    """What the image is called: frankfurt_000000_000294 of frankfurt_000000_000294_gtFine_labelIds.png."""
    return _TAILS.sub("", path.stem)


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
            if found[0].stem.endswith("_labelTrainIds"):
                return like.with_train_ids()
            return taxonomies.get(like.name) if found[0].stem.endswith("_labelIds") else like
        peeked = found[:: max(1, len(found) // PEEK)][:PEEK]
        values = set(np.unique(np.concatenate([np.unique(read_ids(path)) for path in peeked])).tolist())
        return choose_taxonomy(spec, values, str(found[0].resolve()), f"{what} {folder}")

    def read(self, key: Key) -> FrameLabels:
        """Raises SourceError for a damaged file, EvaluationError for ids that the taxonomy has not."""
        path = self.files[key]
        labels = self._known.train_ids(read_ids(path), str(path), self._hint)
        instances, factor = _instance_file(path)
        if instances is None:
            return FrameLabels(labels)
        values = read_ids(instances)
        if values.shape != labels.shape:
            raise EvaluationError(f"{instances}: another size than {path.name}")
        ids, segments = self._instances(values, factor, labels)
        return FrameLabels(labels, ids, segments)

    def _instances(self, values: np.ndarray, factor: int, labels: np.ndarray) -> tuple[np.ndarray, list[Segment]]:
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
        ids = np.where(np.isin(values, [s.id - 1 for s in segments]), values.astype(np.int32) + 1, 0)
        # Stuff is in one piece; its ids come after all that 16 bits hold.
        first = 2**16 + 1
        for train_id in np.unique(labels).tolist():
            if train_id != self.taxonomy.unlabelled and not self.taxonomy.classes[train_id].thing:
                ids[labels == train_id] = first + train_id
                segments.append(Segment(first + train_id, train_id))
        return ids, segments


class PanopticFolder:
    """Panoptic PNGs and their JSON. files: path by (subfolder, frame). taxonomy: of the train ids."""

    def __init__(self, path: Path, spec: str | None, what: str, like: Taxonomy | None = None) -> None:
        """path: the JSON; the PNGs are in the folder of its name. like: taxonomy where the JSON has no categories.

        Raises EvaluationError where the JSON is none of COCO's panoptic format.
        """
        folder = path.with_suffix("")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            rows = {row["file_name"]: row["segments_info"] for row in content["annotations"]}
            categories = content.get("categories")
            names = [c["name"] for c in categories] if categories else []
        except (OSError, ValueError, KeyError, TypeError):
            raise EvaluationError(f"{what} {path}: not a JSON of COCO's panoptic format") from None
        there = {name: folder / name for name in rows if (folder / name).is_file()}
        if not there:
            raise EvaluationError(f"{what} {path}: none of its {len(rows)} files is in {folder}")
        self.files = {("", frame_name(p)): p for p in natural_sort(there.values())}
        self._segments = {there[name]: rows[name] for name in there}
        self.taxonomy = _of_categories(spec, path.stem, names, categories, like)

    def read(self, key: Key) -> FrameLabels:
        """Raises EvaluationError for a damaged file, or one that is not what its JSON says."""
        path = self.files[key]
        try:
            picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        except cv2.error:
            picture = None
        if picture is None:
            raise EvaluationError(f"{path}: damaged label file")
        blue, green, red = (picture[..., i].astype(np.int32) for i in range(3))
        values = red + 256 * green + 65536 * blue
        labels = np.full(values.shape, self.taxonomy.unlabelled, self.taxonomy.dtype)
        segments = []
        rows = {int(row["id"]): row for row in self._segments[path]}
        for value in np.unique(values).tolist():
            if value == 0:
                continue
            if value not in rows:
                raise EvaluationError(f"{path}: holds the segment {value}, which its JSON has not")
            train_id = self.taxonomy.file_ids.get(rows[value]["category_id"])
            if train_id is None:
                category = rows[value]["category_id"]
                raise EvaluationError(f"{path}: category {category} is none of {self.taxonomy.name}")
            labels[values == value] = train_id
            segments.append(Segment(value, train_id, bool(rows[value].get("iscrowd"))))
        return FrameLabels(labels, values, segments)


Labels = LabelFolder | PanopticFolder


def open_labels(path: Path, spec: str | None, what: str, like: Taxonomy | None = None) -> Labels:
    """The labels in a folder, or of a panoptic JSON. Arguments and errors as LabelFolder's."""
    if path.suffix == ".json":
        return PanopticFolder(path, spec, what, like)
    if not path.is_dir():
        raise EvaluationError(f"{what} {path}: neither a bag, nor a folder of labels, nor a panoptic JSON")
    panoptic = [p for p in sorted(path.glob("*.json")) if p.with_suffix("").is_dir()]
    if len(panoptic) == 1:
        return PanopticFolder(panoptic[0], spec, what, like)
    return LabelFolder(path, spec, what, like)


def _subfolder(path: Path, folder: Path) -> str:
    inside = path.parent.relative_to(folder).as_posix()
    return "" if inside == "." else inside


def _instance_file(path: Path) -> tuple[Path | None, int]:
    for suffix in SUFFIXES[1:]:
        if suffix.endswith("Ids") and path.stem.endswith(suffix):
            stem = path.stem.removesuffix(suffix) + ("_gtFine" if "_gtFine" in suffix else "")
            beside = path.with_name(f"{stem}{INSTANCES}.png")
            return (beside, CITYSCAPES_FACTOR) if beside.is_file() else (None, 0)
    beside = path.parent.parent / "instances" / path.name
    return (beside, MAPILLARY_FACTOR) if path.parent.name == "labels" and beside.is_file() else (None, 0)


def _of_categories(
    spec: str | None, name: str, names: list[str], categories: list[dict] | None, like: Taxonomy | None
) -> Taxonomy:
    """The taxonomy of a JSON's categories: the built-in one of these names, else of names, colours and kinds there."""
    if spec is not None or not categories:
        return taxonomies.get(spec) if spec is not None else like or taxonomies.get("coco_panoptic")
    known = taxonomies.match(names)
    file_ids = {int(c["id"]): i for i, c in enumerate(categories)}
    if known is not None:
        return replace(known, file_ids=file_ids)
    try:
        made = taxonomies.from_names(name, names)
    except TaxonomyError as error:
        raise EvaluationError(str(error)) from None
    classes = tuple(
        ClassInfo(info.id, info.name, tuple(c.get("color", info.colour)), bool(c.get("isthing", True)))
        for info, c in zip(made.classes, categories, strict=True)
    )
    return Taxonomy(name, classes, file_ids)
