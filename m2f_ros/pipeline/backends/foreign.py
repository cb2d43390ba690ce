"""Runs the files that others made: their inputs and outputs, and the way of tensors in and out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_unflatten

from m2f_ros.errors import CheckpointError, words_of
from m2f_ros.pipeline.exported import Export
from m2f_ros.pipeline.foreign import Found

_TRIED = 128, 192  # height and width about which a network of any size is tried
# ONNX Runtime's name of a type -> NumPy's, where another.
_ONNX = {"float": "float32", "double": "float64"}

Ports = tuple[dict[str, Found], dict[str, Found]]


def ports(export: Export) -> Ports:
    """Return inputs and outputs of the file, by name. Raises errors of any type, as the format's library does."""
    return {"onnx": _onnx, "openvino": _openvino, "pt2": _pt2}[export.manifest.format](export)


def _onnx(export: Export) -> Ports:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(export.path, settings, providers=["CPUExecutionProvider"])

    def found(port: Any) -> Found:
        name = port.type.removeprefix("tensor(").removesuffix(")")
        dims = tuple(n if isinstance(n, int) and n > 0 else None for n in port.shape)
        return Found(_ONNX.get(name, name), dims)

    return {p.name: found(p) for p in session.get_inputs()}, {p.name: found(p) for p in session.get_outputs()}


def _openvino(export: Export) -> Ports:
    from m2f_ros.pipeline.backends.openvino import core

    network = core().read_model(export.path)

    def found(port: Any) -> Found:
        shape = port.partial_shape
        dims = [n.get_length() if n.is_static else None for n in shape] if shape.rank.is_static else None
        return Found(port.element_type.to_dtype().name, None if dims is None else tuple(dims))

    return (
        {name_of(port, i, "input"): found(port) for i, port in enumerate(network.inputs)},
        {name_of(port, i): found(port) for i, port in enumerate(network.outputs)},
    )


def name_of(port: Any, i: int, kind: str = "output") -> str:
    """Return the name of OpenVINO's i-th input or output, or one made up where it has none."""
    return min(port.names) if port.names else f"{kind}{i}"


def _pt2(export: Export) -> Ports:
    program = torch.export.load(export.path)
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    signature = program.graph_signature

    def found(name: object) -> Found:
        value = values.get(str(name))
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} is no tensor")
        return Found(
            str(value.dtype).removeprefix("torch."), tuple(n if isinstance(n, int) else None for n in value.shape)
        )

    inputs = {str(name): found(name) for name in signature.user_inputs}
    outputs = [found(name) for name in signature.user_outputs]
    return inputs, dict(zip(output_names(program), outputs, strict=True))


def output_names(program: torch.export.ExportedProgram) -> list[str]:
    """Return the names of a program's outputs: the keys of a dict, the fields of a named tuple, or output0, output1."""
    count = len(program.graph_signature.user_outputs)
    places = tree_unflatten([*range(count)], program.call_spec.out_spec)
    if isinstance(places, dict) and all(isinstance(place, int) for place in places.values()):
        return [str(name) for name, _ in sorted(places.items(), key=lambda one: one[1])]
    return list(getattr(places, "_fields", ())) or [f"output{i}" for i in range(count)]


class Foreign:
    """Passes images of the pipeline to a file that others made, and its outputs on as the fields of a result.

    Args:
        export: with the inputs and outputs of the file.
        run: the file in its library: an image or a batch of the file's type -> the outputs that were chosen.
    """

    def __init__(self, export: Export, run: Callable[[Tensor], Sequence[Tensor]]):
        manifest = export.manifest
        self._path, self._manifest, self._run = export.path, manifest, run
        (port,) = manifest.inputs.values()
        self._dtype = getattr(torch, port.dtype)
        self._classes = len(export.config.labels)

    def __call__(self, pixels: Tensor) -> list[Tensor]:
        """Map (B, 3, H, W) float32, R, G, B, to the fields of the result; labels are int64, others float32.

        Raises:
            CheckpointError: the network gives other shapes or labels than m2f.yaml says.
        """
        images = pixels.flip(1) if self._manifest.channels == "bgr" else pixels
        if self._manifest.axes == "nhwc":
            images = images.permute(0, 2, 3, 1)
        images = images.to(self._dtype)
        # A file for one image takes a batch as so many calls.
        parts = images.split(1) if self._manifest.batch else (images,)
        found = [self._fields(self._run(part.contiguous()), len(part)) for part in parts]
        return found[0] if len(found) == 1 else [torch.cat(each) for each in zip(*found, strict=True)]

    def try_out(self, device: torch.device) -> None:
        """Run the network once on grey. Raises CheckpointError if it fails, or gives other than m2f.yaml says."""
        stride = self._manifest.stride
        height, width = self._manifest.size or (-(-side // stride) * stride for side in _TRIED)
        try:
            found = self(torch.zeros(1, 3, height, width, device=device))
        except CheckpointError:
            raise
        except Exception as error:  # errors of these libraries have no common base class
            size = f"an image of {height}x{width}"
            raise CheckpointError(
                f"{self._path}: it fails on {size} ({words_of(error, 200)}): correct size or stride in m2f.yaml"
            ) from error
        if any(x.is_floating_point() and not x.isfinite().all() for x in found):
            raise CheckpointError(f"{self._path}: it gives NaN or infinite numbers for a grey image; take another")

    def _fields(self, outputs: Sequence[Tensor], batch: int) -> list[Tensor]:
        manifest = self._manifest
        if manifest.gives == "label_map":
            return [self._labels(outputs[0], batch)]
        if manifest.gives == "pixel_logits":
            (logits,) = outputs
            if logits.dim() == 4 and manifest.axes == "nhwc":
                logits = logits.permute(0, 3, 1, 2)
            if logits.dim() != 4 or logits.shape[:2] != (batch, self._classes):
                raise self._other(logits, f"({batch}, {self._classes} classes, h, w)")
            return [logits.float()]
        classes, masks = sorted(outputs, key=Tensor.dim)
        if classes.dim() != 3 or (classes.shape[0], classes.shape[2]) != (batch, self._classes + 1):
            raise self._other(classes, f"({batch}, queries, {self._classes + 1} for the classes and no object)")
        if masks.dim() != 4 or masks.shape[:2] != classes.shape[:2]:
            raise self._other(masks, f"({batch}, {classes.shape[1]} queries, h, w)")
        return [classes.float(), masks.float()]

    def _labels(self, labels: Tensor, batch: int) -> Tensor:
        if labels.dim() == 4 and 1 in (labels.shape[1], labels.shape[3]):
            labels = labels[:, 0] if labels.shape[1] == 1 else labels[..., 0]
        if labels.dim() != 3 or len(labels) != batch or labels.is_floating_point():
            raise self._other(labels, f"({batch}, h, w) whole numbers")
        labels = labels.long()
        most = self._classes - 1
        wrong = labels[((labels < 0) | (labels > most)) & (labels != self._manifest.unlabelled)]
        if len(wrong):
            raise CheckpointError(
                f"{self._path}: it gives label {int(wrong[0])}, and m2f.yaml has classes 0 to {most}, and "
                f"{self._manifest.unlabelled} for none: correct the classes"
            )
        return labels

    def _other(self, found: Tensor, wanted: str) -> CheckpointError:
        it = f"{str(found.dtype).removeprefix('torch.')} {tuple(found.shape)}"
        return CheckpointError(f"{self._path}: it gives {it}, and m2f.yaml says {wanted}: correct classes or gives")
