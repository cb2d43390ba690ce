"""Traces a module by torch.export."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator

import torch
from torch import nn
from torch.export import ExportedProgram

from m2f_ros.errors import ConfigError, words_of

# torch.export patches objects that all threads share, such as nn.Module.
EXPORTING = threading.Lock()
_MOST_SIDE = 1 << 14  # pixels
# Their lines are about each operation.
_CHATTER = ("onnxscript", "onnx_ir", "torch.onnx", "torch.onnx._internal.exporter._registration")


def trace(module: nn.Module, example: torch.Tensor, stride: int | None = None) -> ExportedProgram:
    """Trace a module for any batch.

    Args:
        example: input of two or more images: torch.export takes a batch of one for a constant.
        stride: number whose multiples are the input's height and width, to leave these open, too; None to fix them.
    Raises:
        ConfigError: torch.export does not find the module the same for all these shapes.
    """
    dim = torch.export.Dim
    shape: dict[int, object] = {0: dim("batch", min=1)}
    if stride:
        # The names of whole dimensions appear in the files: height is 32 * rows.
        rows, columns = (dim(name, min=2, max=_MOST_SIDE // stride) for name in ("rows", "columns"))
        shape |= {2: stride * rows, 3: stride * columns}
    with EXPORTING, torch.inference_mode(False), torch.no_grad(), quiet():
        try:
            return torch.export.export(module.eval(), (example,), dynamic_shapes=(shape,))
        except Exception as error:  # torch.export's errors have no common base class
            what = "for every size (name one with --size HEIGHTxWIDTH)" if stride else "for any batch"
            raise ConfigError(f"the network cannot be exported {what}: {words_of(error, 200)}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings and lines of the exporters about their own steps."""
    loggers = [logging.getLogger(name) for name in _CHATTER]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
