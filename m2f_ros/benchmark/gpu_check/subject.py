"""The network that several parts are about, with weights made once for all of them."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from m2f_ros import taxonomy
from m2f_ros.benchmark import weights
from m2f_ros.benchmark.weights import Checkpoint
from m2f_ros.model import SWIN, Mask2Former, ModelConfig, build, load, save
from m2f_ros.pipeline.device import choose_device, choose_precision


def subject(arguments: dict) -> tuple[Mask2Former, Checkpoint, torch.device, str]:
    """(network on the device in fp32, its weights on disk, device, precision) of a part's model and device."""
    device = choose_device(arguments["device"])
    found = checkpoint(arguments["model"], Path(arguments["scratch"]), device)
    return load(found.folder, device=device), found, device, choose_precision(None, device)


def checkpoint(name: str, scratch: Path, device: torch.device) -> Checkpoint:
    """As `weights.checkpoint`, but what is made is made on the device, and once for all processes with this `scratch`.

    Raises:
        CheckpointError: there is no such model.
    """
    folder, note = scratch / name, scratch / f"{name.replace('/', '_')}.json"
    if note.exists():
        return Checkpoint(folder, **json.loads(note.read_text()), config=ModelConfig.read(folder))
    if name not in SWIN or weights._cached(f"facebook/mask2former-{name}-cityscapes-semantic"):
        return weights.checkpoint(name, scratch)
    torch.manual_seed(weights.SEED)
    with device:
        model = build(ModelConfig(SWIN[name], taxonomy.get("cityscapes").names, taxonomy="cityscapes"))
        weights.spread_queries(model)
    save(model, folder)
    origin = weights.RANDOM if device.type == "cpu" else f"{weights.RANDOM}; drawn on the GPU"
    note.write_text(json.dumps({"origin": origin, "random": True}))
    return Checkpoint(folder, origin, True, model.config)
