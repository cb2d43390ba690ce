"""Data sets in their conventions, on disk and drawn, and things one by one."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from m2f_ros import taxonomy
from m2f_ros.datasets import FrameLabels
from m2f_ros.errors import LabelError, TrainingError
from m2f_ros.frame.segment import Segment
from m2f_ros.street import Street
from m2f_ros.taxonomy import merge_table
from m2f_ros.training.config import AugmentConfig, DataConfig, DataSetConfig, StreetConfig, TrainConfig
from m2f_ros.training.data import Samples
from m2f_ros.training.matching import targets_from_labels
from m2f_ros.training.segment_map import segment_map, train_ids, without_small_things
from m2f_ros.training.sets import open_set

ROAD, PERSON, CAR = 0, 11, 13  # train ids of Cityscapes


def write(path, rows, dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.array(rows, dtype))


def open_at(tmp_path, images, labels, **more):
    return open_set(DataSetConfig("set", str(tmp_path / images), str(tmp_path / labels), **more))


def test_cityscapes_in_the_folders_of_its_cities(tmp_path):
    for city in ("bonn", "ulm"):
        stem = f"{city}_000000_000019"
        write(tmp_path / "leftImg8bit/train" / city / f"{stem}_leftImg8bit.png", np.zeros((1, 4, 3)))
        write(tmp_path / "gtFine/train" / city / f"{stem}_gtFine_labelIds.png", [[7, 26, 26, 24]])
        write(tmp_path / "gtFine/train" / city / f"{stem}_gtFine_instanceIds.png", [[7, 26000, 26001, 24]], np.uint16)
        write(tmp_path / "gtFine/train" / city / f"{stem}_gtFine_color.png", np.zeros((1, 4, 4)))
    data = open_at(tmp_path, "leftImg8bit/train", "gtFine/train", taxonomy="cityscapes")
    assert [data.file(i) for i in range(len(data))] == [f"{c}_000000_000019_leftImg8bit.png" for c in ("bonn", "ulm")]
    image, labels = data.read(1)
    assert image.shape == (1, 4, 3)
    assert labels.tolist() == [[ROAD, CAR, CAR, PERSON]]
    segments = segment_map(data.read_segments(0)[1], np.arange(256), data.taxonomy)
    # The persons are a group that was not told apart.
    assert train_ids(segments, 255).tolist() == [[ROAD, CAR, CAR, 255]]
    assert len(set(segments[0].tolist())) == 4

    for city in ("bonn", "ulm"):
        write(tmp_path / "gtFine/train" / city / f"{city}_000000_000019_gtFine_labelTrainIds.png", [[0, 13, 13, 255]])
    assert open_at(tmp_path, "leftImg8bit", "gtFine").read(0)[1].tolist() == [[ROAD, CAR, CAR, 255]]


def test_camvid_ade20k_and_mapillary(tmp_path):
    write(tmp_path / "701" / "0016E5_00390.png", np.zeros((1, 3, 3)))
    write(tmp_path / "camvid" / "0016E5_00390_L.png", [[3, 8, 11]])
    assert open_at(tmp_path, "701", "camvid").read(0)[1].tolist() == [[3, 8, 255]]

    write(tmp_path / "images" / "training" / "ADE_train_00000001.jpg", np.zeros((1, 3, 3)))
    write(tmp_path / "annotations" / "training" / "ADE_train_00000001.png", [[0, 1, 150]])
    assert open_at(tmp_path, "images", "annotations").read(0)[1].tolist() == [[255, 0, 149]]

    car = taxonomy.get("mapillary").names.index("car")
    write(tmp_path / "training" / "images" / "a.jpg", np.zeros((1, 3, 3)))
    write(tmp_path / "training" / "labels" / "a.png", [[car, car, 65]])
    write(tmp_path / "training" / "instances" / "a.png", [[car * 256, car * 256 + 1, 65 * 256]], np.uint16)
    data = open_at(tmp_path, "training/images", "training/labels", taxonomy="mapillary")
    assert data.read(0)[1].tolist() == [[car, car, 255]]
    cityscapes = taxonomy.get("cityscapes")
    segments = segment_map(data.read_segments(0)[1], merge_table(data.taxonomy, cityscapes), cityscapes)
    assert train_ids(segments, 255).tolist() == [[CAR, CAR, 255]]
    assert segments[0, 0] != segments[0, 1]


def test_coco_panoptic(tmp_path):
    write(tmp_path / "train2017" / "000000000009.jpg", np.zeros((1, 4, 3)))
    values = np.array([[5, 6, 7, 0]])
    write(tmp_path / "panoptic_train2017" / "000000000009.png", np.stack([values * 0, values * 0, values], -1))
    rows = [{"id": 5, "category_id": 1}, {"id": 6, "category_id": 1, "iscrowd": 1}, {"id": 7, "category_id": 149}]
    listed = {"annotations": [{"file_name": "000000000009.png", "segments_info": rows}]}
    (tmp_path / "panoptic_train2017.json").write_text(json.dumps(listed))
    data = open_at(tmp_path, "train2017", "panoptic_train2017.json")
    road = taxonomy.get("coco_panoptic").names.index("road")
    assert data.read(0)[1].tolist() == [[0, 0, road, 255]]
    segments = segment_map(data.read_segments(0)[1], np.arange(256), data.taxonomy)
    assert train_ids(segments, 255).tolist() == [[0, 255, road, 255]]  # the crowd is not taught
    write(tmp_path / "train2017" / "000000000025.jpg", np.zeros((1, 4, 3)))
    with pytest.raises(TrainingError, match=r"000000000025\.jpg has no label in .*panoptic_train2017\.json; label or"):
        open_at(tmp_path, "train2017", "panoptic_train2017.json")


@pytest.mark.parametrize("image, label", [("1.jpg", "1.png"), ("1.png", "1_L.png")])
def test_labels_beside_their_images_are_no_images(image, label, tmp_path):
    write(tmp_path / "both" / image, np.zeros((1, 3, 3)))
    write(tmp_path / "both" / label, [[3, 8, 11]])
    data = open_at(tmp_path, "both", "both", taxonomy="camvid")
    assert [data.file(i) for i in range(len(data))] == [image]
    (tmp_path / "both" / image).unlink()
    with pytest.raises(TrainingError, match=r"the files in .*/both are labels, and no images are there"):
        open_at(tmp_path, "both", "both", taxonomy="camvid")


def test_what_the_ids_mean_has_to_be_plain(tmp_path):
    write(tmp_path / "images" / "a.png", np.zeros((1, 2, 3)))
    write(tmp_path / "labels" / "a.png", [[3, 4]])
    with pytest.raises(LabelError, match=r"data set 'set': .*labels: which classes its ids 3, 4 mean is not plain"):
        open_at(tmp_path, "images", "labels")


def test_shared_samples_are_read(request):
    shared = request.config.rootpath.parent / "shared" / "data"
    if not shared.is_dir():
        pytest.skip(f"{shared} is absent")
    ade = open_at(shared / "ade20k_sample", "images", "annotations")
    names = {ade.taxonomy.names[c] for i in range(len(ade)) for c in np.unique(ade.read(i)[1]) if c != 255}
    assert {"building", "sky", "grass"} <= names
    coco = open_at(shared / "coco_panoptic_sample", "input_images", "panoptic_examples.json")
    image, frame = coco.read_segments(0)
    assert frame.ids.shape == image.shape[:2]
    assert set(np.unique(frame.labels[frame.ids > 0])) == {s.train_id for s in frame.segments}


def test_streets_are_drawn_as_the_config_says():
    drawn = []

    def draw(seed, width, height):
        drawn.append(seed)
        return SimpleNamespace(
            frame=lambda index: SimpleNamespace(
                image=np.full((height, width, 3), seed, np.uint8),
                label=np.full((height, width), index, np.uint8),
                instance=np.zeros((height, width), np.uint16),
            )
        )

    config = DataSetConfig("street", street=StreetConfig(seeds=(7, 8), frames=9, every=4, size=(64, 32)))
    data = open_set(config, draw)
    assert [data.file(i) for i in range(len(data))] == [f"street {s}, frame {f}" for s in (7, 8) for f in (0, 4, 8)]
    found = [data.read(i) for i in range(6)]
    assert [(image[0, 0, 0], labels[0, 0]) for image, labels in found] == [(s, f) for s in (7, 8) for f in (0, 4, 8)]
    assert found[0][0].shape == (32, 64, 3)
    assert drawn == [7, 8]  # each street once
    with pytest.raises(TrainingError, match="data set 'street': streets are drawn by m2f train alone"):
        open_set(config)


def test_things_of_the_street_one_by_one():
    street = StreetConfig(seeds=(5, 5), frames=9, every=8, size=(128, 96))
    parts = (DataSetConfig("street", street=street),)
    config = TrainConfig(
        DataConfig(parts, panoptic=True),
        augment=AugmentConfig(crop=(128, 96), scale=(1, 1), flip=0, rare_class=0),
    )
    samples = Samples(config, Street)
    labels = samples[0][1]
    frame = Street(seed=5, width=128, height=96).frame(8 if samples[0][2].endswith("frame 8") else 0)
    things = frame.instance > 0
    assert np.array_equal(train_ids(labels, 255), frame.label)
    assert np.array_equal(labels[~things], frame.label[~things])
    pairs = np.unique(np.stack([labels, frame.instance])[:, things], axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1] > 2

    target = targets_from_labels(torch.from_numpy(labels)[None], 255, True)[0]
    assert len(target.classes) == pairs.shape[1] + len(np.unique(frame.label[~things]))
    assert torch.equal(target.masks.sum(0), torch.ones(96, 128))
    for train_id, mask in zip(target.classes.tolist(), target.masks.numpy() > 0, strict=True):
        assert (frame.label[mask] == train_id).all()


def test_things_that_are_not_told_apart_are_not_taught(config_file, folder):
    cityscapes = taxonomy.get("cityscapes")
    labels = np.array([[ROAD, CAR, PERSON]], np.uint8)
    assert segment_map(FrameLabels(labels), np.arange(256), cityscapes).tolist() == [[ROAD, 255, 255]]
    crowd = FrameLabels(
        labels, np.array([[1, 2, 3]]), [Segment(1, ROAD), Segment(2, CAR), Segment(3, PERSON, crowd=True)]
    )
    assert train_ids(segment_map(crowd, np.arange(256), cityscapes), 255).tolist() == [[ROAD, CAR, 255]]
    plain = DataSetConfig("camvid", str(folder / "images"), str(folder / "labels"), taxonomy="camvid")
    with pytest.raises(TrainingError, match=r"data\.panoptic: no data set of data\.train tells things apart"):
        Samples(TrainConfig(DataConfig((plain,), panoptic=True)))


def test_small_things_are_left_out():
    thing, other = CAR + 256, CAR + 512
    labels = np.array([[ROAD, thing, thing, other, 255]], np.int32)
    assert without_small_things(labels, 2, 255).tolist() == [[ROAD, thing, thing, 255, 255]]  # the road stays
    street = DataSetConfig("street", street=StreetConfig(seeds=(5, 5), frames=1, every=1, size=(128, 96)))
    augment = AugmentConfig(crop=(128, 96), scale=(1, 1), smallest_thing=20)
    config = TrainConfig(DataConfig((street,), panoptic=True), augment=augment)
    values, counts = np.unique(Samples(config, Street)[0][1], return_counts=True)
    assert (values > 255).any()
    assert counts[values > 255].min() >= 20


def test_a_json_of_instances(tmp_path):
    square = [[1, 0, 3, 0, 3, 1, 1, 1]]
    content = {
        "images": [{"id": 4, "file_name": "a.png", "height": 1, "width": 4}],
        "categories": [{"id": 3, "name": "car"}],
        "annotations": [{"id": 1, "image_id": 4, "category_id": 3, "segmentation": square}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    write(tmp_path / "images" / "a.png", np.zeros((1, 4, 3)))
    data = open_at(tmp_path, "images", "instances.json")
    _, frame = data.read_segments(0)
    merge = merge_table(data.taxonomy, taxonomy.get("cityscapes"))
    things = segment_map(frame, merge, taxonomy.get("cityscapes"))
    assert things.tolist() == [[255, 256 + CAR, 256 + CAR, 255]]
    write(tmp_path / "images" / "a.png", np.zeros((2, 4, 3)))
    with pytest.raises(TrainingError, match=r"instances.json: 4x1 pixels, but a.png has 4x2"):
        data.read(0)
    write(tmp_path / "images" / "b.png", np.zeros((1, 4, 3)))
    with pytest.raises(TrainingError, match=r"b.png has no label in .*instances.json"):
        open_at(tmp_path, "images", "instances.json")


def test_labels_in_colours(tmp_path):
    write(tmp_path / "images" / "a.png", np.zeros((1, 2, 3)))
    colours = [taxonomy.get("cityscapes").classes[i].colour[::-1] for i in (ROAD, CAR)]
    write(tmp_path / "labels" / "a.png", [colours])
    assert open_at(tmp_path, "images", "labels", taxonomy="cityscapes").read(0)[1].tolist() == [[ROAD, CAR]]
