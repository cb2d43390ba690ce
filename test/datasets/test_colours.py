"""Label PNGs in colours."""

import json

import cv2
import numpy as np
import pytest

from m2f_ros import taxonomy
from m2f_ros.datasets import open_labels
from m2f_ros.errors import LabelError

CITYSCAPES = taxonomy.get("cityscapes")
ROAD, CAR, SKY = (CITYSCAPES.names.index(name) for name in ("road", "car", "sky"))


def write(path, colours, alpha=False):
    """colours: rows of (red, green, blue)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.array(colours, np.uint8)[..., ::-1]
    cv2.imwrite(str(path), np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)]) if alpha else picture)


def colour(index):
    return CITYSCAPES.classes[index].colour


@pytest.mark.parametrize("alpha", [False, True])
def test_colours_of_the_taxonomy(tmp_path, alpha):
    write(tmp_path / "a.png", [[colour(ROAD), colour(CAR)], [colour(SKY), colour(ROAD)]], alpha)
    labels = open_labels(tmp_path, "cityscapes", "--truth", "mend it")
    found = labels.read(("", "a"))
    assert found.labels.dtype == np.uint8 and found.labels.tolist() == [[ROAD, CAR], [SKY, ROAD]]
    # Predictions are of the classes of the ground truth.
    assert open_labels(tmp_path, None, "x", "mend it", CITYSCAPES).read(("", "a")).labels.tolist()[0] == [ROAD, CAR]


def test_a_colour_that_is_not_declared_is_an_error(tmp_path):
    write(tmp_path / "a.png", [[colour(ROAD), (1, 2, 3), (1, 2, 3), (0, 0, 1)]])
    labels = open_labels(tmp_path, "cityscapes", "--truth", "mend it")
    with pytest.raises(LabelError) as error:
        labels.read(("", "a"))
    assert str(error.value) == (
        f"{tmp_path}/a.png: holds the colour [1, 2, 3], [0, 0, 1], which is of no class of cityscapes; declare it in "
        f"{tmp_path}/colours.yaml, under classes: or ignore:"
    )
    (tmp_path / "colours.yaml").write_text(
        json.dumps({"classes": {"road": [colour(ROAD), [1, 2, 3]]}, "ignore": [[0, 0, 1]]})
    )
    labels = open_labels(tmp_path, "cityscapes", "--truth", "mend it")
    assert labels.read(("", "a")).labels.tolist() == [[ROAD, ROAD, ROAD, 255]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("classes: {road: [[1, 2, 3]], lawn: [[4, 5, 6]]}", "cityscapes has no class 'lawn'"),
        ("classes: {road: [[1, 2, 3]], car: [[1, 2, 3]]}", r"'car' and 'road' have one colour, \[1, 2, 3\]; say in"),
        ("classes: {road: [[1, 2, 3]]}\nignore: [[1, 2, 3]]", "'ignore' and 'road' have one colour"),
        ("classes: {road: [1, 2, 3]}", r"classes\.road\[0\]: expected a list"),
        ("classes: {road: [[1, 2, 300]]}", r"classes\.road\[0\]\[2\]: "),
        ("ignored: [[0, 0, 0]]", "ignored"),
        ("classes: [", "not valid YAML"),
    ],
)
def test_a_damaged_file_of_colours_is_one_line(tmp_path, content, message):
    write(tmp_path / "a.png", [[colour(ROAD)]])
    (tmp_path / "colours.yaml").write_text(content)
    with pytest.raises(LabelError, match=f"colours.yaml: .*{message}") as error:
        open_labels(tmp_path, "cityscapes", "--truth", "mend it")
    assert "\n" not in str(error.value)


def test_a_damaged_picture_and_ids_among_colours_are_errors(tmp_path):
    write(tmp_path / "a.png", [[colour(ROAD)]])
    write(tmp_path / "b.png", [[colour(ROAD)]])
    cv2.imwrite(str(tmp_path / "c.png"), np.zeros((2, 2), np.uint8))
    labels = open_labels(tmp_path, "cityscapes", "--truth", "mend it")
    with pytest.raises(LabelError, match=r"c\.png: no PNG of colours of 8 bits"):
        labels.read(("", "c"))
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:-5])
    with pytest.raises(LabelError, match=r"b\.png: damaged label file"):
        labels.read(("", "b"))
    with pytest.raises(LabelError, match=r"a\.png: holds colours, not class ids; name the taxonomy"):
        open_labels(tmp_path, None, "--truth", "mend it")
