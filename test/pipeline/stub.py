"""A pipeline of three classes whose network is a picture's colours, on a device that notes what waits for what."""

from __future__ import annotations

import numpy as np
import torch
from fake_cuda import FakeCuda

from m2f_ros.model import MaskClassification, ModelConfig, SwinConfig
from m2f_ros.pipeline import Frame, Pipeline
from m2f_ros.taxonomy import from_names

LABELS = ("a", "b", "c")


class Network:
    """A backend that tells the device of its work; the mask logits are the image's first three colours."""

    name, dtype, background = "stub", torch.float32, False
    gives = MaskClassification

    def __init__(self, device):
        self.device = device
        self.config = ModelConfig(SwinConfig(), LABELS)
        self.built = []
        self.reads = []

    def ready(self, size, batch=1):
        return True

    def sizes(self):
        return []

    def forget(self, seconds, but=()):
        return False

    def build(self, size, batch=1):
        self.built.append((size, batch))
        return object()

    def __call__(self, pixels):
        self.device.note("compute", "compute", self.reads)
        classes = torch.eye(3, 4)[None].expand(len(pixels), -1, -1) * 9
        return MaskClassification(classes, pixels[:, :, ::4, ::4].contiguous())


class Remembering(Network):
    """Halves its memory, adds the mean of the image's colours, and takes the sum for the masks' logits, too."""

    def memory(self):
        return torch.tensor([0.5, -0.5, 0.0])

    def __call__(self, pixels, memory=None):
        result = super().__call__(pixels)
        memory.mul_(0.5).add_(pixels.mean((2, 3)))
        return result._replace(mask_logits=result.mask_logits + 4 * memory[..., None, None])


def on_cpu(of=Network, **options):
    network = of(FakeCuda())
    return Pipeline(network, from_names("test", LABELS), device="cpu", backend=network, **options)


def pipeline(slots=2, graphs=True, **options):
    """The pipeline, its device and its network."""
    pipe = on_cpu(**options)
    network = pipe._backend
    pipe._open(network.device, graphs, slots)
    normalised, tables = pipe._segmenter._normalised, pipe._segmenter.tables

    def noted(picture, bgr, placement):
        network.reads = [picture, *(table for table in vars(tables).values() if isinstance(table, torch.Tensor))]
        return normalised(picture, bgr, placement)

    pipe._segmenter._normalised = noted
    return pipe, network.device, network


def frame(seed=0, height=32, width=64):
    """Blocks of 4 x 4 pixels of one colour, so that nothing is lost on the way to the network."""
    data = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    return Frame(data.repeat(4, 0).repeat(4, 1), "rgb8")
