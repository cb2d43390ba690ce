"""Reads the tensors of a checkpoint's files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from m2f_ros.errors import CheckpointError, some
from m2f_ros.model.layout import DETECTRON2, refuse_pointer, weight_files
from m2f_ros.model.pickles import LONGEST_TABLE, load_pickle

# Keys of the weights in trainers' files.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Read all tensors of a checkpoint folder, by key, from one file or shards, safetensors before .bin.

    Raises:
        CheckpointError: there are no weights, a shard is missing, or a file is damaged or holds other content.
    """
    state: dict[str, Tensor] = {}
    size = 0
    for file in weight_files(folder):
        state.update(read_file(file))
        size += file.stat().st_size
    if sum(value.nbytes for value in state.values()) > 2 * size:
        raise CheckpointError(f"{folder}: its weights are views of each other, and come to more than their files hold")
    return state


def read_file(path: Path) -> dict[str, Tensor]:
    """Read all tensors of one file of weights, by key. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, but the index names it; fetch the checkpoint again")
    refuse_pointer(path)
    content: Any
    try:
        if path.suffix == ".safetensors":
            _check_header(path)
            content = load_file(path)
        else:
            content = load_pickle(path, "cpu")
    except Exception as error:  # a damaged pickle raises errors of any type
        raise CheckpointError(f"{path} {_reason(error)}") from None
    for _ in range(2):  # wrappers may be nested
        if isinstance(content, dict):
            content = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, and no weights by name; save a state_dict")
    if {"state", "param_groups"} <= content.keys():
        raise CheckpointError(f"{path} is the state of an optimiser alone; name the folder with the model's weights")
    tensors = {k: value.detach() for k, value in content.items() if isinstance(value, Tensor) and isinstance(k, str)}
    if any(key.startswith("sem_seg_head.") for key in tensors):
        raise CheckpointError(f"{path} {DETECTRON2}")
    for key, value in tensors.items():
        if value.layout is not torch.strided or value.is_nested or value.is_quantized or value.device.type != "cpu":
            raise CheckpointError(f"{path}: {key} is a sparse, quantised or empty tensor; save plain ones")
        if value.numel() > value.untyped_storage().nbytes():
            raise CheckpointError(f"{path}: {key} of shape {tuple(value.shape)} has fewer numbers; save plain tensors")
    if not tensors:
        held = some([str(key) for key in content], most=4) or "nothing"
        raise CheckpointError(f"{path} holds no weights, but {held}; save the network's state_dict")
    return tensors


def _check_header(path: Path) -> None:
    """Raise ValueError if the header of a .safetensors would take much memory; the library checks its content."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > LONGEST_TABLE:
        raise ValueError(f"its header says that it has {length} bytes")


def _reason(error: Exception) -> str:
    """Return in one line why a file cannot be read. torch's own message advises to turn weights_only off."""
    text = str(error)
    if "TorchScript" in text:
        return "is a TorchScript archive; save the network's state_dict"
    if "weights_only" in text:
        found = re.search(r"GLOBAL ([\w.]+)", text)
        what = f"more than tensors ({found[1]})" if found else "no tensors that PyTorch has written"
        return (
            f"holds {what} and is not opened: such a file can run any code; fetch it again, or ask its author for "
            "model.safetensors or for the state_dict alone"
        )
    return f"is damaged or truncated ({text.splitlines()[0] if text else type(error).__name__}); fetch it again"
