"""Labels in the conventions of data sets."""

import json

import cv2
import numpy as np
import pytest

from m2f_ros import taxonomy
from m2f_ros.datasets import Segment
from m2f_ros.datasets import open_labels as open_with_hint
from m2f_ros.errors import LabelError

ROAD, CAR, PERSON = 0, 13, 11  # train ids of Cityscapes


def open_labels(path, spec, what, like=None):
    return open_with_hint(path, spec, what, "mend it", like)


def write(path, rows, dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.array(rows, dtype))


def test_cityscapes(tmp_path):
    city = tmp_path / "gtFine" / "val" / "ulm"
    write(city / "ulm_000001_000019_gtFine_labelIds.png", [[7, 26, 26, 26, 4]])
    write(city / "ulm_000001_000019_gtFine_instanceIds.png", [[7, 26001, 26002, 26, 4]], np.uint16)
    write(city / "ulm_000001_000019_gtFine_color.png", np.zeros((1, 5, 3)))
    labels = open_labels(tmp_path / "gtFine" / "val", None, "--truth")
    assert list(labels.files) == [("ulm", "ulm_000001_000019")]
    found = labels.read(("ulm", "ulm_000001_000019"))
    assert found.labels.tolist() == [[ROAD, CAR, CAR, CAR, 255]]
    kinds = {s.id: (s.train_id, s.crowd) for s in found.segments}
    assert [kinds.get(i) for i in found.ids[0].tolist()] == [
        (ROAD, False),
        (CAR, False),
        (CAR, False),
        (CAR, True),
        None,
    ]
    assert len(set(found.ids[0].tolist())) == 5

    # The same with the files of train ids beside, which are taken first.
    write(city / "ulm_000001_000019_gtFine_labelTrainIds.png", [[0, 13, 13, 13, 255]])
    again = open_labels(tmp_path / "gtFine" / "val", None, "--truth")
    assert again.files[("ulm", "ulm_000001_000019")].stem.endswith("TrainIds")
    train = again.read(("ulm", "ulm_000001_000019"))
    assert (train.labels == found.labels).all() and (train.ids == found.ids).all()

    # Unless it is said which ids are meant.
    taxonomy.get("cityscapes").to_yaml(tmp_path / "own.yaml")
    for spec, ending in (
        ("cityscapes", "labelTrainIds"),
        ("cityscapes_trainids", "labelTrainIds"),
        ("cityscapes_labelids", "labelIds"),
        (str(tmp_path / "own.yaml"), "labelIds"),
    ):
        said = open_labels(tmp_path / "gtFine" / "val", spec, "--truth")
        assert said.files[("ulm", "ulm_000001_000019")].stem.endswith(ending)
        assert (said.read(("ulm", "ulm_000001_000019")).labels == found.labels).all()


def test_instances_of_classes_that_are_not_cityscapes_own(tmp_path):
    (tmp_path / "yard.yaml").write_text(
        "name: yard\nclasses: [{id: 0, name: ground}, {id: 1, name: crane, thing: true}]\nfile_ids: {7: 0, 26: 1}\n"
    )
    write(tmp_path / "labels" / "a_gtFine_labelIds.png", [[7, 26, 26]])
    write(tmp_path / "labels" / "a_gtFine_instanceIds.png", [[7, 26001, 33001]], np.uint16)
    found = open_labels(tmp_path / "labels", str(tmp_path / "yard.yaml"), "--truth").read(("", "a"))
    assert {s.id: s.train_id for s in found.segments} == {26002: 1, found.ids[0, 0]: 0}
    assert found.ids[0, 1:].tolist() == [26002, 0]


def test_camvid_and_ade20k_by_their_names(tmp_path):
    write(tmp_path / "camvid" / "0016E5_00390_L.png", [[3, 8, 11]])
    labels = open_labels(tmp_path / "camvid", None, "--truth")
    assert labels.read(("", "0016E5_00390")).labels.tolist() == [[3, 8, 255]]
    write(tmp_path / "ade" / "ADE_val_00000001.png", [[0, 1, 150]])
    labels = open_labels(tmp_path / "ade", None, "--truth")
    assert labels.read(("", "ADE_val_00000001")).labels.tolist() == [[255, 0, 149]]


def test_mapillary_with_instances(tmp_path):
    mapillary = taxonomy.get("mapillary")
    car, road = mapillary.names.index("car"), mapillary.names.index("road")
    write(tmp_path / "labels" / "a.png", [[0, car, car, road, 65]])
    write(tmp_path / "instances" / "a.png", [[0, car * 256, car * 256 + 1, road * 256, 65 * 256]], np.uint16)
    found = open_labels(tmp_path / "labels", "mapillary", "--truth").read(("", "a"))
    assert found.labels.tolist() == [[0, car, car, road, 255]]
    kinds = {s.id: s.train_id for s in found.segments}
    assert [kinds.get(i) for i in found.ids[0].tolist()] == [0, car, car, road, None]
    assert len(set(found.ids[0].tolist())) == 5


