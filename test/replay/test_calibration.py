"""Calibration files of ROS, read whole or refused with the field that is wrong."""

import pytest
import yaml

from m2f_ros.errors import SourceError
from m2f_ros.replay.calibration import Calibration, read_calibration
from m2f_ros.replay.camera import CameraModel

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
    assert read_calibration(written(distortion_model=None, distortion_coefficients={"data": data})).model == "plumb_bob"


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


def test_a_pinhole_projects_as_its_matrix():
    found = Calibration.of_pinhole(CameraModel(8, 6, 500, 510, 4, 3))
    assert found.k == (500, 0, 4, 0, 510, 3, 0, 0, 1)
    assert found.p == (500, 0, 4, 0, 0, 510, 3, 0, 0, 0, 1, 0)
    assert (found.model, found.d) == ("plumb_bob", (0,) * 5)
