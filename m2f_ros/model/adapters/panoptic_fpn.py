"""Panoptic FPN: torchvision's Mask R-CNN, and a branch on its feature pyramid that classifies the pixels of stuff.

(Kirillov et al., Panoptic Feature Pyramid Networks, https://arxiv.org/abs/1901.02446)
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from m2f_ros.model.adapters.zoo import MaskRcnn
from m2f_ros.model.network import FusedInstances

LEVELS = ("0", "1", "2", "3")  # of torchvision's pyramid, at a quarter of the input to a thirty-second
CHANNELS = 128


class SemanticBranch(nn.Module):
    """Features of all levels, each brought to a quarter of the input by stages of a convolution, group norm, ReLU and
    doubling; their sum; a convolution of 1x1.

    Args:
        channels: of the pyramid.
        classes: of stuff, and "a thing".
    """

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.levels = nn.ModuleList(
            nn.ModuleList(_stage(channels if i == 0 else CHANNELS) for i in range(max(1, halvings)))
            for halvings in range(len(LEVELS))
        )
        self.predictor = nn.Conv2d(CHANNELS, classes, 1)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Map levels (B, channels, h, w) to logits (B, classes, h, w) at the size of the largest level."""
        size = features[LEVELS[0]].shape[2:]
        total = None
        for halvings, (name, stages) in enumerate(zip(LEVELS, self.levels, strict=True)):
            one = features[name]
            assert isinstance(stages, nn.ModuleList)
            for stage in stages:
                one = stage(one)
                if halvings:
                    one = F.interpolate(one, scale_factor=2.0, mode="bilinear", align_corners=False)
            one = one[..., : size[0], : size[1]]
            total = one if total is None else total + one
        return self.predictor(total)


def _stage(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, CHANNELS, 3, padding=1, bias=False), nn.GroupNorm(32, CHANNELS), nn.ReLU())


class PanopticFpn(MaskRcnn):
    """Normalised pixels in, instances and logits of stuff out. Things are the first classes, stuff the others."""

    gives = FusedInstances

    def forward(self, pixels: Tensor, plan: None = None) -> tuple:
        """See Network.forward."""
        self.check_size(*pixels.shape[-2:])
        features = self.network.backbone(pixels)
        scores, masks, boxes = self.found(pixels, features)
        return FusedInstances(scores, masks, boxes, self.network.semantic_branch(features))
