"""The network that several parts are about, with weights made once for all of them."""

from __future__ import annotations

from pathlib import Path

import torch

from m2f_ros.benchmark.weights import Checkpoint, checkpoint
from m2f_ros.model import Mask2Former, load
from m2f_ros.pipeline.device import choose_device, choose_precision


def subject(arguments: dict) -> tuple[Mask2Former, Checkpoint, torch.device, str]:
    """(network on the device in fp32, its weights on disk, device, precision) of a part's model and device."""
    device = choose_device(arguments["device"])
    found = checkpoint(arguments["model"], Path(arguments["scratch"]), device)
    return load(found.folder, device=device), found, device, choose_precision(None, device)
