"""Checkpoints in Hugging Face's layout on disk: config.json, preprocessor_config.json and safetensors or .bin."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from m2f_ros.errors import CheckpointError
from m2f_ros.files import whole
from m2f_ros.model import hub, preprocessor, quantised_files
from m2f_ros.model.adapters import huggingface, zoo
from m2f_ros.model.keys import KeyMap
from m2f_ros.model.layout import what_is_file
from m2f_ros.model.network import Network, NetworkConfig
from m2f_ros.model.registry import ZOO, family_in, family_of, write_config
from m2f_ros.model.tensors import read_file, read_tensors

SHIPPED = Path(__file__).parent / "weights"


def load(
    name: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    eight_bits: bool = False,
) -> Network:
    """Load a network for inference.

    Args:
        name: folder of a checkpoint; name of a shipped model ("street"); or Hugging Face hub id of a known family, such
            as "facebook/mask2former-swin-large-cityscapes-semantic", which is downloaded unless it is in the hub's
            cache. "hf:" before it takes transformers' code where this package has its own; ":panoptic" or
            ":instance" behind it asks a OneFormer for that task. "torchvision:NAME:FILE" and
            "smp:ARCHITECTURE/ENCODER:FILE" are a network of these libraries with a file, or folder, of its weights.
        device: device of the weights.
        dtype: dtype of the weights.
        eight_bits: True for the checkpoint's quantised form, whose network has a `quantisation`.
    Returns:
        The network in eval mode, batch norms folded, without gradients.
    Raises:
        CheckpointError: the checkpoint does not exist, is damaged or incomplete, has another architecture, has
            missing, unexpected or misshapen weights, or has no quantised form, or one of other weights.
    """
    folder = find(name)
    if eight_bits:
        quantised = quantised_files.find_quantised(folder)
        if quantised is None:
            raise CheckpointError(f"{folder} has no weights in eight bits: make them by m2f quantize {name}")
        if quantised != folder:
            quantised_files.check_origin(quantised, folder)
        folder = quantised
    model = _load(folder, _wish(name))
    model.fold_norms()
    return model.requires_grad_(False).eval().to(device, dtype)


def has_eight_bits(name: str | Path) -> bool:
    """Return True if a checkpoint has a quantised form. Raises CheckpointError if there is no such checkpoint."""
    return quantised_files.find_quantised(find(name)) is not None


def may_take_eight_bits(name: str | Path) -> bool:
    """Return True if a checkpoint has a quantised form that may be taken unasked: its scores are nearly the same.

    Raises:
        CheckpointError: there is no such checkpoint, or its quantised form is damaged.
    """
    return quantised_files.loses_little(find(name))


def load_for_training(name: str | Path) -> Network:
    """Load a network in training mode, with gradients and unfolded batch norms; see `load`."""
    folder = find(name)
    if (folder / quantised_files.FILE).exists():
        raise CheckpointError(f"{folder} is in eight bits; train the checkpoint that it was made from")
    return _load(folder, _wish(name)).train()


def _load(folder: Path, wish: _Wish) -> Network:
    try:
        quantisation = None
        config: NetworkConfig
        if wish.zoo:
            family = ZOO
            tensors = read_tensors(folder) if folder.is_dir() else read_file(folder)
            config = zoo.config_of(wish.zoo, folder, tensors)
        else:
            family = family_in(folder, wish.adapted)
            config, tensors = family.config.read(folder), read_tensors(folder)
        if wish.task:
            config = _with_task(folder, config, wish.task)
        if (folder / quantised_files.FILE).exists():
            tensors, quantisation = quantised_files.split(tensors, folder)
        state = family.keys.as_in_files(tensors, folder)
        if isinstance(config, huggingface.AdaptedConfig):
            if quantisation:
                raise CheckpointError(f"{folder}: a network of transformers has no form in eight bits")
            return _adapted(folder, config, state)
        # On the meta device: no memory is allocated before the file confirms the sizes in config.json.
        with torch.device("meta") if family.meta else contextlib.nullcontext(), _Uninitialised():
            model = family.network(config)
            if quantisation:
                model.fold_norms()
        if family is ZOO:
            state = zoo.unwrapped(state, model)
        own = model.state_dict()
        title = config.row.title if isinstance(config, zoo.ZooConfig) else type(model).__name__
        parts = _parts(folder, own, state, family.keys, title)
        state = {
            key: _value(f"{folder}: {family.keys.disk_keys(key)[0]}", key, own[key], found)
            for key, found in parts.items()
        }
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or "there is too little memory for its weights"
        raise CheckpointError(f"{folder} cannot be read: {reason}") from None
    model.load_state_dict(state, assign=True)
    model.quantisation = quantisation
    return model


class _Wish(NamedTuple):
    """A name of a model, apart.

    Attributes:
        name: the name itself.
        adapted: True if "hf:" was before it.
        task: the task behind it, or "".
        zoo: a name of torchvision's or segmentation_models.pytorch's, or None.
    """

    name: str
    adapted: bool
    task: str
    zoo: zoo.Name | None = None


def _wish(name: str | Path) -> _Wish:
    text = str(name)
    if not os.path.isdir(os.path.expanduser(text)) and (of_zoo := zoo.parsed(text)):
        return _Wish(text, False, "", of_zoo)
    plain = text.removeprefix("hf:")
    found = re.fullmatch(rf"(.+):({'|'.join(huggingface.TASKS)})", plain)
    if os.path.isdir(os.path.expanduser(text)) or (found and os.path.isdir(os.path.expanduser(plain))):
        found = None
    if os.path.isdir(os.path.expanduser(text)):
        plain = text
    return _Wish(found[1] if found else plain, plain != text, found[2] if found else "")


def _with_task(folder: Path, config: NetworkConfig, task: str) -> NetworkConfig:
    if not isinstance(config, huggingface.AdaptedConfig) or not config.task:
        raise CheckpointError(f"{folder}: {task!r} is a task of a OneFormer, and it is none; leave out ':{task}'")
    return replace(config, task=task)


def _adapted(folder: Path, config: huggingface.AdaptedConfig, state: dict[str, Tensor]) -> Network:
    """Build a network of transformers from the tensors of a file. Raises CheckpointError as `load` does."""
    state = {key: _value(f"{folder}: {key}", key, value, [value]) for key, value in state.items()}
    found = huggingface.load(config, state, folder)
    for key, one, other in found.misshapen[:1]:
        raise CheckpointError(_misshapen(folder, key, one, other))
    _refuse_keys(folder, found.missing, found.surplus, config.row.network)
    return found.network


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return all tensors of a checkpoint folder, by the keys of its family's files.

    Raises:
        CheckpointError: see `read_tensors`; or another architecture; or several networks.
    """
    return family_in(folder).keys.as_in_files(read_tensors(folder), folder)


