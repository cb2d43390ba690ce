"""Calibrations: files read whole or refused with the field that is wrong; fitted to outputs, a point in space falls on
the same spot of the picture."""

from dataclasses import replace

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from m2f_ros.errors import SourceError
from m2f_ros.frame.calibration import Calibration, Region, image_size, read_calibration, trouble

WHOLE = {
    "image_width": 640,
    "image_height": 480,
    "camera_name": "narrow_stereo",
    "camera_matrix": {"rows": 3, "cols": 3, "data": [430.2, 0, 306.7, 0, 430.5, 227.2, 0, 0, 1]},
    "distortion_model": "rational_polynomial",
    "distortion_coefficients": {"rows": 1, "cols": 8, "data": [-0.3, 0.1, 0, 0, 0, 0, 0, 0]},
    "rectification_matrix": {"rows": 3, "cols": 3, "data": [1, 0, 0, 0, 1, 0, 0, 0, 1]},
    "projection_matrix": {"rows": 3, "cols": 4, "data": [396.0, 0, 311.1, 0, 0, 396.0, 224.2, 0, 0, 0, 1, 0]},
}


@pytest.fixture
def written(tmp_path):
    def write(**changed):
        content = {key: value for key, value in (WHOLE | changed).items() if value is not None}
        (tmp_path / "camera.yaml").write_text(yaml.safe_dump(content))
        return tmp_path / "camera.yaml"

    return write


def test_every_field(written):
    assert read_calibration(written()) == Calibration(
        640,
        480,
        "rational_polynomial",
        (-0.3, 0.1, 0, 0, 0, 0, 0, 0),
        (430.2, 0, 306.7, 0, 430.5, 227.2, 0, 0, 1),
        (1, 0, 0, 0, 1, 0, 0, 0, 1),
        (396.0, 0, 311.1, 0, 0, 396.0, 224.2, 0, 0, 0, 1, 0),
    )
    data = [0.1] * 5
    assert (
        read_calibration(written(distortion_model=None, distortion_coefficients={"data": data})).distortion_model
        == "plumb_bob"
    )


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("image_width", None, "image_width: None, expected pixels"),
        ("image_height", True, "image_height: True, expected pixels"),
        ("camera_matrix", {"data": [1, 2]}, "camera_matrix.data: .*expected 9 numbers"),
        ("camera_matrix", [1] * 9, "camera_matrix.data: None, expected 9 numbers"),
        ("projection_matrix", {"data": ["x"] * 12}, "projection_matrix.data: .*expected 12 numbers"),
        ("rectification_matrix", {"data": [float("nan")] * 9}, "rectification_matrix.data: .*expected 9 numbers"),
        ("distortion_model", "plumb_bob", "distortion_coefficients.data: 8 numbers, which plumb_bob has not"),
        ("distortion_model", 3, "distortion_model: 3, expected a name"),
    ],
)
def test_refusals(written, field, value, says):
    with pytest.raises(SourceError, match=f"calibration .*camera.yaml: {says}") as caught:
        read_calibration(written(**{field: value}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "says"), [("[1", "not valid YAML"), ("3", "not a camera calibration")])
def test_files_that_are_none(tmp_path, text, says):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(SourceError, match=says):
        read_calibration(tmp_path / "x.yaml")


def test_binning_and_region_in_a_file(written):
    path = written(binning_x=2, roi={"x_offset": 4, "y_offset": 6, "width": 80, "height": 40, "do_rectify": True})
    found = read_calibration(path)
    assert (found.binning_x, found.binning_y, found.roi) == (2, 0, Region(4, 6, 40, 80, True))
    for field, value, says in (
        ("binning_x", -1, "binning_x: -1, expected pixels"),
        ("roi", {"width": 0.5}, "width: 0.5, expected pixels"),
        ("roi", 3, "roi: 3, expected x_offset"),
    ):
        with pytest.raises(SourceError, match=f"calibration .*camera.yaml: {says}"):
            read_calibration(written(**{field: value}))


