"""Checkpoints in Hugging Face's layout on disk: config.json, preprocessor_config.json and safetensors or .bin."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from m2f_ros.errors import CheckpointError
from m2f_ros.files import whole
from m2f_ros.model import hub, preprocessor
from m2f_ros.model.config import ModelConfig, SwinConfig
from m2f_ros.model.layout import what_is_file
from m2f_ros.model.mask2former import Mask2Former
from m2f_ros.model.tensors import read_weights

SHIPPED = Path(__file__).parent / "weights"

# Names of the modules here -> keys on disk; applied in order. Hugging Face's files keep these legacy keys, whatever
# transformers calls its modules in memory.
_TO_DISK = [
    (r"^decoder\.class_predictor\.", r"class_predictor."),
    (r"^decoder\.query_embed\.", r"model.transformer_module.queries_embedder."),
    (r"^decoder\.query_features\.", r"model.transformer_module.queries_features."),
    (r"^decoder\.level_embed\.", r"model.transformer_module.level_embed."),
    (r"^decoder\.mask_embed\.(\d)\.", r"decoder.mask_predictor.mask_embedder.\1.0."),
    (r"^decoder\.norm\.", r"decoder.layernorm."),
    (r"^decoder\.(.*)\.norm1\.", r"decoder.\1.cross_attn_layer_norm."),
    (r"^decoder\.(.*)\.norm2\.", r"decoder.\1.self_attn_layer_norm."),
    (r"^decoder\.(.*)\.norm3\.", r"decoder.\1.final_layer_norm."),
    (r"^decoder\.(.*)\.cross_attn\.in_proj\.", r"decoder.\1.cross_attn.in_proj_"),
    (r"^decoder\.mask_projection\.", r"model.pixel_level_module.decoder.mask_projection."),
    (r"^decoder\.", r"model.transformer_module.decoder."),
    (r"^pixel_decoder\.lateral\.", r"pixel_decoder.adapter_1."),
    (r"^pixel_decoder\.output\.", r"pixel_decoder.layer_1."),
    (r"^pixel_decoder\.(.*)\.norm1\.", r"pixel_decoder.\1.self_attn_layer_norm."),
    (r"^pixel_decoder\.(.*)\.norm2\.", r"pixel_decoder.\1.final_layer_norm."),
    (r"^pixel_decoder\.layers\.", r"pixel_decoder.encoder.layers."),
    (r"^pixel_decoder\.", r"model.pixel_level_module.decoder."),
    (r"(\.blocks\.\d+)\.norm1\.", r"\1.layernorm_before."),
    (r"(\.blocks\.\d+)\.norm2\.", r"\1.layernorm_after."),
    (r"(\.blocks\.\d+)\.fc1\.", r"\1.intermediate.dense."),
    (r"(\.blocks\.\d+)\.fc2\.", r"\1.output.dense."),
    (r"\.attn\.proj\.", r".attention.output.dense."),
    (r"\.attn\.qkv\.", r".attention.self.qkv."),
    (r"\.attn\.bias_table$", r".attention.self.relative_position_bias_table"),
    (r"^backbone\.norms\.0\.", r"backbone.hidden_states_norms.stage1."),
    (r"^backbone\.norms\.1\.", r"backbone.hidden_states_norms.stage2."),
    (r"^backbone\.norms\.2\.", r"backbone.hidden_states_norms.stage3."),
    (r"^backbone\.norms\.3\.", r"backbone.hidden_states_norms.stage4."),
    (r"^backbone\.stages\.(\d+\.(?:blocks|downsample))\.", r"backbone.encoder.layers.\1."),
    (r"^backbone\.patch_norm\.", r"backbone.embeddings.norm."),
    (r"^backbone\.patch_embed\.", r"backbone.embeddings.patch_embeddings.projection."),
    (r"^backbone\.", r"model.pixel_level_module.encoder."),
]
# One matrix here, three on disk.
_FUSED = {
    ".attention.self.qkv.": (".attention.self.query.", ".attention.self.key.", ".attention.self.value."),
    ".self_attn.in_proj.": (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj."),
}
# What files hold besides the network: the loss' class weights, an index table, a norm that Swin's features bypass.
_NOT_THE_NETWORK = re.compile(r"^criterion\.|relative_position_index$|\.encoder\.(swin\.)?layernorm\.")


def load(name: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Mask2Former:
    """Load a Mask2Former for inference.

    Args:
        name: a folder; a name of a shipped model ("street"); or a Hugging Face hub id with a Swin backbone, such as
            "facebook/mask2former-swin-large-cityscapes-semantic", which is fetched into the hub's cache where it is
            not there yet.
        dtype: of the weights.
    Returns:
        The network in eval mode, batch norms folded, without gradients.
    Raises:
        CheckpointError: nothing of that name; a damaged or incomplete file; another architecture; missing, surplus
            or misshapen weights.
    """
    model = load_for_training(name)
    if hasattr(model.backbone, "fold_norms"):
        model.backbone.fold_norms()
    return model.requires_grad_(False).eval().to(device, dtype)


def load_for_training(name: str | Path) -> Mask2Former:
    """As `load`, but in training mode, with gradients, and with the batch norms as they were saved."""
    folder = find(name)
    try:
        config, state = ModelConfig.read(folder), read_weights(folder)
        # Without memory: first the file has to confirm what config.json asks for.
        with torch.device("meta"), _Uninitialised():
            model = Mask2Former(config)
        own = model.state_dict()
        parts = _parts(folder, own, state)
        state = {key: _value(folder, key, own[key], found) for key, found in parts.items()}
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or "there is too little memory for its weights"
        raise CheckpointError(f"{folder} cannot be read: {reason}") from None
    model.load_state_dict(state, assign=True)
    return model.train()


class _Uninitialised(TorchFunctionMode):
    """Parameters keep what they are made with. Without memory, normal_ would import the compiler for seconds."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _parts(folder: Path, own: dict[str, Tensor], state: dict[str, Tensor]) -> dict[str, list[Tensor]]:
    """The tensors of a file that make up each of the network's, all there and of the right shapes.

    own: of the network, without memory. Raises CheckpointError for a tensor that is missing, surplus, or misshapen.
    """
    found, missing = {}, []
    for key, parameter in own.items():
        names = disk_keys(key)
        parts = [state.pop(name, None) for name in names]
        if any(part is None for part in parts):
            if key.endswith("num_batches_tracked"):
                found[key] = [torch.zeros((), dtype=parameter.dtype)]
            else:
                missing += [name for name, part in zip(names, parts, strict=True) if part is None]
            continue
        shape = (parameter.shape[0] // len(names), *parameter.shape[1:]) if len(names) > 1 else tuple(parameter.shape)
        for name, part in zip(names, parts, strict=True):
            if tuple(part.shape) != shape:
                raise CheckpointError(
                    f"{folder}: {name} has shape {tuple(part.shape)}, but config.json asks for {shape}; config.json "
                    "and the weights are of different models"
                )
        found[key] = parts
    surplus = [key for key in state if not _NOT_THE_NETWORK.search(key)]
    for what, keys in (("lacks", missing), ("has surplus", surplus)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise CheckpointError(
                f"{folder}: the checkpoint {what} {len(keys)} weights: {', '.join(keys[:3])}{more}; "
                f"its config.json does not belong to it, or it is no complete Mask2Former"
            )
    return found


# Files that `save` writes.
FILES = ("model.safetensors", "config.json", preprocessor.FILE)


def save(model: Mask2Former, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write a checkpoint folder that `load` and, for a Swin backbone, transformers read, which then lacks no weight.

    Args:
        model: with its batch norms as they are in training, not folded.
        dtype: of the floating-point weights in the file; None keeps the model's.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {}
    for key, value in model.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        value = value.detach().to("cpu", dtype if dtype and value.is_floating_point() else None)
        keys = disk_keys(key)
        for name, part in zip(keys, value.chunk(len(keys)), strict=True):
            state[name] = part.clone(memory_format=torch.contiguous_format)
    (kind,) = {value.dtype for value in state.values()}
    if isinstance(model.config.backbone, SwinConfig):
        state |= _unused_weights(model, kind)
    with whole(folder / "model.safetensors") as partial:
        save_file(state, partial, metadata={"format": "pt"})
        partial.chmod(0o644)  # safetensors leaves it to the owner alone
    model.config.write(folder, str(kind).removeprefix("torch."))


def find(name: str | Path) -> Path:
    """The folder of a checkpoint: a path as it is, a shipped model's, or one in the hub's cache; see `hub.find`."""
    path = Path(os.path.expanduser(name))
    if str(name) and os.path.isdir(path):  # False where the name is none
        return path
    if os.path.isfile(path):
        raise CheckpointError(f"{path} is a file, not the folder of a checkpoint: {what_is_file(path)}")
    plain = re.fullmatch(r"[\w-]{1,100}", str(name))
    if plain and (SHIPPED / plain[0]).is_dir():
        return SHIPPED / plain[0]
    if not re.fullmatch(r"\w[\w.-]{0,99}/[\w.-]{1,100}", str(name)):
        shipped = ", ".join(sorted(p.name for p in SHIPPED.glob("*") if p.is_dir())) or "none"
        raise CheckpointError(
            f"model {str(name)!r} is neither a folder, nor a shipped model ({shipped}), nor a hub id 'owner/name'"
        )
    return hub.find(str(name))


def disk_keys(name: str) -> list[str]:
    """The key, or the three keys, on disk of a parameter here."""
    for pattern, replacement in _TO_DISK:
        name = re.sub(pattern, replacement, name)
    for fused, parts in _FUSED.items():
        if fused in name:
            return [name.replace(fused, part) for part in parts]
    return [name]


def _unused_weights(model: Mask2Former, dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights of transformers that no image passes: a norm of Swin, and the class weights of the loss."""
    norm = "model.pixel_level_module.encoder.swin.layernorm."
    width = model.backbone.channels[-1]
    classes = torch.ones(model.config.num_classes + 1, dtype=dtype)
    classes[-1] = 0.1  # no_object_weight
    return {
        f"{norm}weight": torch.ones(width, dtype=dtype),
        f"{norm}bias": torch.zeros(width, dtype=dtype),
        "criterion.empty_weight": classes,
    }


@torch.no_grad()
def _value(folder: Path, key: str, parameter: Tensor, parts: list[Tensor]) -> Tensor:
    """The network's tensor, finite and in memory of its own, out of those of the file. parameter: its shape and dtype.

    A file that is mapped into memory may be cut while the network is in use, which would end the process.
    """
    where = f"{folder}: {disk_keys(key)[0]}"
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