class _Uninitialised(TorchFunctionMode):
    """Skips the initialisation of weights: on the meta device normal_ imports the compiler, which takes seconds."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _parts(
    folder: Path, own: dict[str, Tensor], state: dict[str, Tensor], keys: KeyMap, network: str
) -> dict[str, list[Tensor]]:
    """Return the tensors of a file that make up each tensor of the network, complete and of the right shapes.

    Args:
        own: tensors of the network, on the meta device.
        state: tensors of the file.
        network: name of the network's type for messages.
    Raises:
        CheckpointError: a tensor is missing, unexpected or misshapen.
    """
    found: dict[str, list[Tensor]] = {}
    missing: list[str] = []
    for key, parameter in own.items():
        names = keys.disk_keys(key)
        absent = [name for name in names if name not in state]
        if absent:
            if key.endswith("num_batches_tracked"):
                found[key] = [torch.zeros((), dtype=parameter.dtype)]
            missing += [] if key in found else absent
            continue
        parts = [state.pop(name) for name in names]
        shape = (parameter.shape[0] // len(names), *parameter.shape[1:]) if len(names) > 1 else tuple(parameter.shape)
        for name, part in zip(names, parts, strict=True):
            if tuple(part.shape) != shape:
                raise CheckpointError(_misshapen(folder, name, tuple(part.shape), shape))
        found[key] = parts
    _refuse_keys(folder, missing, [key for key in state if not keys.ignored.search(key)], network)
    return found


def _misshapen(folder: Path, key: str, one: tuple, other: tuple) -> str:
    return (
        f"{folder}: {key} has shape {one}, but config.json asks for {other}; config.json and the weights are of "
        "different models"
        if (folder / "config.json").is_file()
        else f"{folder}: {key} has shape {one}, but the network of that name has {other}; a folder with config.json "
        "says more of a network"
    )


def _refuse_keys(folder: Path, missing: list[str], surplus: list[str], network: str) -> None:
    """Raise CheckpointError if there are keys that a network of this type lacks or has beyond the file."""
    for fault, names in (("lacks", missing), ("has surplus", surplus)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            reason = f"its config.json does not belong to it, or it is no complete {network}"
            if not (folder / "config.json").is_file():
                reason = f"it is no {network} of that name"
            raise CheckpointError(
                f"{folder}: the checkpoint {fault} {len(names)} weights: {', '.join(names[:3])}{more}; {reason}"
            )


# Files that `save` writes.
FILES = ("model.safetensors", "config.json", preprocessor.FILE)


# The file that a Hugging Face Inference Endpoint imports from a checkpoint; nothing here does.
_HANDLER = """from m2f_ros.serve.handler import EndpointHandler

