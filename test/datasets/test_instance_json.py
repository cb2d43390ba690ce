"""Instances in COCO's format."""

import json
import math

import numpy as np
import pytest

from m2f_ros.datasets import FrameLabels, open_labels
from m2f_ros.errors import LabelError

CATEGORIES = [{"id": 5, "name": "crane"}, {"id": 9, "name": "truck"}]
IMAGES = [{"id": 1, "file_name": "yard/a.jpg", "height": 4, "width": 6}]
SQUARE = [[1, 1, 3, 1, 3, 3, 1, 3]]  # pixels 1 and 2 of rows 1 and 2


def annotation(segmentation, category=5, **more):
    return {"id": 7, "image_id": 1, "category_id": category, "segmentation": segmentation, "iscrowd": 0, **more}


def opened(tmp_path, annotations, spec=None, **more):
    content = {"images": IMAGES, "categories": CATEGORIES, "annotations": annotations, **more}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return open_labels(tmp_path / "instances.json", spec, "--truth", "mend it")


def read(tmp_path, annotations, spec=None, **more) -> FrameLabels:
    return opened(tmp_path, annotations, spec, **more).read(("yard", "a"))


def text_of(counts: list[int]) -> str:
    """COCO's text of run lengths, after rleToString of common/maskApi.c."""
    text = ""
    for i, count in enumerate(counts):
        x = count - counts[i - 2] if i > 2 else count
        while True:
            code, x = x & 0x1F, x >> 5
            more = x != -1 if code & 0x10 else x != 0
            text += chr((code | 0x20 if more else code) + 48)
            if not more:
                break
    return text


def test_polygons_and_both_kinds_of_run_lengths(tmp_path, caplog):
    runs = [4 * 3 + 1, 2, 2, 2, 5]  # column by column: rows 1 and 2 of columns 3 and 4
    for counts in (runs, text_of(runs)):
        found = read(tmp_path, [annotation(SQUARE), annotation({"size": [4, 6], "counts": counts}, 9)])
        assert found.labels.tolist() == [
            [255] * 6,
            [255, 0, 0, 1, 1, 255],
            [255, 0, 0, 1, 1, 255],
            [255] * 6,
        ]
        assert found.ids.tolist()[1] == [0, 1, 1, 2, 2, 0]
        assert [(s.id, s.train_id, s.crowd) for s in found.segments] == [(1, 0, False), (2, 1, False)]
    assert "pixels of no instance are unlabelled, for instances has no class 'background'" in caplog.text


def test_run_lengths_are_those_of_cocos_text():
    from m2f_ros.datasets.instance_json import _uncompressed

    generator = np.random.default_rng(0)
    for most in (3, 40, 5000):
        counts = generator.integers(0, most, 50).tolist()
        assert _uncompressed(text_of(counts)) == counts


def test_a_pixel_is_inside_where_its_centre_is(tmp_path):
    corners = [0.2, 0.7, 5.6, 1.1, 3.1, 3.9, 2.6, 2.2]
    labels = read(tmp_path, [annotation([corners])]).labels

    def inside(x, y):  # by the sum of the angles of the corners
        turn = 0.0
        for i in range(0, 8, 2):
            a, b = (math.atan2(corners[j % 8 + 1] - y, corners[j % 8] - x) for j in (i, i + 2))
            turn += (b - a + math.pi) % (2 * math.pi) - math.pi
        return abs(turn) > math.pi

    assert [[inside(x + 0.5, y + 0.5) for x in range(6)] for y in range(4)] == (labels == 0).tolist()
    # Beyond the image nothing is drawn, and a hole is where two polygons of one list do not reach.
    assert (read(tmp_path, [annotation([[-90, -90, 90, -90, 90, 90, -90, 90]])]).labels == 0).all()


