"""Data that cannot be trained on or scored on, or of which a part is missing: it is said before the first step."""

import cv2
import numpy as np
import pytest
import yaml

from m2f_ros.errors import M2fError
from m2f_ros.results import MARK
from m2f_ros.training import check, loop
from m2f_ros.training.check import check_data
from m2f_ros.training.config import load_config
from m2f_ros.training.data import Samples
from m2f_ros.training.distributed import Group
from m2f_ros.training.sets import evaluation_sets

NAMES = ("ground", "box", "forklift", "crane")


@pytest.fixture
def looked_at(settings, folder):
    """looked_at(labels to train on, labels to score on, more of the taxonomy's YAML) -> the lines said.

    Each label is the ids of an image of one row; they are of the taxonomy own.yaml, whose classes are called NAMES.
    """

    def look(train, evaluate, more="", changed=None):
        rows = "".join(f"  - {{id: {i}, name: {name}}}\n" for i, name in enumerate(NAMES))
        (folder / "own.yaml").write_text(f"classes:\n{rows}{more}")
        parts = []
        for name, labels in (("train", train), ("val", evaluate)):
            for kind in ("images", "labels"):
                (folder / name / kind).mkdir(parents=True, exist_ok=True)
            for i, ids in enumerate(labels):
                cv2.imwrite(str(folder / name / "images" / f"{i}.png"), np.zeros((1, len(ids), 3), np.uint8))
                cv2.imwrite(str(folder / name / "labels" / f"{i}.png"), np.array([ids], np.uint8))
            places = {kind: f"{name}/{kind}" for kind in ("images", "labels")}
            parts.append({"name": name, "taxonomy": "set/own.yaml", **places})
        settings["data"] |= {"taxonomy": "set/own.yaml", "train": parts[:1], "evaluate": parts[1:], "workers": 0}
        settings["data"] |= changed or {}
        path = folder.parent / "run.yaml"
        path.write_text(yaml.safe_dump(settings))
        config, lines = load_config(path), []
        check_data(Samples(config), evaluation_sets(config.data), Group(), False, lines.append)
        return lines

    return look


ALL = [[0, 1], [2, 3]]


def test_nothing_is_said_where_all_classes_occur(looked_at):
    assert looked_at(ALL, ALL) == []


def test_classes_that_never_occur(looked_at, monkeypatch):
    assert looked_at([[0, 1], [3, 3]], [[0, 0], [2, 1]]) == [
        "1 of the 4 classes never occur in the labels to train on: forklift",
        "data set 'val': 1 of its 4 classes never occur, of which its scores say nothing: crane",
    ]
    monkeypatch.setattr(check, "LOOKED_AT", 2)
    assert looked_at([[0, 1], [2, 2], [3, 3]], ALL) == [
        "1 of the 4 classes never occur in 2 of the 3 labels to train on: forklift"
    ]


def test_all_of_one_class(looked_at):
    assert looked_at([[1, 1]], [[255, 3]], "ignore: [255]\n") == [
        "data set 'train': all that is labelled in it is 'box'",
        "3 of the 4 classes never occur in the labels to train on: ground, forklift, crane",
        "data set 'val': all that is labelled in it is 'crane'",
        "data set 'val': 3 of its 4 classes never occur, of which its scores say nothing: ground, box, forklift",
    ]


def test_classes_of_a_set_that_the_model_cannot_give(looked_at, folder):
    (folder / "model.yaml").write_text("classes: [{id: 0, name: ground}, {id: 1, name: crane}]")
    assert looked_at(ALL, ALL, changed={"taxonomy": "set/model.yaml"}) == [
        "data set 'train': the model has no class for box, forklift: unlabelled to it",
        "data set 'val': the model has no class for box, forklift, and is wrong wherever it is",
    ]


@pytest.mark.parametrize("place", ["train", "val"])
@pytest.mark.parametrize(
    ("ids", "more", "message"),
    [
        (
            [1, 4],
            "",
            "holds the id 4, which own has not; set the right taxonomy for data set '{place}', give",
        ),
        (
            [0, 255],
            "",
            "holds the id 255, which own has not; .* class there under file_ids:, or, .* under ignore:",
        ),
        ([9, 255], "ignore: [9, 255]\n", "data set '{place}': nothing in it is labelled as a class of own; is its"),
    ],
)
def test_ids_that_mean_nothing_are_refused(looked_at, place, ids, more, message):
    with pytest.raises(M2fError, match=message.format(place=place)):
        looked_at(*([[*ids]] if name == place else ALL for name in ("train", "val")), more)


def test_what_is_wrong_with_a_set_to_score_on_is_said_before_the_first_step(config_file, folder, tmp_path):
    cv2.imwrite(str(folder / "labels" / "00.png"), np.zeros((80, 95), np.uint8))
    with pytest.raises(M2fError, match=r"00\.png: 95x80 pixels, but 00\.png has 96x80"):
        loop.train(load_config(config_file), tmp_path / "out", progress=False)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [MARK]