def test_a_message_as_ros2_topic_echo_prints_it(tmp_path):
    (tmp_path / "info.yaml").write_text(
        """\
header:
  stamp: {sec: 7, nanosec: 5}
  frame_id: front
height: 6
width: 8
distortion_model: equidistant
d: [0.1, 0.2, 0.3, 0.4]
k: [500.0, 0.0, 4.0, 0.0, 510.0, 3.0, 0.0, 0.0, 1.0]
r: [0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
p: [490.0, 0.0, 4.0, -60.0, 0.0, 505.0, 3.0, 0.0, 0.0, 0.0, 1.0, 0.0]
binning_x: 2
binning_y: 1
roi:
  x_offset: 1
  y_offset: 2
  height: 4
  width: 6
  do_rectify: false
---
"""
    )
    assert read_calibration(tmp_path / "info.yaml") == Calibration(
        8,
        6,
        "equidistant",
        (0.1, 0.2, 0.3, 0.4),
        (500, 0, 4, 0, 510, 3, 0, 0, 1),
        (0, 1, 0, 1, 0, 0, 0, 0, 1),
        (490, 0, 4, -60, 0, 505, 3, 0, 0, 0, 1, 0),
        2,
        1,
        Region(1, 2, 4, 6),
    )
    (tmp_path / "info.yaml").write_text("{width: 8, height: 6, d: [], k: [1]}")
    with pytest.raises(SourceError, match=r"info.yaml: k: \[1\], expected 9 numbers"):
        read_calibration(tmp_path / "info.yaml")


def test_a_pinhole_projects_as_its_matrix():
    found = Calibration.pinhole(8, 6, 500, 510, 4, 3)
    assert found.k == (500, 0, 4, 0, 510, 3, 0, 0, 1)
    assert found.matrix().tolist() == [[500, 0, 4], [0, 510, 3], [0, 0, 1]]
    assert found.p == (500, 0, 4, 0, 0, 510, 3, 0, 0, 0, 1, 0)
    assert (found.distortion_model, found.d) == ("plumb_bob", (0,) * 5)


CAMERA = Calibration(
    640,
    480,
    "rational_polynomial",
    (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    (500.0, 2.0, 320.0, 0.0, 510.0, 240.0, 0.0, 0.0, 1.0),
    (0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    (505.0, 0.0, 318.0, -60.0, 0.0, 515.0, 242.0, 7.0, 0.0, 0.0, 1.0, 0.0),
    frame_id="left",
)


def pixel(matrix, columns, point):
    u, v, w = np.reshape(matrix, (3, columns)) @ np.array([*point, 1.0])[:columns]
    return np.array([u / w, v / w])


def test_half_the_size():
    # The centre of the first pixel is at 0: the picture's corner, at -0.5, stays where it is.
    assert CAMERA.fitted((640, 480), (320, 240)) == replace(
        CAMERA,
        width=320,
        height=240,
        k=(250.0, 1.0, 159.75, 0.0, 255.0, 119.75, 0.0, 0.0, 1.0),
        p=(252.5, 0.0, 158.75, -30.0, 0.0, 257.5, 120.75, 3.5, 0.0, 0.0, 1.0, 0.0),
    )


def test_half_the_size_of_a_binned_region():
    camera = replace(CAMERA, binning_x=2, binning_y=2, roi=Region(100, 60, 240, 320, True))
    fitted = camera.fitted((160, 120), (80, 60))
    assert (fitted.width, fitted.height, fitted.roi) == (320, 240, Region(50, 30, 120, 160, True))
    assert (fitted.binning_x, fitted.binning_y) == (2, 2)
    # Two pixels of the sensor are one of the image: half an image's pixel is a whole one of it.
    assert fitted.k == (250.0, 1.0, 159.5, 0.0, 255.0, 119.5, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, (640, 480)),
        ({"binning_x": 1, "binning_y": 1}, (640, 480)),
        ({"binning_x": 2, "binning_y": 4}, (320, 120)),
        ({"roi": Region(7, 9, 60, 101)}, (101, 60)),
        ({"roi": Region(7, 9, 60, 101), "binning_x": 2, "binning_y": 2}, (50, 30)),
    ],
)
def test_images_of_its_size_have_it_unchanged(fields, size):
    camera = replace(CAMERA, **fields)
    assert image_size(camera) == size and trouble(camera, size) == ""
    assert camera.fitted(size, size) is camera


