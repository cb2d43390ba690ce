"""Samples: exact ids, the same for one (seed, counter), and one clear line for wrong files."""

import dataclasses
import re
import shutil

import cv2
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from m2f_ros import taxonomy
from m2f_ros.datasets.colours import KnownColours
from m2f_ros.errors import ConfigError, LabelError, TaxonomyError, TrainingError
from m2f_ros.training.augment import augment, crop
from m2f_ros.training.config import AugmentConfig, load_config
from m2f_ros.training.data import Samples, batches
from m2f_ros.training.sets import open_set

CAMVID_TO_CITYSCAPES = {
    0: 10,  # sky
    1: 2,  # building
    2: 5,  # pole
    3: 0,  # road
    4: 1,  # pavement: sidewalk
    5: 8,  # tree: vegetation
    6: 7,  # sign: traffic sign
    7: 4,  # fence
    8: 13,  # car
    9: 11,  # pedestrian: person
    10: 12,  # bicyclist: rider
    11: 255,  # void
}


def test_camvid_ids_become_cityscapes_train_ids(folder, config_file):
    ids = np.tile(np.repeat(np.arange(12, dtype=np.uint8), 8), (80, 1))
    shutil.rmtree(folder / "labels")
    (folder / "labels").mkdir()
    for image in (folder / "images").iterdir():
        cv2.imwrite(str(folder / "labels" / f"{image.stem}.png"), ids)
    samples = Samples(load_config(config_file))
    label = samples.merges[0][samples.sets[0].read(0)[1]]
    assert label.dtype == np.uint8
    assert np.array_equal(label, np.vectorize(CAMVID_TO_CITYSCAPES.get)(ids))


def test_a_sample_depends_on_seed_and_counter_alone(config_file):
    config = load_config(config_file)
    first, second = Samples(config), Samples(config)
    forwards = [first[i] for i in range(8)]
    backwards = [second[i] for i in reversed(range(8))][::-1]
    for one, other in zip(forwards, backwards, strict=True):
        assert np.array_equal(one[0], other[0])
        assert np.array_equal(one[1], other[1])
        assert one[2] == other[2]
    assert len({image.tobytes() for image, _, _ in forwards}) == 8
    elsewhere = Samples(dataclasses.replace(config, seed=1))
    assert not np.array_equal(elsewhere[0][0], forwards[0][0])


@pytest.mark.process
def test_batches_are_the_same_from_any_number_of_workers_and_any_start(config_with_worker):
    config = load_config(config_with_worker)
    alone = dataclasses.replace(config, data=dataclasses.replace(config.data, workers=0))
    expected = list(batches(Samples(alone), 0))
    late = list(batches(Samples(config), 7))
    assert (len(expected), len(late)) == (10, 3)
    for one, other in zip(expected[7:], late, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert one.files == other.files


def test_crops_of_the_cool_down(settings, config_file):
    """Ten steps of two: the last three have other crops, the ones before are as without."""
    settings["schedule"]["cool_down"] = 3
    plain = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "gamma": 0, "blur": 0, "noise": 0, "jpeg": 0}
    settings["augment"] |= plain | {"flip": 0}
    config_file.write_text(yaml.safe_dump(settings))
    before = Samples(load_config(config_file))
    settings["augment"]["cool_down"] = {"crop": [96, 96], "scale": [1.0, 1.0]}
    config_file.write_text(yaml.safe_dump(settings))
    samples = Samples(load_config(config_file))
    for i in range(14):
        assert np.array_equal(samples[i][0], before[i][0])
    for i in range(14, 20):
        image, label, file = samples[i]
        assert (image.shape, label.shape, file) == ((96, 96, 3), (96, 96), before[i][2])
        # 80 rows of the image at its own scale; the others lie outside.
        assert ((image == 127).all((1, 2)) & (label == 255).all(1)).sum() == 16


def test_weights_share_out_the_samples(settings, folder, config_file):
    part = settings["data"]["train"][0]
    first, rest = part | {"only": ["00"], "weight": 3}, part | {"exclude": ["00"], "name": "rest"}
    settings["data"]["train"] = [first, rest]
    config_file.write_text(yaml.safe_dump(settings))
    samples = Samples(load_config(config_file))
    assert [len(part) for part in samples.sets] == [1, 5]
    often = sum(samples[i][2] == "00.png" for i in range(200))
    assert 130 < often < 170  # 150 are expected; 20 is more than three standard deviations


