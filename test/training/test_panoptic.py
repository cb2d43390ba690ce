"""Panoptic training: a run on drawn streets, and its score."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from m2f_ros import taxonomy
from m2f_ros.cli import m2f
from m2f_ros.datasets import FrameLabels
from m2f_ros.frame.segment import Segment
from m2f_ros.training.config import load_config
from m2f_ros.training.evaluate import evaluate_panoptic

CITYSCAPES = taxonomy.get("cityscapes")
ROAD, CAR = 0, 13


def test_a_run_on_drawn_streets(settings, tmp_path):
    street = {"seeds": [3, 4], "frames": 2, "every": 1, "size": [96, 64]}
    part = {"name": "street", "street": street}
    settings["data"] = {"panoptic": True, "workers": 0, "train": [part], "evaluate": [part]}
    settings["schedule"]["steps"] = 2
    path = tmp_path / "street.yaml"
    path.write_text(yaml.safe_dump(settings))
    done = CliRunner().invoke(m2f, ["train", str(path), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    entries = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [np.isfinite(entry["loss"]) for entry in entries if "loss" in entry] == [True, True]
    scores = entries[-1]["scores"]["street"]
    assert scores.keys() >= {"miou", "pq", "sq", "rq", "pq_of"}
    assert scores["pq_of"].keys() == set(CITYSCAPES.names)


class Model:
    """Finds the masks that it is given, each a query of its class, whatever it sees."""

    config = SimpleNamespace(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), min_pixels=None, max_pixels=None, resize=None)

    def __init__(self, classes: list[int], masks: list[np.ndarray]):
        self.class_logits = torch.full((1, len(classes), 20), -20.0)
        self.class_logits[0, range(len(classes)), classes] = 20.0
        self.mask_logits = 40 * torch.from_numpy(np.stack(masks)).float()[None] - 20

    def eval(self):
        return self

    def __call__(self, pixels):
        return SimpleNamespace(class_logits=self.class_logits, mask_logits=self.mask_logits)


def test_panoptic_quality_by_hand():
    left, right = np.zeros((2, 64, 64), bool)
    left[:32, :32], right[:32, 32:] = True, True
    road = ~left & ~right
    labels = np.where(road, ROAD, CAR).astype(np.uint8)
    ids = np.select([left, right], [1, 2], 3)
    truth = FrameLabels(labels, ids, [Segment(1, CAR), Segment(2, CAR), Segment(3, ROAD)])
    frames = [truth, FrameLabels(labels)]  # of the second it is not known

    class Data:
        taxonomy = CITYSCAPES

        def __len__(self):
            return len(frames)

        def read_segments(self, index):
            return np.zeros((64, 64, 3), np.uint8), frames[index]

    def score(classes, masks):
        return evaluate_panoptic(Model(classes, masks), Data(), CITYSCAPES, torch.device("cpu"))

    apart = score([CAR, CAR, ROAD], [left, right, road])
    assert (apart["pq"], apart["sq"], apart["rq"]) == (1, 1, 1)
    assert {name: v for name, v in apart["pq_of"].items() if v is not None} == {"road": 1, "car": 1}
    # Both cars as one: it overlaps each by half of the union, which is no match.
    assert score([CAR, ROAD], [left | right, road])["pq_of"]["car"] == 0
    # One car of two: one match, one false negative.
    assert score([CAR, ROAD], [left, road])["pq_of"]["car"] == pytest.approx(2 / 3, abs=1e-4)


def test_the_panoptic_config_is_read(request):
    config = load_config(request.config.rootpath / "config" / "train_panoptic.yaml")
    assert config.data.panoptic
    assert config.data.train[0].labels == str(request.config.rootpath / "out" / "street" / "train" / "labels")