__all__ = ["EndpointHandler"]
"""


def save(model: Network, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write a checkpoint folder for `load` and, except for a Mask2Former with EfficientNet-Lite, transformers.

    Args:
        model: network with unfolded batch norms.
        folder: folder to write; created if missing.
        dtype: dtype of the floating-point weights in the file; None keeps the model's.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "handler.py").write_text(_HANDLER)
    if isinstance(model, huggingface.Adapted):
        kind = model.write_weights(folder, dtype)
        return write_config(model.config, folder, str(kind).removeprefix("torch."))
    keys = family_of(model.config).keys
    state = {}
    for key, value in model.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        value = value.detach().to("cpu", dtype if dtype and value.is_floating_point() else None)
        names = keys.disk_keys(key)
        for name, part in zip(names, value.chunk(len(names)), strict=True):
            state[name] = part.clone(memory_format=torch.contiguous_format)
    (kind,) = {value.dtype for value in state.values()}
    state |= model.unused_weights(kind)
    with whole(folder / "model.safetensors") as partial:
        save_file(state, partial, metadata={"format": "pt"})
        partial.chmod(0o644)  # safetensors restricts it to the owner
    write_config(model.config, folder, str(kind).removeprefix("torch."))


def find(name: str | Path) -> Path:
    """Return the folder of a checkpoint: a path, a shipped model, or a folder in the hub's cache; see `hub.find`.

    For a name with the network in it, the file or folder of the weights; see `zoo.weights_of`.
    """
    wish = _wish(name)
    if wish.zoo:
        return zoo.weights_of(wish.zoo)
    name = wish.name
    path = Path(os.path.expanduser(name))
    if str(name) and os.path.isdir(path):  # False for an invalid name
        return path
    if os.path.isfile(path):
        raise CheckpointError(f"{path} is a file, not the folder of a checkpoint: {what_is_file(path)}")
    if str(name).partition(":")[0] in ("onnx", "openvino", "pt2"):
        raise CheckpointError(f"{name} is a network in a file, which the pipeline runs alone: the node, m2f replay, …")
    plain = re.fullmatch(r"[\w-]{1,100}", str(name))
    if plain and (SHIPPED / plain[0]).is_dir():
        return SHIPPED / plain[0]
    if not re.fullmatch(r"\w[\w.-]{0,99}/[\w.-]{1,100}", str(name)):
        shipped = ", ".join(sorted(p.name for p in SHIPPED.glob("*") if p.is_dir())) or "none"
        raise CheckpointError(
            f"model {str(name)!r} is neither a folder, nor a shipped model ({shipped}), nor a hub id 'owner/name'"
        )
    return hub.find(str(name))


@torch.no_grad()
def _value(where: str, key: str, parameter: Tensor, parts: list[Tensor]) -> Tensor:
    """Return the value of a tensor of the network, checked to be finite, in memory of its own.

    A view of a memory-mapped file would crash the process if the file is truncated.

    Args:
        where: prefix of messages.
        key: name of the tensor in the network.
        parameter: tensor with its shape and dtype.
        parts: tensors of the file to concatenate.
    """
    if parameter.is_floating_point():
        for part in parts:
            if part.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
                raise CheckpointError(f"{where} is of {part.dtype}: quantised weights are not supported")
    value = torch.empty(parameter.shape, dtype=parameter.dtype)
    for own, part in zip(value.chunk(len(parts)) if len(parts) > 1 else [value], parts, strict=True):
        own.copy_(part)
    if parameter.is_floating_point() and not value.isfinite().all():
        raise CheckpointError(f"{where} holds NaN or infinite values: its training diverged; take another")
    if key.endswith("running_var") and (value < 0).any():
        raise CheckpointError(f"{where} holds variances below 0; take another checkpoint")
    return value
