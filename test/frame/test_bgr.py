"""Pictures for people have the colours that the network sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from m2f_ros.frame.bgr import to_bgr
from m2f_ros.frame.encodings import ENCODINGS
from m2f_ros.pipeline import Frame
from m2f_ros.pipeline.colour import to_rgb


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_colours_are_those_of_the_pipeline(encoding):
    depth = ENCODINGS[encoding].channels
    smooth = np.linspace(30, 200, 12 * 16 * depth).reshape(12, 16, depth).astype(np.uint8)
    data = smooth[..., 0] if depth == 1 else smooth
    expected = to_rgb(torch.from_numpy(data), encoding).numpy()[..., ::-1]
    got = to_bgr(Frame(data, encoding))
    assert got.shape == (12, 16, 3)
    # The pipeline reflects a mosaic at its edge and OpenCV repeats it; the conversions from YUV round differently.
    np.testing.assert_allclose(got[1:-1, 1:-1].astype(int), expected[1:-1, 1:-1].astype(int), atol=2)
