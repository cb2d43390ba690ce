"""Scores while training: at the size at which the pipeline would run."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from m2f_ros.model import load
from m2f_ros.pipeline import Resize
from m2f_ros.training.evaluate import predict, run


@pytest.mark.parametrize("min_pixels", [None, 120 * 160])
@pytest.mark.parametrize("max_pixels", [None, 64 * 96, 10**6])
@pytest.mark.parametrize("size", [(64, 96), (120, 160), (300, 100)])
def test_images_are_resized_as_in_use(small_model, size, min_pixels, max_pixels):
    model = load(small_model)
    model.config = replace(model.config, min_pixels=min_pixels, max_pixels=max_pixels)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    _, network = run(model, image, torch.device("cpu"))
    assert network == Resize(min_pixels=min_pixels, max_pixels=max_pixels).place(*size).network
    assert predict(model, image, torch.device("cpu")).shape == size