@given(
    size=st.tuples(st.integers(1, 2000), st.integers(1, 2000)),
    offset=st.tuples(st.integers(0, 100), st.integers(0, 100)),
    region=st.tuples(st.integers(8, 500), st.integers(8, 300)),
    binning=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    point=st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.floats(0.5, 50)),
)
def test_points_keep_their_place_in_the_picture(size, offset, region, binning, point):
    camera = replace(CAMERA, roi=Region(*offset, *region[::-1]), binning_x=binning[0], binning_y=binning[1])
    old = image_size(camera)
    fitted = camera.fitted(old, size)
    assert image_size(fitted) == size
    assert fitted.width >= fitted.roi.x_offset + fitted.roi.width
    assert fitted.height >= fitted.roi.y_offset + fitted.roi.height
    assert (fitted.binning_x, fitted.binning_y, fitted.d, fitted.r) == (*binning, camera.d, camera.r)
    for before, after, columns in ((camera.k, fitted.k, 3), (camera.p, fitted.p, 4)):
        # In the image as image_geometry has it, then as part of its width and height.
        step = np.maximum(binning, 1)
        was = (pixel(before, columns, point) - offset) / step
        now = (pixel(after, columns, point) - (fitted.roi.x_offset, fitted.roi.y_offset)) / step
        np.testing.assert_allclose((now + 0.5) / size, (was + 0.5) / old, atol=1e-9)


def test_of_another_size_than_the_images():
    # The same picture, at twice the size: as for the images, so for the outputs.
    assert CAMERA.fitted((320, 240), (320, 240)) == CAMERA.fitted((640, 480), (320, 240))
    assert trouble(CAMERA, (320, 240)) == "is of 640x480, the images are 320x240"
    assert trouble(replace(CAMERA, width=1920, height=1080), (853, 480)) == "is of 1920x1080, the images are 853x480"
    # Its own width and height are theirs, whatever else it says.
    binned = replace(CAMERA, binning_x=2, binning_y=2)
    assert binned.fitted((640, 480), (640, 480)) is binned
    says = "is of 320x240 by its region of interest and binning, the images are 640x480"
    assert trouble(binned, (640, 480)) == says
    # Another picture: to the outputs what it is to the images.
    assert CAMERA.fitted((640, 400), (640, 400)) is CAMERA
    assert CAMERA.fitted((640, 400), (320, 200)) == CAMERA.fitted((640, 480), (320, 240))
    assert trouble(CAMERA, (640, 400)) == "is of 640x480, the images are 640x400, which is another shape"


def test_a_camera_that_is_not_calibrated_stays_so():
    camera = replace(CAMERA, k=(0.0,) * 9, p=(0.0,) * 12)
    assert camera.fitted((640, 480), (64, 48)) == replace(camera, width=64, height=48)
    assert trouble(camera, (640, 480)) == "has a K of zeros: the camera is not calibrated"
    empty = Calibration(0, 0, "", (), (0.0,) * 9, (0.0,) * 9, (0.0,) * 12)
    assert empty.fitted((640, 480), (640, 480)) == empty.fitted((640, 480), (64, 48)) == empty
    assert trouble(empty, (640, 480)) == "has no size (0x0): the camera is not calibrated"


@given(
    numbers=st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 9), min_size=8, max_size=8),
    image=st.tuples(st.integers(1, 16384), st.integers(1, 16384)),
    value=st.floats(allow_nan=True),
)
def test_whatever_a_camera_says_is_fitted_into_what_a_message_holds(numbers, image, value):
    width, height, binning_x, binning_y, *region = numbers
    camera = replace(CAMERA, width=width, height=height, binning_x=binning_x, binning_y=binning_y, k=(value,) * 9)
    fitted = replace(camera, roi=Region(*region)).fitted(image, (max(1, image[0] // 2), max(1, image[1] // 2)))
    roi = fitted.roi
    found = (fitted.width, fitted.height, roi.x_offset, roi.y_offset, roi.width, roi.height)
    assert all(isinstance(n, int) and 0 <= n < 2**32 for n in found)
