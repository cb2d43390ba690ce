"""Quantised checkpoints: weights in eight bits, and the ranges that a runtime needs, beside the usual files.

`model.safetensors` has the network with folded batch norms. A weight KEY in eight bits is int8, and "KEY:step"
(channels,) float32 times it is the weight. "PRODUCT:scale" and "PRODUCT:correction" are of a `Quantisation`;
corrections may be float16.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from m2f_ros.errors import CheckpointError
from m2f_ros.files import whole, write_whole
from m2f_ros.model.layout import read_json, weight_files
from m2f_ros.model.network import Network
from m2f_ros.model.quantised import LARGEST, WEIGHT_STEPS, Quantisation
from m2f_ros.model.registry import family_of, write_config

FILE = "quantisation.json"
FOLDER = "int8"  # of a checkpoint's quantised form, in its folder
VERSION = 1
LITTLE = 0.005  # mIoU lost by a quantised form that may be taken unasked


def find_quantised(folder: Path) -> Path | None:
    """Return the folder of the quantised form of the checkpoint in a folder: itself or a part of it; None without."""
    return next((place for place in (folder, folder / FOLDER) if (place / FILE).is_file()), None)


def loses_little(folder: Path) -> bool:
    """Return True if the checkpoint in a folder has a quantised form that lost at most LITTLE on all that it was scored
    on.

    Raises:
        CheckpointError: its FILE is damaged.
    """
    place = find_quantised(folder)
    scores = read_json(place / FILE).get("scores") if place else None
    losses = [found.get("loss") for found in scores if isinstance(found, dict)] if isinstance(scores, list) else []
    return bool(losses) and all(isinstance(loss, float | int) and loss <= LITTLE for loss in losses)


def sums(folder: Path) -> dict[str, str]:
    """Return the sha256 of each file of a checkpoint's weights, by its name. Raises CheckpointError."""
    found = {}
    for path in weight_files(folder):
        digest = hashlib.sha256()
        try:
            with path.open("rb") as file:
                while part := file.read(1 << 20):
                    digest.update(part)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
        found[path.name] = digest.hexdigest()
    return found


def check_origin(place: Path, folder: Path) -> None:
    """Raise CheckpointError if the quantised form in `place` was made from other weights than those in `folder`."""
    origin = read_json(place / FILE).get("weights")
    if origin is not None and origin != sums(folder):
        raise CheckpointError(
            f"{place} was made from other weights than those in {folder}: quantise the model anew, delete {place}, or "
            "take another precision than int8"
        )


def split(tensors: dict[str, Tensor], folder: Path) -> tuple[dict[str, Tensor], Quantisation]:
    """Split the tensors of a quantised checkpoint into the weights, in floating point, and the quantisation.

    Raises:
        CheckpointError: the files are damaged, of a newer version, or do not belong together.
    """
    content, path = read_json(folder / FILE), folder / FILE
    if content.get("version") != VERSION:
        raise CheckpointError(f"{path} has version {content.get('version')!r}, not {VERSION}; quantise the model anew")
    ranges = content.get("ranges")
    if not isinstance(ranges, dict) or not ranges or not all(map(_is_range, ranges.values())):
        raise CheckpointError(f"{path}: ranges must map products to their lowest and highest value; quantise anew")
    state, parts = dict(tensors), {}
    for part in ("scale", "correction"):
        found = {name: state.pop(f"{name}:{part}", None) for name in ranges}
        parts[part] = {name: value for name, value in found.items() if value is not None}
    halves = {name: value.float() for name, value in parts["correction"].items() if value.dtype == torch.float16}
    parts["correction"] |= halves
    steps = {key.removesuffix(":step"): state.pop(key) for key in list(state) if key.endswith(":step")}
    if parts["scale"].keys() != ranges.keys() or not steps.keys() <= state.keys():
        raise CheckpointError(f"{folder}: {FILE} and the weights are of different models; quantise the model anew")
    for name, value in [(n, v) for part in parts.values() for n, v in part.items()] + list(steps.items()):
        if value.dtype != torch.float32 or value.dim() != 1 or not value.isfinite().all():
            raise CheckpointError(f"{folder}: the numbers of {name} are damaged; quantise the model anew")
    if not all((scale > 0).all() for scale in parts["scale"].values()):
        raise CheckpointError(f"{folder}: a step of the weights is not above 0; quantise the model anew")
    for key, step in steps.items():
        value = state[key]
        if value.dtype != torch.int8 or not value.dim() or len(value) != len(step):
            raise CheckpointError(f"{folder}: {key} is not in eight bits as {key}:step says; quantise the model anew")
        state[key] = value.float() * step.view(-1, *[1] * (value.dim() - 1))
    ranges = {name: (float(low), float(high)) for name, (low, high) in ranges.items()}
    return state, Quantisation(ranges, parts["scale"], parts["correction"])


def _is_range(value: Any) -> bool:
    numbers = isinstance(value, list) and len(value) == 2 and all(type(x) in (int, float) for x in value)
    return numbers and all(map(math.isfinite, value)) and value[0] <= 0 <= value[1] and value[0] < value[1]


def save_quantised(model: Network, folder: Path, exact: Collection[str], about: dict[str, Any]) -> None:
    """Write the checkpoint of a network with folded norms and a quantisation, for `load`.

    Args:
        exact: names of weights that stay in 16 bits; see `weights_in_eight_bits`.
        about: further fields of the file FILE, in JSON types.
    """
    quantisation = model.quantisation
    assert quantisation is not None
    folder.mkdir(parents=True, exist_ok=True)
    keys, rounded = family_of(model.config).keys, set(weights_in_eight_bits(model)) - set(exact)
    products = {f"{name.partition(':')[0]}.weight" for name in quantisation.ranges}  # rounded once, not twice
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        value, disk = value.detach().cpu(), keys.disk_keys(name)
        for key, part in zip(disk, value.chunk(len(disk)), strict=True):
            if name in rounded:
                state[key], state[f"{key}:step"] = in_eight_bits(part, WEIGHT_STEPS if name in products else LARGEST)
            else:
                state[key] = (part.half() if part.is_floating_point() else part).clone()
    for name, scale in quantisation.scales.items():
        state[f"{name}:scale"] = scale
    for name, correction in quantisation.corrections.items():
        small = correction.half()
        state[f"{name}:correction"] = small if small.isfinite().all() else correction
    with whole(folder / "model.safetensors") as partial:
        save_file({key: value.contiguous() for key, value in state.items()}, partial, metadata={"format": "pt"})
        partial.chmod(0o644)  # safetensors restricts it to the owner
    write_config(model.config, folder, "float16")
    content = {"version": VERSION, **about, "ranges": quantisation.ranges}
    write_whole(folder / FILE, json.dumps(content, indent=1, allow_nan=False) + "\n")


def in_eight_bits(weight: Tensor, steps: int = LARGEST) -> tuple[Tensor, Tensor]:
    """Return a weight (channels, …) as int8, from -steps to steps, and the step (channels,) float32 of each channel."""
    rows = weight.float().flatten(1)
    step = (rows.abs().amax(1) / steps).clamp(min=1e-12)
    rounded = (rows / step[:, None]).round().clamp(-steps, steps)
    return rounded.to(torch.int8).view(weight.shape), step


def weights_in_eight_bits(model: Network) -> list[str]:
    """Return the names of the weights that a quantised checkpoint may have in eight bits."""
    return [
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and not model.keeps_float(f"{name}:weight")
    ]