SHAPES_ONLY = AugmentConfig(
    brightness=0, contrast=0, saturation=0, hue=0, gamma=0, blur=0, noise=0, jpeg=0, scale=(1, 1)
)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 150), st.integers(1, 150), st.floats(0.3, 3))
def test_crops_keep_image_and_label_together(seed, height, width, scale):
    rng = np.random.default_rng(seed)
    label = cv2.resize(rng.integers(0, 5, (4, 4)).astype(np.uint8), (width, height), interpolation=0)
    label[:2] = 255
    image = np.stack([np.where(label == 255, 127, label * 20)] * 3, -1).astype(np.uint8)
    config = dataclasses.replace(SHAPES_ONLY, crop=(64, 96))
    cut, ids = augment(image, label, config, 255, np.random.default_rng(seed))
    assert cut.shape == (96, 64, 3)
    assert ids.shape == (96, 64)
    # HSV and back moves a grey level by nothing.
    assert np.array_equal(cut[..., 0], np.where(ids == 255, 127, ids * 20))
    full = dataclasses.replace(AugmentConfig(), crop=(64, 96), scale=(scale, scale))
    cut, ids = augment(image, label, full, 255, np.random.default_rng(seed))
    assert (cut.shape, cut.dtype, ids.shape) == ((96, 64, 3), np.uint8, (96, 64))
    assert set(np.unique(ids)) <= {*np.unique(label), 255}


def test_rare_classes_are_looked_for():
    label = np.zeros((400, 400), np.uint8)
    label[200, 300] = 4
    image = np.zeros((400, 400, 3), np.uint8)

    def share(chance: float) -> float:
        config = dataclasses.replace(SHAPES_ONLY, crop=(32, 32), rare_class=chance)
        rng = np.random.default_rng(0)
        return np.mean([(crop(image, label, config, 255, rng)[1] == 4).any() for _ in range(300)])

    assert share(0) < 0.05
    assert 0.4 < share(1) < 0.6  # one of the two classes present


def test_large_scale_jitter_fits_the_image_into_the_crop_and_scales_it():
    label, image = np.zeros((100, 200), np.uint8), np.zeros((100, 200, 3), np.uint8)
    config = dataclasses.replace(SHAPES_ONLY, crop=(64, 64), large_scale_jitter=True)
    half = dataclasses.replace(config, scale=(0.5, 0.5))
    for seed in range(5):
        _, ids = crop(image, label, half, 255, np.random.default_rng(seed))
        rows, columns = np.nonzero(ids == 0)
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (16, 32)
    wide = dataclasses.replace(config, scale=(0.1, 2.0))
    rng = np.random.default_rng(0)
    shares = [np.mean(crop(image, label, wide, 255, rng)[1] == 0) for _ in range(300)]
    # At scale 1 the image has half of the crop; scales are drawn uniformly, 0.9 of 1.9 below that.
    assert np.mean(np.array(shares) < 0.5) == pytest.approx(0.9 / 1.9, abs=0.06)
    assert max(shares) == 1


def test_crops_of_nearly_one_class_are_drawn_again():
    label = np.zeros((200, 200), np.uint8)
    label[:, 100:] = 1
    label[:50] = 255
    image = np.zeros((200, 200, 3), np.uint8)

    def one_sided(limit: float) -> float:
        config = dataclasses.replace(SHAPES_ONLY, crop=(64, 64), rare_class=0, single_category_max_area=limit)
        rng = np.random.default_rng(0)
        crops = [crop(image, label, config, 255, rng)[1] for _ in range(200)]
        zeros, ones = (np.array([(ids == c).sum() for ids in crops]) for c in (0, 1))
        return np.mean(np.maximum(zeros, ones) >= 0.75 * (zeros + ones))

    # One crop in eight is of both: none of ten with chance 0.27.
    assert one_sided(1) > 0.8
    assert one_sided(0.75) < 0.35


