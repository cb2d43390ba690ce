"""Labels in the conventions of data sets."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from m2f_ros import taxonomy
from m2f_ros.datasets import open_labels as open_with_hint
from m2f_ros.errors import LabelError
from m2f_ros.frame.segment import Segment

ROAD, CAR, PERSON = 0, 13, 11  # train ids of Cityscapes


def open_labels(path, spec, what, like=None):
    return open_with_hint(path, spec, what, "mend it", like)


def write(path, rows, dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.array(rows, dtype))


def test_palettes_that_give_an_id_two_colours_are_said(tmp_path, caplog):
    for name, colours in (("1", [0, 0, 0, 128, 0, 0]), ("2", [0, 0, 0, 0, 128, 0]), ("3", None)):
        label = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
        if colours:
            label = label.convert("P")
            label.putpalette(colours)
        label.save(tmp_path / f"{name}.png")
        open_labels(tmp_path, "camvid", "--truth")
    said = "the id 1 is [0, 128, 0] in the palette of 2.png and [128, 0, 0] in that of 1.png"
    assert [r.getMessage() for r in caplog.records] == [
        f"labels {tmp_path}: {said}; is it one class? ids are taken, not colours"
    ] * 2


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
        "ignore: [33]\n"
    )
    write(tmp_path / "labels" / "a_gtFine_labelIds.png", [[7, 26, 26]])
    write(tmp_path / "labels" / "a_gtFine_instanceIds.png", [[7, 26001, 33001]], np.uint16)
    found = open_labels(tmp_path / "labels", str(tmp_path / "yard.yaml"), "--truth").read(("", "a"))
    assert {s.id: s.train_id for s in found.segments} == {26002: 1, found.ids[0, 0]: 0}
    assert found.ids[0, 1:].tolist() == [26002, 0]
    write(tmp_path / "labels" / "a_gtFine_instanceIds.png", [[7, 26001, 32001]], np.uint16)
    with pytest.raises(LabelError, match=r"a_gtFine_instanceIds.png: holds the id 32, which yard has not"):
        open_labels(tmp_path / "labels", str(tmp_path / "yard.yaml"), "--truth").read(("", "a"))
    # Few objects fit in 8 bits.
    write(tmp_path / "labels" / "a_gtFine_instanceIds.png", [[7, 26, 33]])
    found = open_labels(tmp_path / "labels", str(tmp_path / "yard.yaml"), "--truth").read(("", "a"))
    assert [(s.train_id, s.crowd) for s in found.segments] == [(1, True), (0, False)]


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
    assert set(found.segments) == {Segment(70000, 0), Segment(3, 0, crowd=True), Segment(300, road)}


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


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("color", "#ff0000", r"color is '#ff0000'; it must be \[red, green, blue\], each 0 to 255"),
        ("color", [256, 0, 0], r"color is \[256, 0, 0\]; it must be"),
        ("isthing", "0", "isthing is '0'; it must be 0 or 1"),
    ],
)
def test_a_category_whose_colour_or_kind_is_none(key, value, message, tmp_path):
    write_panoptic(tmp_path / "a.json", "1.png", [[4]], [], categories=[{"id": 5, "name": "yard", key: value}])
    with pytest.raises(LabelError, match=f"--truth .*a.json: category 'yard': {message}"):
        open_labels(tmp_path / "a.json", None, "--truth")


def test_a_category_without_colour_and_a_crowd_in_words(tmp_path):
    category = {"id": 5, "name": "yard", "color": None}
    segment = {"id": 4, "category_id": 5, "iscrowd": "0"}
    write_panoptic(tmp_path / "a.json", "1.png", [[4]], [segment], categories=[category])
    labels = open_labels(tmp_path / "a.json", None, "--truth")
    assert labels.taxonomy.classes[0].colour == (128, 0, 0)
    assert labels.read(("", "1")).segments == [Segment(4, 0)]


def test_predictions_mean_what_the_truth_means_unless_a_file_says_otherwise(tmp_path, caplog):
    like = taxonomy.get("camvid")
    write(tmp_path / "a.png", [[13, 0]])
    with pytest.raises(LabelError, match=r"a.png: holds the id 13, which camvid has not; mend it"):
        open_labels(tmp_path, None, "PREDICTIONS", like).read(("", "a"))
    assert caplog.messages == [f"PREDICTIONS {tmp_path}: ids taken for those of the ground truth, of camvid"]
    taxonomy.get("cityscapes_trainids").to_yaml(tmp_path / "taxonomy.yaml")
    labels = open_labels(tmp_path, None, "PREDICTIONS", like)
    assert labels.taxonomy.names[labels.read(("", "a")).labels[0, 0]] == "car"


def test_train_ids_are_not_taken_for_the_label_ids_of_the_truth(tmp_path):
    like = taxonomy.get("cityscapes")
    write(tmp_path / "a.png", [[0, 13, 10]])
    with pytest.raises(LabelError, match=r"none above 18, look like Cityscapes' train ids, .* cityscapes_trainids or"):
        open_labels(tmp_path, None, "PREDICTIONS", like)
    write(tmp_path / "a.png", [[7, 26, 23]])
    assert open_labels(tmp_path, None, "PREDICTIONS", like).read(("", "a")).labels.tolist() == [[ROAD, CAR, 10]]


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


YARD = "classes: [{id: 0, name: ground}, {id: 1, name: crane}, {id: 2, name: sky}]\n"


@pytest.mark.parametrize(
    ("more", "rows", "dtype", "unknown"),
    [
        ("", [[1, 2, 3]], np.uint8, "3"),  # counted from 1
        ("", [[0, 1, 2, 255]], np.uint8, "255"),
        ("", [[0, 255]], np.uint8, "255"),  # a mask
        ("", [[0, 1, 65535]], np.uint16, "65535"),
        ("ignore: [3]\n", [[0, 3, 4, 255]], np.uint8, "4, 255"),
    ],
)
def test_an_id_that_is_not_declared_is_an_error(tmp_path, more, rows, dtype, unknown):
    (tmp_path / "yard.yaml").write_text(YARD + more)
    write(tmp_path / "labels" / "a.png", rows, dtype)
    labels = open_labels(tmp_path / "labels", str(tmp_path / "yard.yaml"), "--truth")
    with pytest.raises(LabelError) as caught:
        labels.read(("", "a"))
    assert str(caught.value) == (
        f"{tmp_path}/labels/a.png: holds the id {unknown}, which yard has not; mend it, or, where it is of no class, "
        "declare it under ignore: in the YAML of the taxonomy"
    )


def test_ids_that_are_declared_as_ignored_are_unlabelled(tmp_path):
    (tmp_path / "yard.yaml").write_text(YARD + "ignore: [3, 65535]\n")
    write(tmp_path / "labels" / "a.png", [[3, 0, 65535, 2]], np.uint16)
    labels = open_labels(tmp_path / "labels", str(tmp_path / "yard.yaml"), "--truth")
    assert labels.read(("", "a")).labels.tolist() == [[255, 0, 255, 2]]


def test_categories_that_are_declared_as_ignored_are_unlabelled(tmp_path):
    (tmp_path / "yard.yaml").write_text(YARD + "ignore: [7]\n")
    path = tmp_path / "p.json"
    write_panoptic(path, "1.png", [[4, 6]], [{"id": 4, "category_id": 2}, {"id": 6, "category_id": 7}])
    found = open_labels(path, str(tmp_path / "yard.yaml"), "--truth").read(("", "1"))
    assert found.labels.tolist() == [[2, 255]] and found.segments == [Segment(4, 2)]
    write_panoptic(path, "1.png", [[4, 6]], [{"id": 4, "category_id": 2}, {"id": 6, "category_id": 8}])
    with pytest.raises(LabelError, match=r"1.png: category 8 is none of yard; .*declare it under ignore:"):
        open_labels(path, str(tmp_path / "yard.yaml"), "--truth").read(("", "1"))


def test_a_guess_is_said_and_an_id_against_it_is_an_error(tmp_path, caplog):
    for i in range(20):
        write(tmp_path / "camvid" / f"{i:02}_L.png", [[3, 8, 11 if i != 1 else 12]])
    labels = open_labels(tmp_path / "camvid", None, "--truth")
    (line,) = caplog.messages
    assert line == f"--truth {tmp_path}/camvid: by its name and the ids 3, 8, 11, taken for camvid"
    with pytest.raises(LabelError, match=r"01_L.png: holds the id 12, which camvid has not"):
        labels.read(("", "01"))
    caplog.clear()
    open_labels(tmp_path / "camvid", "camvid", "--truth")
    assert caplog.messages == []
    write(tmp_path / "c" / "a.png", [[0, 18, 255]])
    open_labels(tmp_path / "c", "cityscapes", "--truth")
    assert caplog.messages == [
        f"--truth {tmp_path}/c: by its name and the ids 0, 18, 255, taken for cityscapes_trainids"
    ]


def test_frames_without_a_label_of_the_kind_that_others_have_are_not_left_out(tmp_path):
    write(tmp_path / "camvid" / "a_L.png", [[3]])
    write(tmp_path / "camvid" / "a.png", np.zeros((1, 1, 3)))  # the image
    write(tmp_path / "camvid" / "B.PNG", [[3]])
    write(tmp_path / "camvid" / "._a_L.png", [[3]])  # of macOS
    write(tmp_path / "camvid" / "c.png", np.zeros((1, 1, 3)))  # an image without label
    with pytest.raises(LabelError, match=r"1 frames have a label …_L.png, 1 have one of another.*B.PNG\)"):
        open_labels(tmp_path / "camvid", "camvid", "--truth")
    (tmp_path / "camvid" / "B.PNG").rename(tmp_path / "camvid" / "b_L.PNG")
    assert list(open_labels(tmp_path / "camvid", "camvid", "--truth").files) == [("", "a"), ("", "b")]
