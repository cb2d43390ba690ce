"""Camera models on a CUDA device: what they say on a CPU."""

from dataclasses import replace

import pytest
import torch

from m2f_ros.frame.calibration import Calibration
from m2f_ros.space.camera_model import CameraModel

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
PLAIN = Calibration.pinhole(640, 480, 430.0, 425.0, 315.0, 243.0)


@pytest.mark.parametrize(
    ("model", "d"),
    [
        ("plumb_bob", ()),
        ("plumb_bob", (-0.3, 0.1, 0.001, -0.002, 0.01)),
        (
            "rational_polynomial",
            (0.5, 0.2, 0.001, -0.002, 0.03, 0.8, 0.3, 0.05, 0.001, 0.002, -0.001, 0.002, 0.02, 0.03),
        ),
        ("equidistant", (0.05, -0.01, 0.003, -0.001)),
    ],
)
def test_as_on_a_cpu(model, d) -> None:
    camera = CameraModel.of(replace(PLAIN, distortion_model=model, d=d), (640, 480))
    points = torch.randn((5000, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 5
    pixels, depth = camera.project(points)
    found, found_depth = camera.project(points.cuda())
    assert found.is_cuda and found.dtype == torch.float64
    torch.testing.assert_close(found.cpu(), pixels, atol=1e-6, rtol=1e-9, equal_nan=True)
    torch.testing.assert_close(found_depth.cpu(), depth)
    rays = camera.unproject(pixels.cuda())
    assert rays.is_cuda
    torch.testing.assert_close(rays.cpu(), camera.unproject(pixels), atol=1e-9, rtol=1e-9, equal_nan=True)