def test_wrong_files_are_named_in_one_line(folder, config_file):
    def read_all():
        data = open_set(load_config(config_file).data.train[0])
        for index in range(len(data)):
            data.read(index)

    label = folder / "labels" / "03.png"
    good = label.read_bytes()
    ids = cv2.imread(str(label), cv2.IMREAD_UNCHANGED)

    ids[5, 5] = 77
    cv2.imwrite(str(label), ids)
    with pytest.raises(LabelError, match=r"03\.png: holds the id 77, which camvid has not; set the right taxonomy"):
        read_all()
    ids[5, 5] = 0
    cv2.imwrite(str(label), ids[:70])
    with pytest.raises(TrainingError, match=r"03\.png: 96x70 pixels, but 03\.png has 96x80; image and"):
        read_all()
    cv2.imwrite(str(label), np.stack([ids] * 3, -1))
    with pytest.raises(LabelError, match=r"03\.png: holds colours, not class ids; labels are PNGs with one channel"):
        read_all()
    label.unlink()
    with pytest.raises(TrainingError, match=r"images/03\.png has no label in .*labels; label or remove it"):
        read_all()
    label.write_bytes(good)
    (folder / "images" / "03.png").write_bytes(good[:40])
    with pytest.raises(TrainingError, match=r"images/03\.png: not readable as an image: PNG is cut off"):
        read_all()


@pytest.mark.process
def test_an_error_in_a_worker_is_the_same_one_line(folder, config_with_worker):
    for label in (folder / "labels").iterdir():
        cv2.imwrite(str(label), np.full((80, 96), [[0] * 95 + [12]], np.uint8))
    with pytest.raises(LabelError, match="holds the id 12, which camvid has not") as caught:
        next(batches(Samples(load_config(config_with_worker)), 0))
    assert "\n" not in str(caught.value)


def test_missing_folders_and_taxonomies(settings, config_file, tmp_path):
    part = settings["data"]["train"][0]
    with pytest.raises(TrainingError, match=r"'tiny': images folder /nowhere/images does not exist; .*--data"):
        open_set(load_config(config_file, data_root="/nowhere").data.train[0])
    settings["data"]["train"] = [part | {"only": ["99"]}]
    config_file.write_text(yaml.safe_dump(settings))
    with pytest.raises(TrainingError, match="no images in"):
        Samples(load_config(config_file))
    settings["data"]["train"] = [part | {"taxonomy": "camvdi"}]
    config_file.write_text(yaml.safe_dump(settings))
    with pytest.raises(TaxonomyError, match="unknown taxonomy 'camvdi'"):
        Samples(load_config(config_file))


DRAWN = {"name": "drawn", "street": {}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sed": 1}, r"run.yaml: unknown key 'sed'; known are .*seed.* \(meant: seed\?\)$"),
        ({"schedule": {"steps": "many"}}, "run.yaml: schedule.steps: expected a whole number, found 'many'"),
        ({"schedule": {"steps": True}}, "schedule.steps: expected a whole number, found true"),
        ({"schedule": {"steps": 0}}, "schedule.steps: expected a whole number at least 1, found 0"),
        ({"augment": {"crop": [64]}}, r"augment.crop: expected a list of 2 entries, found \[64\]"),
        ({"augment": {"crop": [64, 65]}}, r"augment.crop must be multiples of 32 above 0, found \[64, 65\]$"),
        ({"augment": {"crop": [0, 0]}}, r"augment.crop must be multiples of 32 above 0, found \[0, 0\]$"),
        (
            {"augment": {"cool_down": {"crop": [96, 65], "scale": [1, 1]}}, "schedule": {"cool_down": 1}},
            "augment.cool_down.crop must be multiples of 32",
        ),
        ({"augment": {"cool_down": {"crop": [96, 64], "scale": [1, 1]}}}, "augment.cool_down needs schedule.cool_down"),
        (
            {"augment": {"single_category_max_area": 0}},
            "augment.single_category_max_area: expected a number above 0, found 0",
        ),
        ({"loss": {"pixel": {}}}, "loss.pixel must name a loss"),
        (
            {"loss": {"class_weights": [1, 2]}},
            "loss.class_weights must have 19 entries, one for each class, found 2",
        ),
        (
            {"loss": {"pixel": {"dice": 1}, "class_weights": [1] * 19}},
            "loss.class_weights belongs into loss.pixel here, found 19",
        ),
        (
            {"loss": {"pixel": {"dice": 1, "class_weights": [1, 2]}}},
            "loss.pixel.class_weights must have 19 entries, one for each class of cityscapes",
        ),
        (
            {"data": {"train": [{"name": "a", "images": "b"}]}},
            r"data.train\[0\] must name images and labels, or street, found \{\"images\": \"b\"\}$",
        ),
        (
            {"data": {"train": [{"name": "a", "street": {"seeds": [3, 2]}}]}},
            r"run.yaml: data.train\[0\].street.seeds must be first and last, from 0, found \[3, 2\]$",
        ),
        (
            {"data": {"train": [DRAWN], "evaluate": [DRAWN, DRAWN]}},
            "run.yaml: data.evaluate must give each set a name of its own",
        ),
        (
            {"data": {"train": [DRAWN], "taxonomy": "nope"}},
            "run.yaml: data.taxonomy: unknown taxonomy 'nope': give one of",
        ),
        ({"data": {}}, "run.yaml: data: key 'train' is missing$"),
        ({"schedule": {"decay": "step"}}, "schedule.milestones must be rising steps, and there for decay: step alone"),
        ({"schedule": {"decay": "step", "milestones": [5, 5]}}, "schedule.milestones must be rising steps"),
        (
            {"schedule": {"batch": 4, "accumulate": 3}},
            r"schedule.accumulate must divide schedule.batch \(4\), found 3$",
        ),
        ({"model": {"freeze": "head"}}, "model.freeze: expected none, backbone or all_but_class_layer, found 'head'"),
        ({"precision": "fp8"}, "run.yaml: precision: expected fp32, bf16 or fp16, found 'fp8'"),
        ({"loss": 3}, r"run.yaml: loss: expected keys and values \(class_weight, .*\), found 3"),
        ({"schedule": {"rate": float("inf")}}, "schedule.rate: expected a number, found Infinity"),
        ({"schedule": {"rate": "5e-4x"}}, "schedule.rate: expected a number, found '5e-4x'"),
        ({"data": {"train": []}}, r"data.train: expected a list of at least 1 entries, found \[\]"),
        ({"data": {"train": [{"name": "a", "image": "b"}]}}, r"data.train\[0\]: unknown key 'image'.*meant: images"),
        ({"best_by": "pq"}, "best_by must be miou or accuracy; pq needs data.panoptic"),
    ],
)
def test_wrong_configs_are_named_in_one_line(settings, config_file, change, message):
    config_file.write_text(yaml.safe_dump(settings | change))
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(config_file)
    assert "\n" not in str(caught.value)


