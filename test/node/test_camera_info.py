"""A point in space falls on the same spot of the picture, whatever the size of the output."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2f_ros.errors import FrameError
from m2f_ros.node.camera_info import fit_camera_info, image_size


class Region(SimpleNamespace):
    """As sensor_msgs' RegionOfInterest begins."""

    def __init__(self, **fields):
        super().__init__(**{"x_offset": 0, "y_offset": 0, "width": 0, "height": 0, "do_rectify": False, **fields})


def camera_info(**fields):
    return SimpleNamespace(
        **{
            "header": "header",
            "width": 640,
            "height": 480,
            "distortion_model": "plumb_bob",
            "d": [0.1, 0.2, 0.3, 0.4, 0.5],
            "k": [500.0, 2.0, 320.0, 0.0, 510.0, 240.0, 0.0, 0.0, 1.0],
            "r": [0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0],
            "p": [505.0, 0.0, 318.0, -60.0, 0.0, 515.0, 242.0, 7.0, 0.0, 0.0, 1.0, 0.0],
            "binning_x": 0,
            "binning_y": 0,
            "roi": Region(),
            **fields,
        }
    )


def pixel(matrix, columns, point):
    u, v, w = np.reshape(matrix, (3, columns)) @ np.array([*point, 1.0])[:columns]
    return np.array([u / w, v / w])


def test_half_the_size():
    info = camera_info()
    fitted = fit_camera_info(info, 320, 240)
    assert (fitted.width, fitted.height) == (320, 240)
    # The centre of the first pixel is at 0: the picture's corner, at -0.5, stays where it is.
    assert fitted.k == [250.0, 1.0, 159.75, 0.0, 255.0, 119.75, 0.0, 0.0, 1.0]
    assert fitted.p == [252.5, 0.0, 158.75, -30.0, 0.0, 257.5, 120.75, 3.5, 0.0, 0.0, 1.0, 0.0]
    assert (fitted.header, fitted.distortion_model, fitted.d, fitted.r) == ("header", "plumb_bob", info.d, info.r)


def test_what_came_in_is_not_changed():
    info = camera_info(roi=Region(width=64, height=48), binning_x=2)
    fit_camera_info(info, 10, 10)
    assert info == camera_info(roi=Region(width=64, height=48), binning_x=2)


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({}, (640, 480)),
        ({"binning_x": 1, "binning_y": 1}, (640, 480)),
        ({"binning_x": 2, "binning_y": 4}, (320, 120)),
        ({"roi": Region(x_offset=7, y_offset=9, width=101, height=60)}, (101, 60)),
        ({"roi": Region(x_offset=7, y_offset=9, width=101, height=60), "binning_x": 2, "binning_y": 2}, (50, 30)),
    ],
)
def test_an_output_of_the_images_own_size_has_its_camera_info(fields, size):
    info = camera_info(**fields)
    assert image_size(info) == size
    assert fit_camera_info(info, *size) is info


@given(
    size=st.tuples(st.integers(1, 2000), st.integers(1, 2000)),
    offset=st.tuples(st.integers(0, 100), st.integers(0, 100)),
    region=st.tuples(st.integers(8, 500), st.integers(8, 300)),
    binning=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    point=st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.floats(0.5, 50)),
)
def test_points_keep_their_place_in_the_picture(size, offset, region, binning, point):
    roi = Region(x_offset=offset[0], y_offset=offset[1], width=region[0], height=region[1])
    info = camera_info(roi=roi, binning_x=binning[0], binning_y=binning[1])
    old = np.array(image_size(info))
    fitted = fit_camera_info(info, *size)
    if size == tuple(old):
        assert fitted is info
        return
    assert (fitted.width, fitted.height, fitted.roi, fitted.binning_x, fitted.binning_y) == (*size, Region(), 0, 0)
    for before, after, columns in ((info.k, fitted.k, 3), (info.p, fitted.p, 4)):
        # In the camera's image as image_geometry has it, then as part of its width and height.
        in_image = (pixel(before, columns, point) - offset) / np.maximum(binning, 1)
        np.testing.assert_allclose((pixel(after, columns, point) + 0.5) / size, (in_image + 0.5) / old, atol=1e-9)


def test_a_camera_that_is_not_calibrated_stays_so():
    fitted = fit_camera_info(camera_info(k=[0.0] * 9, p=[0.0] * 12), 64, 48)
    assert (fitted.k, fitted.p) == ([0.0] * 9, [0.0] * 12)
    assert (fitted.width, fitted.height) == (64, 48)


@pytest.mark.parametrize(
    "fields", [{"width": 0}, {"height": 0}, {"binning_x": 641}, {"roi": Region(height=1), "binning_y": 2}]
)
def test_no_size(fields):
    with pytest.raises(FrameError, match="camera_info has no size: width"):
        fit_camera_info(camera_info(**fields), 320, 240)


def test_real_messages():
    messages = pytest.importorskip("sensor_msgs.msg", reason="sensor_msgs is absent")
    plain = camera_info()
    info = messages.CameraInfo(width=640, height=480, k=plain.k, p=plain.p, r=plain.r, d=plain.d, binning_x=2)
    info.header.frame_id = "camera"
    info.roi.width = info.roi.height = 100
    fitted = fit_camera_info(info, 25, 50)
    assert (fitted.width, fitted.height, fitted.header, list(fitted.d)) == (25, 50, info.header, plain.d)
    np.testing.assert_allclose(
        fitted.k, fit_camera_info(camera_info(binning_x=2, roi=Region(width=100, height=100)), 25, 50).k
    )
    assert fitted.roi == messages.RegionOfInterest()
    assert (info.width, info.roi.width, info.k[0]) == (640, 100, 500.0)
