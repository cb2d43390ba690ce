"""TensorBoard beside the log: scalars, pictures, and steps that are done again."""

import json

import cv2
import numpy as np
import pytest
import torch
import yaml

from m2f_ros import taxonomy
from m2f_ros.errors import TrainingError
from m2f_ros.training import loop
from m2f_ros.training.config import load_config
from m2f_ros.training.evaluate import pictures
from m2f_ros.training.log import Log
from m2f_ros.training.sets import evaluation_sets


def test_scalars_and_pictures(config_file, settings, folder, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings["schedule"] |= {"steps": 2}
    config_file.write_text(yaml.safe_dump(settings | {"tensorboard": True}))
    assert loop.train(load_config(config_file), tmp_path / "out", progress=False)
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload()
    entries = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    losses = [(e["step"], e["loss"]) for e in entries if "loss" in e]
    assert [(e.step, e.value) for e in events.Scalars("training/loss")] == [
        (step, pytest.approx(loss)) for step, loss in losses
    ]
    (score,) = events.Scalars("tiny/miou")
    assert (score.step, score.value) == (2, pytest.approx(entries[-1]["scores"]["tiny"]["miou"]))
    (image,) = events.Images("tiny/0")
    shown = cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (80, 3 * 96, 3)


def test_a_picture_is_image_prediction_and_truth(config_file, folder):
    config = load_config(config_file)
    torch.manual_seed(0)
    model = loop.build_network(config.model, "cityscapes")
    (only,) = evaluation_sets(config.data)
    (picture,) = pictures(model, only, taxonomy.get("cityscapes"), torch.device("cpu"))
    image, truth = only.read(0)
    assert np.array_equal(picture[:, :96], image)
    colours = taxonomy.get("camvid").palette()
    assert np.array_equal(picture[:, 192:], colours[truth])
    assert {tuple(c) for c in picture[:, 96:192].reshape(-1, 3)} <= {tuple(c) for c in colours}


def test_steps_that_are_done_again_are_dropped(tmp_path):
    log = Log(tmp_path, 0, tensorboard=False)
    for step in range(1, 4):
        log.losses({"step": step, "loss": float("inf") if step == 1 else 0.5})
    with open(log.path, "a") as file:
        file.write('{"step": 2, "lo')  # a machine that stopped
    Log(tmp_path, 2, tensorboard=False).losses({"step": 3, "loss": 0.25})
    lines = log.path.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "loss": None},
        {"step": 2, "loss": 0.5},
        {"step": 3, "loss": 0.25},
    ]


def test_tensorboard_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(TrainingError, match="tensorboard: true needs a package: pip install"):
        Log(tmp_path, 0, tensorboard=True)