def write_panoptic(path, name, ids, segments, **more):
    ids = np.array(ids)
    write(path.with_suffix("") / name, np.stack([ids >> 16 & 255, ids >> 8 & 255, ids & 255], -1))  # BGR
    path.write_text(json.dumps({"annotations": [{"file_name": name, "segments_info": segments}], **more}))


def test_coco_panoptic(tmp_path):
    segments = [
        {"id": 70000, "category_id": 1, "iscrowd": 0},
        {"id": 3, "category_id": 1, "iscrowd": 1},
        {"id": 300, "category_id": 149, "iscrowd": 0},
    ]
    write_panoptic(tmp_path / "panoptic_val.json", "1.png", [[70000, 3, 300, 0]], segments)
    (tmp_path / "captions.json").write_text("{}")
    labels = open_labels(tmp_path, None, "--truth")
    found = labels.read(("", "1"))
    road = labels.taxonomy.names.index("road")
    assert found.labels.tolist() == [[0, 0, road, 255]]
    assert found.ids.tolist() == [[70000, 3, 300, 0]]
    assert set(found.segments) == {Segment(70000, 0), Segment(3, 0, True), Segment(300, road)}


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: d[:-20] + bytes(4) + d[-16:], lambda d: b"GIF89a"])
def test_damaged_files_are_named(tmp_path, damage):
    write_panoptic(tmp_path / "a.json", "1.png", [[7]], [{"id": 7, "category_id": 1}])
    write(tmp_path / "labels" / "1.png", [[3, 8, 11]])
    panoptic, labels = open_labels(tmp_path / "a.json", None, "x"), open_labels(tmp_path / "labels", "camvid", "x")
    for path, folder in ((tmp_path / "a" / "1.png", panoptic), (tmp_path / "labels" / "1.png", labels)):
        folder.read(("", "1"))
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(LabelError, match=r"1\.png: (damaged label file: |not a PNG file)"):
            folder.read(("", "1"))


def test_panoptic_json_with_classes_of_its_own(tmp_path):
    categories = [{"id": 5, "name": "yard", "isthing": 0, "color": [1, 2, 3]}, {"id": 9, "name": "crane", "isthing": 1}]
    path = tmp_path / "mine.json"
    write_panoptic(
        path, "1.png", [[4, 6]], [{"id": 4, "category_id": 9}, {"id": 6, "category_id": 5}], categories=categories
    )
    labels = open_labels(path, None, "--truth")
    assert [(c.name, c.thing) for c in labels.taxonomy.classes] == [("yard", False), ("crane", True)]
    assert labels.taxonomy.classes[0].colour == (1, 2, 3)
    assert labels.read(("", "1")).labels.tolist() == [[1, 0]]


def test_predictions_mean_what_the_truth_means_unless_a_file_says_otherwise(tmp_path):
    like = taxonomy.get("camvid")
    write(tmp_path / "a.png", [[13, 0]])
    with pytest.raises(LabelError, match=r"a.png: holds the id 13, which camvid has not; mend it"):
        open_labels(tmp_path, None, "PREDICTIONS", like).read(("", "a"))
    taxonomy.get("cityscapes_trainids").to_yaml(tmp_path / "taxonomy.yaml")
    labels = open_labels(tmp_path, None, "PREDICTIONS", like)
    assert labels.taxonomy.names[labels.read(("", "a")).labels[0, 0]] == "car"


def test_what_is_no_label_is_refused(tmp_path):
    with pytest.raises(LabelError, match="no label PNGs in this folder or its subfolders"):
        open_labels(tmp_path, None, "--truth")
    write(tmp_path / "a.png", [[0, 40]])
    with pytest.raises(LabelError, match=r"its ids 0, 40 mean is not plain; .*, cityscapes_labelids, or a \.yaml"):
        open_labels(tmp_path, None, "--truth")
    write(tmp_path / "b" / "b.png", np.zeros((2, 2, 3)))
    with pytest.raises(LabelError, match=r"b.png: holds colours"):
        open_labels(tmp_path / "b", None, "--truth")
    with pytest.raises(LabelError, match="not a JSON of COCO's panoptic format"):
        (tmp_path / "c.json").write_text("{}")
        open_labels(tmp_path / "c.json", None, "--truth")
    write_panoptic(tmp_path / "e.json", "1.png", [[4]], [{"id": 4}])
    with pytest.raises(LabelError, match="not a JSON of COCO's panoptic format"):
        open_labels(tmp_path / "e.json", None, "--truth")
    write_panoptic(tmp_path / "d.json", "1.png", [[4]], [{"id": 5, "category_id": 1}])
    with pytest.raises(LabelError, match=r"1.png: holds the segment 4, which its JSON has not"):
        open_labels(tmp_path / "d.json", None, "--truth").read(("", "1"))
