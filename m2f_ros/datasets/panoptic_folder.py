"""Panoptic PNGs with a JSON that describes their segments, in the format of COCO."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from m2f_ros import taxonomy as taxonomies
from m2f_ros.datasets.frame_labels import FrameLabels, Key, frame_name
from m2f_ros.datasets.ids import called, log, natural_sort
from m2f_ros.documents import read_json
from m2f_ros.errors import FrameError, LabelError, TaxonomyError
from m2f_ros.frame.pictures import open_picture, read_bytes
from m2f_ros.frame.segment import Segment
from m2f_ros.taxonomy import ClassInfo, Taxonomy, is_rgb

_LIMIT = 512 << 20  # bytes of the JSON; that of COCO's 118,000 training images has a third of it


class PanopticFolder:
    """Panoptic PNGs and their JSON.

    Attributes:
        files: (subfolder, frame) -> path.
        taxonomy: taxonomy of the train ids.
        absent: number of missing files of the JSON.
    """

    def __init__(self, path: Path, content: dict, spec: str | None, what: str, like: Taxonomy | None = None) -> None:
        """path: the JSON; the PNGs are in the folder of its name. content: of the JSON. spec: taxonomy of the
        categories in place of its own. what: begins error messages. like: taxonomy where neither spec nor the JSON says
        it.

        Raises LabelError where the JSON is none of COCO's panoptic format, or none of its PNGs is there.
        """
        folder = path.with_suffix("")
        try:
            rows = {row["file_name"]: _segments(row["segments_info"]) for row in content["annotations"]}
            self.taxonomy = categories_in(content, path, spec, what, like)
        except LabelError as error:
            raise LabelError(f"{what} {path}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise LabelError(f"{what} {path}: not a JSON of COCO's panoptic format") from None
        there = {name: folder / name for name in rows if (folder / name).is_file()}
        if not there:
            raise LabelError(f"{what} {path}: none of its {len(rows)} files is in {folder}")
        self.absent = len(rows) - len(there)
        self.files = {("", frame_name(p)): p for p in natural_sort(there.values())}
        self._segments = {there[name]: rows[name] for name in there}

    def read(self, key: Key, segments: bool = True) -> FrameLabels:
        """segments: without effect, since segments come with the labels.

        Raises LabelError for a damaged file, or one that is not what its JSON says.
        """
        path = self.files[key]
        try:
            picture = open_picture(read_bytes(path)).pixels()
        except (OSError, FrameError) as error:
            raise LabelError(f"{path}: damaged label file: {error}") from None
        if picture.ndim != 3 or picture.dtype != np.uint8:
            raise LabelError(f"{path}: no panoptic PNG, whose colours of 8 bits are the ids of its segments")
        blue, green, red = (picture[..., i].astype(np.int32) for i in range(3))
        values = red + 256 * green + 65536 * blue
        labels = np.full(values.shape, self.taxonomy.unlabelled, self.taxonomy.dtype)
        found = []
        rows = self._segments[path]
        for value in np.unique(values).tolist():
            if value == 0:
                continue
            if value not in rows:
                raise LabelError(f"{path}: holds the segment {value}, which its JSON has not")
            category, crowd = rows[value]
            train_id = train_id_of(category, self.taxonomy, str(path))
            if train_id is None:
                continue
            labels[values == value] = train_id
            found.append(Segment(value, train_id, crowd=crowd))
        return FrameLabels(labels, values, found)


def read_coco(path: Path, what: str) -> Any:
    """Read a JSON of one of COCO's formats. Raises LabelError for a file that is none."""
    try:
        return read_json(path, _LIMIT)
    except (OSError, ValueError):
        raise LabelError(f"{what} {path}: not a JSON of COCO's panoptic format, nor of its instances") from None


def categories_in(content: dict, path: Path, spec: str | None, what: str, like: Taxonomy | None) -> Taxonomy:
    """Return the taxonomy of a JSON's categories; arguments as PanopticFolder's.

    Raises LabelError, or what a JSON of another form raises: ValueError, KeyError, TypeError, AttributeError.
    """
    categories = content.get("categories") or []
    names, numbers = [str(c["name"]) for c in categories], [int(c["id"]) for c in categories]
    if len(set(numbers)) < len(numbers):
        raise LabelError("two of its categories have one id")
    taxonomy = _of_categories(spec, path.stem, names, numbers, categories, like)
    if spec is None and not categories:
        log.warning("%s %s: says no categories; they are taken for those of %s", what, path, called(taxonomy))
    return taxonomy


def train_id_of(category: int, taxonomy: Taxonomy, where: str) -> int | None:
    """Return the train id of a category, None for one that is ignored. Raises LabelError for an unknown one."""
    if category in taxonomy.ignore:
        return None
    train_id = taxonomy.file_ids.get(category)
    if train_id is None:
        raise LabelError(
            f"{where}: category {category} is none of {taxonomy.name}; name the taxonomy of its categories, or, where "
            "it is of no class, declare it under ignore: in the YAML of the taxonomy"
        )
    return train_id


def _segments(rows: list[dict]) -> dict[int, tuple[int, bool]]:
    """Value of the pixels of each segment of an image -> category, crowd."""
    return {int(row["id"]): (int(row["category_id"]), bool(int(row.get("iscrowd") or 0))) for row in rows}


def _of_categories(
    spec: str | None, name: str, names: list[str], numbers: list[int], categories: list[dict], like: Taxonomy | None
) -> Taxonomy:
    """As asked for; else of a JSON's categories: the built-in one of their names, or of names, colours and kinds there.

    name: of the latter. like: taxonomy of a JSON without categories, COCO's where that is not given, either.
    """
    if spec is not None:
        return taxonomies.get(spec)
    if not categories:
        return like or taxonomies.get("coco_panoptic")
    known = taxonomies.match(names)
    file_ids = {number: i for i, number in enumerate(numbers)}
    if known is not None:
        return replace(known, file_ids=file_ids, ignore=())
    try:
        made = taxonomies.from_names(name, names)
    except TaxonomyError as error:
        raise LabelError(str(error)) from None
    return Taxonomy(name, tuple(map(_class_of, made.classes, categories)), file_ids)


def _class_of(info: ClassInfo, category: dict) -> ClassInfo:
    """The class with the colour and kind that its category says, if it does. Raises LabelError for such as are none."""
    colour, thing = category.get("color") or list(info.colour), category.get("isthing", True)
    for key, value, wanted, right in (
        ("color", colour, "[red, green, blue], each 0 to 255", is_rgb(colour)),
        ("isthing", thing, "0 or 1", thing in (0, 1)),
    ):
        if not right:
            raise LabelError(f"category {info.name!r}: {key} is {value!r}; it must be {wanted}")
    return ClassInfo(info.id, info.name, tuple(colour), bool(thing))
