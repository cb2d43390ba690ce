"""ONNX files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.export import ExportedProgram

from m2f_ros.errors import ConfigError, words_of
from m2f_ros.export.program import EXPORTING, quiet

if TYPE_CHECKING:
    from onnx import ModelProto

# The first with antialiased Resize. ONNX Runtime has it since 1.14, TensorRT since 8.6.
OPSET = 18


def write(program: ExportedProgram, path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> dict[str, str]:
    """Write a traced module as an ONNX file, checked with full shape inference. Return the libraries' versions.

    Raises:
        ConfigError: torch or ONNX refuses the module.
    """
    import onnx
    import onnxscript

    try:
        with EXPORTING, torch.inference_mode(False), torch.no_grad(), quiet():
            made = torch.onnx.export(
                program,
                (),
                dynamo=True,
                opset_version=OPSET,
                input_names=inputs,
                output_names=outputs,
                verbose=False,
            )
            assert made is not None
            model = made.model_proto
        _tidy(model)
        onnx.save(model, path)
        onnx.checker.check_model(path, full_check=True)
    except Exception as error:  # the exporters' errors have no common base class
        raise ConfigError(f"the network cannot be exported to ONNX ({words_of(error, 300)})") from error
    return {"onnx": onnx.__version__, "onnxscript": onnxscript.__version__, "opset": str(OPSET)}


def _tidy(model: ModelProto) -> None:
    """Name the open dimensions, and remove the exporter's notes about each node, with paths of this machine."""
    graph = model.graph
    shape = graph.input[0].type.tensor_type.shape.dim
    open_dims = [dim.dim_param for dim in shape if dim.dim_param]
    symbols = [re.sub(r"^\d+\*", "", dim) for dim in open_dims]
    names = dict(zip(symbols, ("batch", "rows", "columns"), strict=False))
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"\w+", lambda found: names.get(found[0], found[0]), dim.dim_param)
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