def test_the_smaller_instance_is_on_top_and_a_crowd_below(tmp_path):
    large, small = [[0, 0, 6, 0, 6, 2, 0, 2]], [[1, 0, 3, 0, 3, 1, 1, 1]]
    crowd = annotation({"size": [4, 6], "counts": [0, 1, 23]}, 9, iscrowd=1)  # one pixel
    found = read(tmp_path, [annotation(small, 9), annotation(large), crowd])
    assert found.ids.tolist() == [[2, 1, 1, 2, 2, 2], [2] * 6, [0] * 6, [0] * 6]
    assert [s.id for s in found.segments] == [1, 2]  # the crowd is hidden
    found = read(tmp_path, [crowd])
    assert found.segments[0].crowd and found.labels[0, 0] == 1


def test_a_class_called_background_has_the_rest(tmp_path):
    (tmp_path / "yard.yaml").write_text(
        "classes: [{id: 0, name: background}, {id: 1, name: crane, thing: true}, {id: 2, name: lawn}]\n"
        "file_ids: {5: 1, 9: 2}\nignore: [3]\n"
    )
    spec = str(tmp_path / "yard.yaml")
    found = read(tmp_path, [annotation(SQUARE), annotation([[4, 0, 6, 0, 6, 4, 4, 4]], 9)], spec)
    assert found.labels.tolist()[1] == [0, 1, 1, 0, 2, 2]
    assert sorted((s.train_id, s.id > 1 << 16) for s in found.segments) == [(0, True), (1, False), (2, True)]
    assert read(tmp_path, [annotation(SQUARE, 3)], spec).labels[1, 1] == 255
    with pytest.raises(LabelError, match=r"instances.json: yard/a: category 4 is none of yard"):
        read(tmp_path, [annotation(SQUARE, 4)], spec)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segmentation": []}, "annotation 7 has no segmentation; a box alone is no label"),
        ({"segmentation": [[1, 1, 2, 2]]}, "annotation 7: a polygon is a list of x, y of three or more corners"),
        ({"segmentation": [[1, 1, 2, 2, "3", 3]]}, "annotation 7: a polygon is a list"),
        ({"segmentation": [[1, 1, 2, 2, 3e9, 3]]}, "annotation 7: a corner of its polygon is at 3e.09, far from"),
        ({"segmentation": {"size": [6, 4], "counts": [24]}}, r"annotation 7: .* for \[6, 4\], height and width, not"),
        (
            {"segmentation": {"size": [4, 6], "counts": [3, 4]}},
            "annotation 7: its run lengths come to 7 pixels, not",
        ),
        ({"segmentation": {"size": [4, 6], "counts": [25, -1]}}, "annotation 7: its run lengths are no whole numbers"),
        ({"segmentation": {"size": [4, 6], "counts": [9.5]}}, "annotation 7: its run lengths are no whole numbers"),
        ({"segmentation": {"size": [4, 6], "counts": "~"}}, "annotation 7: its run lengths are no text of COCO's"),
        ({"segmentation": {"size": [4, 6], "counts": "P"}}, "annotation 7: its run lengths are cut off"),
        ({"segmentation": {"size": [4, 6]}}, "annotation 7: its run lengths lack size or counts"),
        ({"segmentation": 3}, "not a JSON of COCO's instance format"),
        ({"image_id": 2}, "annotation 7 is of the image 2, which is none of its images"),
        ({"category_id": "crane"}, "not a JSON of COCO's instance format"),
        ({"category_id": 6}, "category 6 is none of instances"),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_line(tmp_path, change, message):
    with pytest.raises(LabelError, match=rf"instances\.json: .*{message}") as error:
        read(tmp_path, [annotation(SQUARE) | change])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "it names no images"),
        ([{**IMAGES[0], "height": 0}], "image 1 is said to have 6x0 pixels"),
        ([{**IMAGES[0], "width": 1 << 40}], "image 1 is said to have"),
        ([*IMAGES, {**IMAGES[0], "id": 2}], "two of its images have one id or name"),
        ([*IMAGES, {**IMAGES[0], "file_name": "b.jpg"}], "two of its images have one id or name"),
        ([{"id": 1}], "not a JSON of COCO's instance format"),
    ],
    ids=str,
)
def test_images_that_cannot_be_are_one_line(tmp_path, images, message):
    with pytest.raises(LabelError, match=message):
        opened(tmp_path, [], images=images)
