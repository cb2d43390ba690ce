"""The modules that are exported: tensors in, tensors out, in operations that every runtime has."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from m2f_ros.model import Network, heads
from m2f_ros.model.network import PixelLogits
from m2f_ros.model.quantised import Quantisation, quantised
from m2f_ros.pipeline.resize import Placement

_HIDDEN = -1e4  # logit of what is masked; float16 has it, and its exponential is 0


class Plain(TorchFunctionMode):
    """Computes operations that other formats lack, or translate into loops, from products, gathers and softmax."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.embedding_bag:
            rows, table = args
            return _weighted_sum(rows, table, kwargs["per_sample_weights"])
        if func is F.scaled_dot_product_attention:
            query, key, value = args
            return _attention(query, key, value, kwargs.get("attn_mask"))
        if func is Tensor.to and args[1:] == (torch.uint8,) and not args[0].is_floating_point():
            return args[0].float().to(torch.uint8)  # TensorRT makes bytes of floats alone
        return func(*args, **kwargs)


def _weighted_sum(rows: Tensor, table: Tensor, factors: Tensor) -> Tensor:
    """Sum factors[:, k] * table[rows[:, k]] over k; see `deformable.weighted_sum`."""
    return (factors[:, None] @ F.embedding(rows, table))[:, 0]


def _attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Compute scaled dot product attention; `mask` is True where a query attends, or added to the logits."""
    logits = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    if mask is not None and mask.dtype == torch.bool:
        logits = torch.where(mask, logits, _HIDDEN)
    elif mask is not None:
        logits = logits + mask
    return logits.softmax(-1) @ value


class Planned(nn.Module):
    """The network, with its plan for one size as constants.

    Args:
        size: (height, width) of the input; None to compute the plan from each input.
        quantisation: products in eight bits.
    """

    def __init__(self, model: Network, size: tuple[int, int] | None, quantisation: Quantisation | None = None):
        super().__init__()
        self.model, self.plan = model, model.plan(*size) if size else None
        self.quantisation = quantisation
        self._dtype = next(model.parameters()).dtype

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Map (B, 3, H, W) float32 normalised pixels to the network's result, float32."""
        with Plain():
            plan = self.plan if self.plan is not None else self.model.plan(pixels.shape[2], pixels.shape[3])
            with quantised(self.model, self.quantisation):
                result = self.model.result(self.model(pixels.to(self._dtype), plan))
        return tuple(x.float() for x in result)


class Whole(nn.Module):
    """Everything between a camera's images and their labels: resize, normalisation, network and head.

    Args:
        placement: see `Resize.place`.
        frame: (height, width) of the images.
        bgr: True for images in bgr8, False for rgb8.
    """

    def __init__(self, network: Planned, placement: Placement, frame: tuple[int, int], bgr: bool):
        super().__init__()
        self.network, self.placement, self.frame, self.bgr = network, placement, frame, bgr
        self.resize = _resamplers(frame, placement.content)
        config = network.model.config
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1))
        self.register_buffer("scale", 1 / torch.tensor(config.std).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, H, W, 3) uint8 to labels, see `heads.labels`, and confidence, (B, H, W) uint8."""
        planes = image.float().permute(0, 3, 1, 2)  # TensorRT has bytes at inputs and outputs alone
        if self.bgr:
            planes = torch.cat([planes[:, 2:], planes[:, 1:2], planes[:, :1]], 1)
        pixels = (self.resize(planes) - self.mean) * self.scale
        (height, width), network = self.placement
        if (height, width) != network:
            pixels = F.pad(pixels, (0, network[1] - width, 0, network[0] - height))
        result = self.network(pixels)
        with Plain():
            return self._head(result)

    def _head(self, result: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        content, network = self.placement
        if self.network.model.gives is PixelLogits:
            part = None if content == network else content
            label, confidence = heads.pixel_labels(result[0], network, self.frame, True, part)
        else:
            # Not heads.labels: on a CPU it chooses the pixels to compute by their values.
            scores = heads.semantic_scores(result[0], result[1], network)
            label, confidence = heads.semantic_of_scores(scores, self.frame, True, content)
        assert confidence is not None
        return label, confidence


class Resample(nn.Module):
    """Resizes one axis of images as torch resizes uint8 on a CPU, which `colour.resampled` uses.

    The result is the same, but for a difference of 1 where torch rounds a weight the other way, which is rare.

    The weights are whole numbers, at most 2**15, and so are the sums: float32 holds them. Each of a few neighbours is a
    gather, which also runs where Resize has no antialiasing, as in TensorRT.

    Args:
        axis: axis of the input.
        before, after: lengths of the axis.
    """

    def __init__(self, axis: int, before: int, after: int):
        super().__init__()
        self.axis = axis
        one = torch.eye(before, dtype=torch.float64)[None, None]
        exact = F.interpolate(one, (after, before), mode="bilinear", antialias=True, align_corners=False)[0, 0]
        # The largest power of two for which the weights are below 2**15.
        bits = next(bits for bits in range(23) if bits == 22 or int(0.5 + exact.max() * 2 ** (bits + 1)) >= 1 << 15)
        weights = (exact * 2**bits + 0.5).floor()
        taps = int((weights > 0).sum(1).max())
        # The first neighbour, but so that all are inside.
        first = (weights > 0).int().argmax(1).clamp(max=before - taps)
        index = first[:, None] + torch.arange(taps)
        shape = [-1 if i == axis else 1 for i in range(4)]
        self.bits = bits
        self.index: Tensor
        self.weights: Tensor
        self.register_buffer("index", index.T.contiguous())
        self.register_buffer("weights", weights.gather(1, index).T.float().reshape(taps, *shape))

    def forward(self, planes: Tensor) -> Tensor:
        """Map (B, 3, H, W) float32 whole numbers in 0..255 to such numbers."""
        parts = [
            planes.index_select(self.axis, index) * weight
            for index, weight in zip(self.index, self.weights, strict=True)
        ]
        return (sum(parts[1:], parts[0]) * 0.5**self.bits + 0.5).floor()


def _resamplers(before: tuple[int, int], after: tuple[int, int]) -> nn.Sequential:
    """Return what resizes images, rows first, from and to (height, width)."""
    axes = ((3, before[1], after[1]), (2, before[0], after[0]))
    return nn.Sequential(*(Resample(*axis) for axis in axes if axis[1] != axis[2]))
