"""CameraInfo messages: what came in goes out unchanged where outputs have the size of the images."""

import numpy as np
import pytest

pytest.importorskip("sensor_msgs.msg", reason="sensor_msgs is absent")

from sensor_msgs import msg as messages

from m2f_ros.frame.calibration import Calibration
from m2f_ros.node.segmentation.camera_info import fit_camera_info, message_of

FIELDS = {
    "width": 640,
    "height": 480,
    "distortion_model": "equidistant",
    "d": [0.1, 0.2, 0.3, 0.4],
    "k": [500.0, 2.0, 320.0, 0.0, 510.0, 240.0, 0.0, 0.0, 1.0],
    "r": [0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0],
    "p": [505.0, 0.0, 318.0, -60.0, 0.0, 515.0, 242.0, 7.0, 0.0, 0.0, 1.0, 0.0],
    "binning_x": 2,
    "binning_y": 2,
    "roi": messages.RegionOfInterest(x_offset=100, y_offset=60, height=240, width=320, do_rectify=True),
}


@pytest.fixture
def info():
    info = messages.CameraInfo(**FIELDS)
    info.header.frame_id, info.header.stamp.sec = "left", 7
    return info


def test_a_message_becomes_a_calibration_and_a_message_again(info):
    assert message_of(Calibration.of(info), info.header) == info


def test_of_a_file_it_has_the_frame_of_the_image(info):
    calibration = Calibration.pinhole(8, 6, 500.0, 510.0, 4.0, 3.0)
    assert message_of(calibration, info.header).header == info.header


def test_outputs_of_the_images_size_have_the_message_itself(info):
    assert fit_camera_info(info, (160, 120), (160, 120)) is info
    empty = messages.CameraInfo()
    assert fit_camera_info(empty, (160, 120), (160, 120)) is empty


def test_outputs_of_half_the_size(info):
    fitted = fit_camera_info(info, (160, 120), (80, 60))
    assert (fitted.width, fitted.height, fitted.binning_x, fitted.binning_y) == (320, 240, 2, 2)
    assert fitted.roi == messages.RegionOfInterest(x_offset=50, y_offset=30, height=120, width=160, do_rectify=True)
    assert (fitted.header, fitted.distortion_model, list(fitted.d)) == (info.header, "equidistant", FIELDS["d"])
    np.testing.assert_array_equal(fitted.r, FIELDS["r"])
    np.testing.assert_array_equal(fitted.k, [250.0, 1.0, 159.5, 0.0, 255.0, 119.5, 0.0, 0.0, 1.0])
    assert list(info.k) == FIELDS["k"] and info.width == 640
