"""Deformable attention as one node, NVIDIA's plugin of TensorRT, in place of gathers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m2f_ros.export.program import EXPORTING, quiet
from m2f_ros.model.mask2former import deformable
from m2f_ros.model.mask2former.deformable import POINTS, Geometry

if TYPE_CHECKING:
    from onnx import FunctionProto

NAME = "MultiscaleDeformableAttnPlugin_TRT"
# ONNX Runtime looks for TensorRT's plugins in this domain; TensorRT's own parser looks for the name alone.
DOMAIN = "trt.plugins"


class Attention(nn.Module):
    """The plugin's result, by grid_sample.

    Args:
        shapes: (height, width) of each level's map.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]]):
        super().__init__()
        self.shapes = tuple(shapes)

    def forward(self, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        """Sum weighted samples.

        Args:
            value: (B, S, heads, C), the maps of all levels, flattened.
            locations: (B, Q, heads, levels, points, 2), x and y in 0..1.
            weights: (B, Q, heads, levels, points).
        Returns:
            (B, Q, heads, C)
        """
        heads = value.shape[2]
        maps = value.split([h * w for h, w in self.shapes], 1)
        found = []
        for level, (part, (height, width)) in enumerate(zip(maps, self.shapes, strict=True)):
            image = part.permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, (height, width))
            grid = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1
            samples = F.grid_sample(image, grid, "bilinear", "zeros", align_corners=False)
            found.append((samples * weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]).sum(-1))
        return sum(found[1:], found[0]).unflatten(0, (-1, heads)).permute(0, 3, 1, 2)


@contextlib.contextmanager
def sampling() -> Iterator[None]:
    """Let the networks of this process sample by the plugin's node inside the block, which can only be exported."""
    before = deformable.sample
    deformable.sample = _sample
    try:
        yield
    finally:
        deformable.sample = before


def _sample(values: Tensor, geometry: Geometry, points: Tensor, weights: Tensor) -> Tensor:
    """Compute `deformable.sample` by the plugin. Its floats are of one type: float32, for the coordinates' sake."""
    shapes = torch.tensor(geometry.shapes, dtype=torch.int32)
    starts = F.pad(shapes.prod(1).cumsum(0)[:-1], (1, 0)).int()
    heads, levels = weights.shape[2], len(geometry.shapes)
    x, y = (part.unflatten(-1, (heads, levels, POINTS)) for part in points.chunk(2, -1))
    locations = (torch.stack([x, y], -1) + 0.5) / shapes.flip(1).to(points.dtype)[:, None]
    value = values.unflatten(-1, (heads, -1)).float()
    out = torch.onnx.ops.symbolic(
        f"{DOMAIN}::{NAME}",
        (value, shapes, starts, locations.float(), weights.unflatten(-1, (levels, -1)).float()),
        {"plugin_version": "1", "plugin_namespace": ""},
        dtype=torch.float32,
        shape=(value.shape[0], points.shape[1], heads, value.shape[3]),
        version=1,
    )
    return out.flatten(2).to(values.dtype)


def with_function(path: Path, to: Path) -> None:
    """Write a copy of an ONNX file in which a function of ONNX's own operations computes the plugin's nodes.

    Every runtime runs the copy: the layout of the nodes' inputs can be verified without TensorRT. Raises ValueError if
    there are no such nodes.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(path)
    nodes = [node for node in model.graph.node if node.op_type == NAME]
    if not nodes:
        raise ValueError(f"{path} has no {NAME}")
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    shapes = {tuple(map(tuple, numpy_helper.to_array(constants[node.input[1]]).tolist())) for node in nodes}
    (only,) = shapes  # all layers have the same maps
    model.functions.append(_function(only, {x.version for x in model.opset_import if not x.domain}.pop()))
    for node in nodes:
        del node.attribute[:]
    onnx.save(model, to)


def _function(shapes: Sequence[tuple[int, int]], opset: int) -> FunctionProto:
    from onnx import helper

    heads, levels, channels, tokens = 2, len(shapes), 4, sum(h * w for h, w in shapes)
    example = (
        torch.zeros(2, tokens, heads, channels),
        torch.zeros(2, tokens, heads, levels, POINTS, 2),
        torch.zeros(2, tokens, heads, levels, POINTS),
    )
    dim = torch.export.Dim
    batch, many, wide = dim("batch"), dim("heads"), dim("channels")
    dynamic = ({0: batch, 2: many, 3: wide}, {0: batch, 2: many}, {0: batch, 2: many})
    names = ["value", "locations", "weights"]
    with EXPORTING, torch.inference_mode(False), torch.no_grad(), quiet():
        made = torch.onnx.export(
            Attention(shapes),
            example,
            dynamic_shapes=dynamic,
            dynamo=True,
            opset_version=opset,
            input_names=names,
            output_names=["out"],
            verbose=False,
        )
    assert made is not None
    graph = made.model_proto.graph
    constants = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in graph.initializer]
    return helper.make_function(
        DOMAIN,
        NAME,
        ["value", "shapes", "starts", "locations", "weights"],
        ["out"],
        [*constants, *graph.node],
        [helper.make_opsetid("", opset)],
    )
