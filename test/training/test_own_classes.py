"""Classes of one's own, from training to the model card: the checkpoint carries them."""

import json
import re

import cv2
import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from m2f_ros import taxonomy
from m2f_ros.cli import m2f

# Called as a taxonomy that is built in, of which it has nothing else.
YARD = """
name: camvid
classes:
  - {id: 0, name: stack of boxes, colour: [10, 20, 30]}
  - {id: 1, name: yard ground, colour: [40, 50, 60]}
  - {id: 2, name: forklift, colour: [200, 100, 0], thing: true}
file_ids: {10: 0, 20: 1, 30: 2}
"""
NAMES = ("stack of boxes", "yard ground", "forklift")


def run(*arguments) -> str:
    done = CliRunner().invoke(m2f, list(map(str, arguments)))
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


@pytest.fixture
def trained(settings, tmp_path):
    """A folder with a set, yard.yaml, and run/model, trained for two steps."""
    path = tmp_path / "yard"
    for name in ("images", "labels"):
        (path / "set" / name).mkdir(parents=True)
    for i in range(4):
        label = np.full((64, 96), 10, np.uint8)
        label[32:] = 20
        label[40:56, 20 * i : 20 * i + 16] = 30
        cv2.imwrite(str(path / "set" / "images" / f"{i}.png"), np.stack([label * 8] * 3, -1))
        cv2.imwrite(str(path / "set" / "labels" / f"{i}.png"), label)
    (path / "yard.yaml").write_text(YARD)
    part = {"name": "yard", "images": "set/images", "labels": "set/labels", "taxonomy": "yard.yaml"}
    settings["data"] = {"taxonomy": "yard.yaml", "workers": 0, "train": [part], "evaluate": [part]}
    settings["schedule"]["steps"] = 2
    (path / "run.yaml").write_text(yaml.safe_dump(settings))
    run("train", path / "run.yaml", "--out", path / "run")
    return path


@pytest.mark.heavy
def test_from_training_to_the_card(trained, tmp_path):
    data, model = trained / "set", trained / "run" / "model"
    drive, predicted, report = tmp_path / "drive", tmp_path / "predicted", tmp_path / "report"
    run("bag", data / "images", "--labels", data / "labels", "--taxonomy", trained / "yard.yaml", "--out", drive)
    run("replay", drive, "--model", model, "--out", predicted, "--device", "cpu", "--backend", "eager", "--png")
    own = taxonomy.get(trained / "yard.yaml")
    assert taxonomy.get(predicted / "labels" / "taxonomy.yaml") == own.with_train_ids()

    output = run("eval", predicted, "--truth", drive, "--out", report)
    assert all(re.search(rf"^ +{name} +\d\.\d+$", output, re.MULTILINE) for name in NAMES)
    classes = json.loads((report / "result.json").read_text())["taxonomy"]["classes"]
    assert [(c["name"], c["color"], c["thing"]) for c in classes] == [
        (c.name, list(c.colour), c.thing) for c in own.classes
    ]

    card = tmp_path / "CARD.md"
    run("card", model, "--evaluation", report, "--pictures", 0, "--out", card)
    assert "| classes | 3, camvid: stack of boxes, yard ground, forklift |" in card.read_text()


@pytest.mark.heavy
def test_fine_tuning_for_the_same_classes_keeps_the_class_layer(trained, tmp_path):
    config = yaml.safe_load((trained / "run.yaml").read_text())
    config["model"] = {"weights": str(trained / "run" / "model")}
    path = trained / "again.yaml"
    path.write_text(yaml.safe_dump(config))
    assert "starts anew" not in run("train", path, "--out", tmp_path / "again")
    carried = json.loads((tmp_path / "again" / "model" / "config.json").read_text())["taxonomy"]
    assert (carried["name"], carried["file_ids"]) == ("camvid", {"10": 0, "20": 1, "30": 2})
