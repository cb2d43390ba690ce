"""Reads labels in folders, in the conventions of data sets.

One-channel or palette PNGs, or PNGs of the colours in the taxonomy or a colours.yaml, in the folder or in subfolders
(Cityscapes' cities):
    Cityscapes      NAME_gtFine_labelTrainIds.png or …_labelIds.png; instances of …_instanceIds.png beside them
    CamVid          NAME.png, NAME_L.png, ids 0..11
    ADE20K          NAME.png, ids 0..150, 0 unlabelled
    Mapillary       labels/NAME.png; instances of instances/NAME.png, 256 * id + number (m2f street's, too)
Panoptic PNGs with a JSON that describes their segments (COCO's format; Cityscapes and Mapillary have it too):
    FOLDER.json beside FOLDER/NAME.png, id = red + 256 * green + 65536 * blue
Instances in a JSON of COCO's format, polygons and run lengths, which needs no PNGs.
"""

from __future__ import annotations

from pathlib import Path

from m2f_ros.datasets.frame_labels import FrameLabels, Key, frame_key, frame_name, with_stuff
from m2f_ros.datasets.instance_json import InstanceJson, holds_instances
from m2f_ros.datasets.label_folder import LabelFolder
from m2f_ros.datasets.panoptic_folder import PanopticFolder, read_coco
from m2f_ros.errors import LabelError
from m2f_ros.taxonomy import Taxonomy

__all__ = [
    "FrameLabels",
    "InstanceJson",
    "Key",
    "LabelFolder",
    "Labels",
    "PanopticFolder",
    "frame_key",
    "frame_name",
    "open_labels",
    "with_stuff",
]

Labels = LabelFolder | PanopticFolder | InstanceJson


def open_labels(path: Path, spec: str | None, what: str, hint: str, like: Taxonomy | None = None) -> Labels:
    """Open the labels in a folder, or of a JSON of COCO's. For arguments and errors see LabelFolder."""
    if path.suffix == ".json":
        content = read_coco(path, what)
        kind = InstanceJson if holds_instances(content) else PanopticFolder
        return kind(path, content, spec, what, like)
    if not path.is_dir():
        raise LabelError(f"{what} {path}: neither a folder of labels nor a JSON of COCO's")
    panoptic = [p for p in sorted(path.glob("*.json")) if p.with_suffix("").is_dir()]
    if len(panoptic) == 1:
        return PanopticFolder(panoptic[0], read_coco(panoptic[0], what), spec, what, like)
    return LabelFolder(path, spec, what, hint, like)
