"""The work on the device never waits for it. For the content of outputs see test_pipeline.py and test_tuning.py."""

import numpy as np
import pytest
import torch

from m2f_ros.frame.frame import Ignored
from m2f_ros.frame.outputs import NAMES
from m2f_ros.model import Instances, MaskClassification, ModelConfig, SwinConfig
from m2f_ros.pipeline.painters import PAINTERS
from m2f_ros.pipeline.resize import Resize
from m2f_ros.pipeline.segmenter import OUTPUTS, GraphKey, Segmenter
from m2f_ros.taxonomy import from_names

META = torch.device("meta")


class Network:
    dtype = torch.float32

    def __init__(self, classes):
        self._classes = classes

    def __call__(self, pixels):
        batch, _, height, width = pixels.shape
        classes = torch.empty(batch, 20, self._classes + 1, device=META)
        return MaskClassification(classes, torch.empty(batch, 20, height // 4, width // 4, device=META))


class Finder(Network):
    def __call__(self, pixels):
        scores, masks = super().__call__(pixels)
        return Instances(scores[..., 1:], masks)


@pytest.mark.parametrize("classes, label", [(5, torch.uint8), (300, torch.uint16)])
@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("network, smoothing", [(Network, 0.0), (Network, 0.5), (Finder, 0.0)])
def test_nothing_is_read_back_and_shapes_are_known_before(classes, label, filtered, network, smoothing):
    """Tensors without data can be asked for nothing."""
    names = tuple(f"class {i}" for i in range(classes))
    config = ModelConfig(SwinConfig(), names)
    segmenter = Segmenter(network(classes), config, from_names("test", names), META, "fp32", smoothing)
    shapes, sizes = ((60, 100, 3), (90, 150, 3)), ((30, 50), (90, 150))
    placements = tuple(Resize("fixed", height=64, width=96).place(*shape[:2]) for shape in shapes)
    ignored = (None, Ignored(np.ones((9, 15), bool)))
    key = GraphKey(shapes, ("rgb8", "bgr8"), placements, sizes, OUTPUTS, filtered, ignored)
    raws = [torch.empty(shape, dtype=torch.uint8, device=META) for shape in shapes]
    outputs = segmenter(key, raws, segmenter.past(key, ["a", "b"]), lambda stage: None)
    for (height, width), frame in zip(sizes, outputs, strict=True):
        made = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in frame.items()}
        head = {name: made[name] for name in made if name not in PAINTERS or name in ("overlay", "color")}
        assert {shape[:2] for name, (shape, _) in made.items() if name in PAINTERS} == {(height, width)}
        assert head == {
            "label": ((height, width), label),
            "overlay": ((height, width, 3), torch.uint8),
            "color": ((height, width, 3), torch.uint8),
            "confidence": ((height, width), torch.uint8),
            "shares": ((classes + 1,), torch.float32),
            "ids": ((height, width), torch.uint8),
            "table": ((20, 8), torch.float64),
        }


def test_every_output_of_the_table_is_made():
    assert set(PAINTERS) == set(NAMES) - {"label", "confidence", "panoptic"}
