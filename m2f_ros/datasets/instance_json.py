"""Instances in a JSON of COCO's format, as polygons and run lengths."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from m2f_ros import taxonomy as taxonomies
from m2f_ros.datasets.frame_labels import FrameLabels, Key, frame_key, with_stuff
from m2f_ros.datasets.ids import log
from m2f_ros.datasets.panoptic_folder import categories_in, train_id_of
from m2f_ros.errors import LabelError
from m2f_ros.frame.pictures import MAX_PIXELS
from m2f_ros.frame.segment import Segment
from m2f_ros.taxonomy import Taxonomy

_MOST = 1 << 16  # instances of an image; see with_stuff
_FARTHEST = 1e6  # pixels
_BACKGROUND = ("background", "__background__", "_background_")


def holds_instances(content: Any) -> bool:
    """Return True for the content of a JSON of instances, not of panoptic segments."""
    rows = content.get("annotations") if isinstance(content, dict) else None
    return (
        isinstance(rows, list)
        and isinstance(content.get("images"), list)
        and not any(isinstance(row, dict) and "segments_info" in row for row in rows)
    )


class _Instance(NamedTuple):
    """An annotation.

    Attributes:
        id: its id in the JSON.
        category: id of its class.
        crowd: COCO's iscrowd.
        shape: its polygons, each (corners, 2) float32, x and y; or COCO's record of run lengths.
    """

    id: object
    category: int
    crowd: bool
    shape: Any


class _Image(NamedTuple):
    height: int
    width: int
    instances: list[_Instance]


class InstanceJson:
    """Instances of images, one by one. Where they overlap, the smaller one is on top.

    Pixels of no instance are of the taxonomy's class "background", if it has one, else unlabelled.

    Attributes:
        files: (subfolder, frame) -> path of the JSON.
        taxonomy: taxonomy of the train ids.
        absent: number of missing files, always 0.
    """

    absent = 0  # there are none beside the JSON

    def __init__(self, path: Path, content: dict, spec: str | None, what: str, like: Taxonomy | None = None) -> None:
        """content: of the JSON. For the other arguments see PanopticFolder.

        Raises LabelError where the JSON is none of COCO's instance format, or what it describes cannot be.
        """
        try:
            self.taxonomy = categories_in(content, path, spec, what, like)
            found = {row["id"]: _image(row) for row in content["images"]}
            names = [str(row["file_name"]) for row in content["images"]]
            for row in content["annotations"]:
                number, place = row.get("id"), row["image_id"]
                if place not in found:
                    raise LabelError(f"annotation {number!r} is of the image {place!r}, which is none of its images")
                crowd = bool(int(row.get("iscrowd") or 0))
                shape = row.get("segmentation")
                if not shape:
                    raise LabelError(f"annotation {number!r} has no segmentation; a box alone is no label")
                try:
                    shape = shape if isinstance(shape, dict) else [_polygon(corners) for corners in shape]
                except ValueError as error:
                    raise LabelError(f"annotation {number!r}: {error}") from None
                found[place].instances.append(_Instance(number, int(row["category_id"]), crowd, shape))
        except LabelError as error:
            raise LabelError(f"{what} {path}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise LabelError(f"{what} {path}: not a JSON of COCO's instance format") from None
        keys = [frame_key(Path(name), Path()) for name in names]
        if not keys or len(set(keys)) < len(keys) or len(found) < len(keys):
            reason = "two of its images have one id or name" if keys else "it names no images"
            raise LabelError(f"{what} {path}: {reason}")
        self._images = dict(zip(keys, found.values(), strict=True))
        self.files: dict[Key, Path] = dict.fromkeys(keys, path)
        find = taxonomies.finder(self.taxonomy)
        self._background = next((i for name in _BACKGROUND if (i := find(name)) is not None), None)
        if self._background is None:
            log.warning(
                "%s %s: pixels of no instance are unlabelled, for %s has no class 'background'",
                what, path, self.taxonomy.name,
            )  # fmt: skip

    def read(self, key: Key, segments: bool = True) -> FrameLabels:
        """segments: without effect, since segments come with the labels.

        Raises LabelError for damaged polygons or run lengths, or a category that the taxonomy has not.
        """
        image, taxonomy = self._images[key], self.taxonomy
        where = f"{self.files[key]}: {'/'.join(part for part in key if part)}"
        if len(image.instances) > _MOST:
            raise LabelError(f"{where}: has {len(image.instances)} instances; at most {_MOST} are taken")
        shapes = []
        for number, one in enumerate(image.instances, 1):
            train_id = train_id_of(one.category, taxonomy, where)
            try:
                mask = _mask(one.shape, image.height, image.width)
            except (KeyError, TypeError):
                raise LabelError(f"{where}: annotation {one.id!r}: its run lengths lack size or counts") from None
            except ValueError as error:
                raise LabelError(f"{where}: annotation {one.id!r}: {error}") from None
            shapes.append((number, taxonomy.unlabelled if train_id is None else train_id, one.crowd, mask))
        background = taxonomy.unlabelled if self._background is None else self._background
        labels = np.full((image.height, image.width), background, taxonomy.dtype)
        ids = np.zeros(labels.shape, np.int32)
        for number, train_id, _, mask in sorted(shapes, key=lambda shape: (not shape[2], -shape[3].sum())):
            labels[mask] = train_id
            ids[mask] = number if train_id != taxonomy.unlabelled and taxonomy.classes[train_id].thing else 0
        there = set(np.unique(ids).tolist())
        things = [Segment(number, train_id, crowd=crowd) for number, train_id, crowd, _ in shapes if number in there]
        return FrameLabels(labels, *with_stuff(labels, ids, things, taxonomy))


def _image(row: dict) -> _Image:
    height, width = int(row["height"]), int(row["width"])
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise LabelError(f"image {row['id']!r} is said to have {width}x{height} pixels")
    return _Image(height, width, [])


def _mask(shape: Any, height: int, width: int) -> np.ndarray:
    """Return (height, width) bool: the pixels of a segmentation. Raises ValueError, KeyError or TypeError."""
    if isinstance(shape, dict):
        if list(shape["size"]) != [height, width]:
            raise ValueError(f"its run lengths are for {shape['size']}, height and width, not {[height, width]}")
        counts = shape["counts"]
        return _from_runs(_uncompressed(counts) if isinstance(counts, str) else counts, height, width)
    mask = np.zeros((height, width), bool)
    for polygon in shape:
        mask |= _inside(polygon, height, width)
    return mask


def _polygon(values: Any) -> np.ndarray:
    """Return (corners, 2) float32 of x, y, x, y, …; a smaller thing than a list of numbers. Raises ValueError."""
    numbers = isinstance(values, list) and all(type(value) in (int, float) for value in values)
    if not numbers or len(values) < 6 or len(values) % 2:
        raise ValueError("a polygon is a list of x, y of three or more corners")
    corners = np.array(values, np.float64).reshape(-1, 2)
    if (abs(corners) > _FARTHEST).any():
        raise ValueError(f"a corner of its polygon is at {values[np.argmax(abs(corners))]:g}, far from the image")
    return corners.astype(np.float32)


def _inside(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return (height, width) bool: pixels whose centre is inside a polygon, by the even-odd rule."""
    corners = polygon.tolist()
    turns = np.zeros((height, width + 1), np.uint8)
    for (x, y), (u, v) in zip(corners, corners[1:] + corners[:1], strict=True):
        first, last = (int(np.clip(math.ceil(end - 0.5), 0, height)) for end in sorted((y, v)))
        rows = np.arange(first, last)  # whose centres the edge passes
        if len(rows):
            crossing = x + (rows + 0.5 - y) * (u - x) / (v - y)
            turns[rows, np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.intp)] ^= 1
    return np.bitwise_xor.accumulate(turns, 1)[:, :width].astype(bool)


def _from_runs(counts: Any, height: int, width: int) -> np.ndarray:
    """Return (height, width) bool from the lengths of runs of 0 and 1 in turns, column by column."""
    runs = np.array(counts)
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or (runs < 0).any():
        raise ValueError("its run lengths are no whole numbers from 0 up")
    if runs.sum(dtype=object) != height * width:
        raise ValueError(f"its run lengths come to {runs.sum(dtype=object)} pixels, not {height * width}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _uncompressed(text: str) -> list[int]:
    """Return the run lengths in COCO's text: five bits a character, least first, from the third on as differences.

    (cocodataset/cocoapi, common/maskApi.c, rleFrString)
    """
    if not re.fullmatch("[0-o]*", text):
        raise ValueError("its run lengths are no text of COCO's")
    counts: list[int] = []
    value = bits = 0
    for letter in text:
        code = ord(letter) - 48
        value |= (code & 0x1F) << bits
        bits += 5
        if bits > 60:
            raise ValueError("its run lengths are no text of COCO's")
        if not code & 0x20:
            if code & 0x10:
                value -= 1 << bits
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = bits = 0
    if bits:
        raise ValueError("its run lengths are cut off")
    return counts
