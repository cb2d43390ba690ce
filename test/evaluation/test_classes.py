"""Which classes are scored, and the way there."""

import numpy as np
import pytest

from m2f_ros import taxonomy
from m2f_ros.errors import EvaluationError, TaxonomyError
from m2f_ros.evaluation.classes import choose
from m2f_ros.frame.segment import Segment

CITYSCAPES, CAMVID, MAPILLARY = (taxonomy.get(name) for name in ("cityscapes", "camvid", "mapillary"))


def id_of(of, name):
    return of.names.index(name)


def test_predictions_go_into_the_classes_of_the_truth():
    classes = choose(CAMVID, CITYSCAPES)
    assert classes.taxonomy is CAMVID
    labels = np.array([[id_of(CITYSCAPES, "terrain"), id_of(CITYSCAPES, "bus"), 255]], np.uint8)
    mapped = classes.prediction.labels(labels)
    assert mapped.tolist() == [[id_of(CAMVID, "tree"), id_of(CAMVID, "car"), 255]]
    assert classes.truth.labels(np.arange(11, dtype=np.uint8)).tolist() == list(range(11))


def test_truth_goes_into_the_classes_of_the_predictions_where_only_it_says_how():
    classes = choose(MAPILLARY, CITYSCAPES)
    assert classes.taxonomy is CITYSCAPES
    rail, bird = id_of(MAPILLARY, "on rails"), id_of(MAPILLARY, "bird")
    assert classes.truth.labels(np.array([[rail, bird]], np.uint8)).tolist() == [[id_of(CITYSCAPES, "train"), 255]]


def test_another_taxonomy_can_be_asked_for():
    classes = choose(CITYSCAPES, CITYSCAPES, "camvid")
    assert classes.taxonomy is CAMVID
    assert classes.truth.table[id_of(CITYSCAPES, "wall")] == id_of(CAMVID, "fence")


def test_a_map_makes_new_classes_of_both_sides(tmp_path):
    path = tmp_path / "coarse.yaml"
    path.write_text("classes:\n  ground: [road, sidewalk, pavement]\n  vehicle: [car, bus]\n")
    classes = choose(CAMVID, CITYSCAPES, str(path))
    assert classes.taxonomy.name == "coarse"
    assert [(c.name, c.thing) for c in classes.taxonomy.classes] == [("ground", False), ("vehicle", True)]
    assert classes.truth.table[[id_of(CAMVID, n) for n in ("pavement", "car", "sky")]].tolist() == [0, 1, 255]
    assert classes.prediction.table[[id_of(CITYSCAPES, n) for n in ("sidewalk", "bus", "sky")]].tolist() == [0, 1, 255]
    segments = [Segment(7, id_of(CITYSCAPES, "bus"), crowd=True), Segment(8, id_of(CITYSCAPES, "sky"))]
    assert classes.prediction.segments(segments) == [Segment(7, 1, crowd=True), Segment(8, 255)]
    assert classes.prediction.segments([Segment(9, 65535)]) == [Segment(9, 255)]  # of no class in its legend


def test_classes_that_cannot_be_predicted_are_known():
    assert choose(CAMVID, CITYSCAPES).unpredicted == []
    coco = taxonomy.get("coco_panoptic")
    unpredicted = choose(coco, CITYSCAPES).unpredicted
    assert "banana" in unpredicted and not {"car", "bus"} & set(unpredicted)


def test_two_sides_without_a_class_in_common_are_refused():
    roads, skies = (taxonomy.from_names(name, names) for name, names in (("R", ["road"]), ("S", ["sky"])))
    with pytest.raises(EvaluationError, match=r"^not comparable: no class of S, .* \(R\), scored in camvid; give"):
        choose(roads, skies, "camvid")


@pytest.mark.parametrize(
    "text, fault",
    [
        ("classes: {ground: [roda]}", "classes.ground: neither camvid nor cityscapes has a class 'roda'"),
        ("classes: {a: [road], b: road}", "'road' is in two classes, a and b"),
        ("classes: {a: 3}", "classes.a: expected a list of class names, found 3"),
        ("classes: {a: [bus]}", "no class in it is one of camvid, that of the ground truth"),
        ("classes: {}", "classes: there are none"),
    ],
)
def test_a_map_that_is_none_is_refused(tmp_path, text, fault):
    path = tmp_path / "map.yaml"
    path.write_text(text)
    with pytest.raises(TaxonomyError) as caught:
        choose(CAMVID, CITYSCAPES, str(path))
    assert str(caught.value).startswith(f"{path}: {fault}")
