"""The tensors of a checkpoint's files."""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from m2f_ros.errors import CheckpointError
from m2f_ros.model.layout import DETECTRON2, refuse_pointer, some, weight_files

# Under what trainers keep the weights in their files.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
_CLASS_LAYER = "class_predictor.weight"
# Swin's keys in a state_dict of transformers 5, whose own files keep the older ones; applied in order.
_SWIN_IN_MEMORY = [
    (r"^(model\.pixel_level_module\.encoder)\.swin\.(embeddings|encoder)\.", r"\1.\2."),
    (r"(\.blocks\.\d+\.attention)\.relative_position_bias\.", r"\1.self."),
    (r"(\.blocks\.\d+\.attention)\.q_proj\.", r"\1.self.query."),
    (r"(\.blocks\.\d+\.attention)\.k_proj\.", r"\1.self.key."),
    (r"(\.blocks\.\d+\.attention)\.v_proj\.", r"\1.self.value."),
    (r"(\.blocks\.\d+\.attention)\.o_proj\.", r"\1.output.dense."),
    (r"(\.blocks\.\d+)\.mlp\.fc1\.", r"\1.intermediate.dense."),
    (r"(\.blocks\.\d+)\.mlp\.fc2\.", r"\1.output.dense."),
]


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint folder by their keys on disk: one file or shards, safetensors before .bin.

    What wrappers of a network put before its keys (`module.`, Lightning's `model.`, `_orig_mod.`) is taken off, and
    their own weights are left out; keys of a state_dict of transformers are turned into those of its files.

    Raises:
        CheckpointError: no weights; a shard that is missing; a file that is damaged, or holds other things.
    """
    state = {}
    for file in weight_files(folder):
        state.update(_read_file(file))
    prefixes = [key.removesuffix(_CLASS_LAYER) for key in state if key.endswith(_CLASS_LAYER)]
    if len(prefixes) > 1 and "" not in prefixes:
        raise CheckpointError(
            f"{folder} holds {len(prefixes)} networks, their keys begin with {some(prefixes)}; save one of them alone"
        )
    prefix = prefixes[0] if len(prefixes) == 1 else ""
    return {_on_disk(key.removeprefix(prefix)): value for key, value in state.items() if key.startswith(prefix)}


def _on_disk(key: str) -> str:
    for pattern, replacement in _SWIN_IN_MEMORY:
        key = re.sub(pattern, replacement, key)
    return key


def _read_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, but the index names it; fetch the checkpoint again")
    refuse_pointer(path)
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what it warns of is refused
                content = torch.load(path, map_location="cpu", weights_only=True)
    # What a damaged pickle raises is not bounded.
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError) as error:
        raise CheckpointError(f"{path} {_reason(error)}") from None
    for _ in range(2):  # a wrapper may be in another
        if isinstance(content, dict):
            inner = (content[key] for key in _WRAPPERS if isinstance(content.get(key), dict))
            content = next(inner, content)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, and no weights by name; save a state_dict")
    if {"state", "param_groups"} <= content.keys():
        raise CheckpointError(f"{path} is the state of an optimiser alone; name the folder with the model's weights")
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor) and isinstance(key, str)}
    if any(key.startswith("sem_seg_head.") for key in tensors):
        raise CheckpointError(f"{path} {DETECTRON2}")
    if not tensors:
        held = some([str(key) for key in content]) or "nothing"
        raise CheckpointError(f"{path} holds no weights, but {held}; save the network's state_dict")
    return tensors


def _reason(error: Exception) -> str:
    """Why a file cannot be read, in one line. torch's own words would have it read without its guard."""
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
