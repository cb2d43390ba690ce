"""Checkpoints in Hugging Face's layout on disk: config.json, preprocessor_config.json and safetensors or .bin."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from m2f_ros.errors import CheckpointError
from m2f_ros.files import whole
from m2f_ros.model.config import ModelConfig
from m2f_ros.model.mask2former import Mask2Former

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
            "facebook/mask2former-swin-large-cityscapes-semantic", which is fetched into the hub's cache first.
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
    model = Mask2Former(ModelConfig.read(folder))
    state = read_weights(folder)
    ours, missing = {}, []
    for key, parameter in model.state_dict().items():
        parts = [state.pop(k, None) for k in disk_keys(key)]
        if any(part is None for part in parts):
            if key.endswith("num_batches_tracked"):
                ours[key] = parameter
            else:
                missing += [k for k, part in zip(disk_keys(key), parts, strict=True) if part is None]
            continue
        value = torch.cat(parts) if len(parts) > 1 else parts[0]
        if value.shape != parameter.shape:
            raise CheckpointError(
                f"{folder}: {disk_keys(key)[0]} has shape {tuple(value.shape)}, but config.json asks for "
                f"{tuple(parameter.shape)}; config.json and the weights are of different models"
            )
        ours[key] = value
    surplus = [key for key in state if not _NOT_THE_NETWORK.search(key)]
    for what, keys in (("lacks", missing), ("has surplus", surplus)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise CheckpointError(
                f"{folder}: the checkpoint {what} {len(keys)} weights: {', '.join(keys[:3])}{more}; "
                f"its config.json does not belong to it, or it is no complete Mask2Former"
            )
    model.load_state_dict(ours)
    return model.train()


def save(model: Mask2Former, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write a checkpoint folder that `load` and, for a Swin backbone, transformers read.

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
    with whole(folder / "model.safetensors") as partial:
        save_file(state, partial, metadata={"format": "pt"})
        partial.chmod(0o644)  # safetensors leaves it to the owner alone
    model.config.write(folder)


def find(name: str | Path) -> Path:
    """The folder of a checkpoint: a path as it is, a shipped model's, or the hub's cache after a download."""
    path = Path(name).expanduser()
    if str(name) and path.is_dir():
        return path
    plain = re.fullmatch(r"[\w-]+", str(name))
    if plain and (SHIPPED / plain[0]).is_dir():
        return SHIPPED / plain[0]
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", str(name)):
        shipped = ", ".join(sorted(p.name for p in SHIPPED.glob("*") if p.is_dir())) or "none"
        raise CheckpointError(
            f"model {str(name)!r} is neither a folder, nor a shipped model ({shipped}), nor a hub id 'owner/name'"
        )
    return _download(str(name))


def disk_keys(name: str) -> list[str]:
    """The key, or the three keys, on disk of a parameter here."""
    for pattern, replacement in _TO_DISK:
        name = re.sub(pattern, replacement, name)
    for fused, parts in _FUSED.items():
        if fused in name:
            return [name.replace(fused, part) for part in parts]
    return [name]


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint folder by their keys on disk: one file or shards, safetensors before .bin.

    Raises:
        CheckpointError: no weights, a shard that is missing, a damaged or truncated file.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return _read_file(folder / name)
        if index.is_file():
            try:
                shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            except (ValueError, KeyError, AttributeError, TypeError):
                raise CheckpointError(f"{index} is no index of shards; fetch the checkpoint again") from None
            state = {}
            for shard in shards:
                state.update(_read_file(folder / shard))
            return state
    raise CheckpointError(f"{folder} has no model.safetensors and no pytorch_model.bin, nor an index of shards")


def _read_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing, but the index names it; fetch the checkpoint again")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is damaged or truncated ({reason}); fetch it again") from None


def _download(name: str) -> Path:
    # Imported here: a folder needs no hub, and the import takes a while.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
        if not list(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=["*.json", "*.bin", "*.bin.index.json"]))
        return folder
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"model {name!r} is not a folder here and could not be had from the Hugging Face hub: {reason}"
        ) from None