def test_the_street_config_is_read(request):
    config = load_config(request.config.rootpath / "config" / "train_street.yaml", data_root="/data")
    assert config.data.train[0].images == "/data/camvid/train"
    assert config.data.train[1].images == str(request.config.rootpath / "out" / "street" / "train" / "images")
    assert config.schedule.rate == pytest.approx(5e-4)
    assert taxonomy.get(config.data.train[1].taxonomy).file_table()[18] == 18


def test_the_street_configs_differ_in_the_drive_held_out_and_in_their_end(request):
    folder = request.config.rootpath / "config"
    ships, held_out = (load_config(folder / f"train_street{name}.yaml", "/data") for name in ("", "_held_out"))
    drive, *others = held_out.data.evaluate
    assert (drive.only, tuple(others)) == (held_out.data.train[0].exclude, ships.data.evaluate)
    assert drive.only == ("0006R0",)
    camvid = dataclasses.replace(held_out.data.train[0], exclude=())
    assert dataclasses.replace(drive, name="camvid", only=()) == camvid
    data = dataclasses.replace(held_out.data, train=(camvid, *held_out.data.train[1:]), evaluate=ships.data.evaluate)
    assert (held_out.schedule.stop, held_out.schedule.cool_down) == (6000, 600)
    schedule = dataclasses.replace(held_out.schedule, stop=ships.schedule.stop, cool_down=ships.schedule.cool_down)
    # No step depends on the size of whole images.
    sizes = {"min_pixels": ships.model.min_pixels, "max_pixels": ships.model.max_pixels}
    model = dataclasses.replace(held_out.model, **sizes)
    same = {"model": model, "data": data, "schedule": schedule, "evaluate_every": ships.evaluate_every}
    assert dataclasses.replace(held_out, **same) == ships


def test_the_configs_in_the_docs_are_read(request, tmp_path):
    text = (request.config.rootpath / "docs" / "datasets.md").read_text()
    *configs, own = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (colours,) = (block for block in configs if block.startswith("classes:"))
    (tmp_path / "colours.yaml").write_text(colours)
    KnownColours(taxonomy.get("cityscapes"), tmp_path)
    configs.remove(colours)
    assert len(configs) == 6
    for block in configs:
        (tmp_path / "run.yaml").write_text(block)
        assert load_config(tmp_path / "run.yaml").data.train
    (tmp_path / "yard.yaml").write_text(own)
    assert taxonomy.get(tmp_path / "yard.yaml").ignore == (128,)
