"""Writes a module in each format."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from m2f_ros.errors import ConfigError, to_install, words_of
from m2f_ros.export import onnx, plugin, tensorrt
from m2f_ros.export.program import EXPORTING, quiet, trace
from m2f_ros.export.settings import Settings

# Format -> the packages that writing and verifying it needs beside torch.
PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "torchscript": (),
    "pt2": (),
    "tensorrt": ("onnx", "onnxscript", "tensorrt"),
}
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torchscript": ".pt", "pt2": ".pt2", "tensorrt": ".engine"}


@dataclass(frozen=True)
class Module:
    """A module to write.

    Attributes:
        module: takes one tensor.
        example: its input, two images.
        input: name of the input.
        outputs: names of the outputs.
        stride: for all sizes, the stride of the input; else None.
        precision: type of the weights.
    """

    module: nn.Module
    example: Tensor
    input: str
    outputs: Sequence[str]
    stride: int | None
    precision: str


def check_packages(settings: Settings) -> None:
    """Raise ConfigError where a package is absent that the format needs, with what to do."""
    missing = [name for name in PACKAGES[settings.to] if not importlib.util.find_spec(name)]
    if missing == ["tensorrt"]:
        command = tensorrt.line("FOLDER/network.onnx", "pixels", "3xHEIGHTxWIDTH")
        raise ConfigError(
            f"--to tensorrt: tensorrt is not installed: {to_install('tensorrt')}, or export --to onnx, and on the "
            f"device run: {command}"
        )
    if missing:
        raise ConfigError(f"--to {settings.to}: {' and '.join(missing)} not installed: {to_install(missing[0])}")


def write(made: Module, settings: Settings, folder: Path, device: torch.device) -> tuple[str, dict[str, str]]:
    """Write a module into an empty folder. Return the name of the file to load, and the libraries' versions.

    Raises:
        ConfigError: the format cannot hold the module.
    """
    stem = "whole" if settings.whole else "network"
    path, versions = folder / f"{stem}{SUFFIXES[settings.to]}", {"torch": str(torch.__version__)}
    if settings.to == "torchscript":
        _write_torchscript(made, path)
        return path.name, versions
    with plugin.sampling() if settings.plugin else contextlib.nullcontext():
        program = trace(made.module, made.example, made.stride)
    if settings.to == "pt2":
        with quiet():
            torch.export.save(program, path)
    elif settings.to == "openvino":
        versions |= _write_openvino(made, program, path)
    else:
        onnx_path = path.with_suffix(".onnx")
        versions |= onnx.write(program, onnx_path, [made.input], made.outputs)
        if settings.to == "tensorrt":
            import tensorrt as library

            tensorrt.build(onnx_path, path, device)
            onnx_path.unlink()
            versions["tensorrt"] = library.__version__
    return path.name, versions


def _write_torchscript(made: Module, path: Path) -> None:
    try:
        with EXPORTING, torch.inference_mode(False), torch.no_grad(), quiet():
            traced = torch.jit.trace(made.module.eval(), made.example, check_trace=False)
            torch.jit.freeze(traced).save(str(path))
    except Exception as error:  # TorchScript's errors have no common base class
        raise ConfigError(f"the network cannot be traced ({words_of(error, 300)})") from error


def _write_openvino(made: Module, program: torch.export.ExportedProgram, path: Path) -> dict[str, str]:
    from m2f_ros.pipeline.backends.openvino import openvino  # without its telemetry

    try:
        with quiet():
            network = openvino.convert_model(program)
            for port, name in zip((*network.inputs, *network.outputs), (made.input, *made.outputs), strict=True):
                port.get_tensor().set_names({name})
            openvino.save_model(network, path, compress_to_fp16=made.precision == "fp16")
    except Exception as error:  # OpenVINO's errors have no common base class
        raise ConfigError(f"the network cannot be converted for OpenVINO ({words_of(error, 300)})") from error
    return {"openvino": openvino.__version__}
