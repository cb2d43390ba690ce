"""Sources and tables against real recordings, where they lie beside the checkout."""

import json
from pathlib import Path

import numpy as np
import pytest

from m2f_ros import taxonomy
from m2f_ros.sources.open import open_source

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def data(name):
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is not here")
    return DATA / name


def test_camvid_drive_with_guessed_labels():
    source = open_source(str(data("camvid/val")), labels=str(data("camvid/valannot")), rate=15)
    assert source.taxonomy is taxonomy.get("camvid")
    seen = set()
    for sample in source:
        assert sample.image.shape == (360, 480, 3)
        seen |= set(np.unique(sample.label).tolist())
    assert (sample.index, sample.name) == (100, "0016E5_08159")
    assert seen == {*range(11), 255}


def test_ade20k_labels():
    annotations, images = data("ade20k_sample/annotations"), data("ade20k_sample/images")
    source = open_source(str(images), labels=str(annotations))
    assert source.taxonomy is taxonomy.get("ade20k")
    names = {source.taxonomy.names[i] for s in source for i in np.unique(s.label) if i != 255}
    assert {"building", "sky", "grass"} <= names


def test_motorway_video_and_drive():
    video = open_source(str(data("udacity/test_video.mp4")))
    assert (video.rate, video.length) == (25.0, 38)
    assert [s.stamp_ns for s in video] == [i * 40_000_000 for i in range(38)]
    assert len(list(open_source(str(data("kitti_drive"))))) == 78


def test_coco_table_is_the_published_one():
    categories = json.loads((data("coco_panoptic_sample/panoptic_coco_categories.json")).read_text())
    coco = taxonomy.get("coco_panoptic")
    assert [(c.name, list(c.colour), int(c.thing)) for c in coco.classes] == [
        (c["name"], c["color"], c["isthing"]) for c in categories
    ]
    assert coco.file_ids == {c["id"]: i for i, c in enumerate(categories)}
