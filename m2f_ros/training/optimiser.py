"""Parameter groups, the learning rate over the steps, and the moving average of the weights."""

from __future__ import annotations

import bisect
import math

import torch
from torch import nn

from m2f_ros.model import Network
from m2f_ros.training.config import ScheduleConfig

_FREE = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.Embedding)
_NO_DECAY = ("embed.weight", "level_embed", "query_features.weight", "bias_table")


def build_optimiser(model: Network, config: ScheduleConfig) -> torch.optim.AdamW:
    """AdamW over four groups: encoder or not, decayed or not.

    As upstream, norms, biases, embeddings and relative position tables are not decayed, and the encoder
    learns at config.backbone_rate times the rate. A group's factor on the rate is under "factor".
    """
    encoder = {id(parameter) for parameter in model.encoder().parameters()}
    free_layers = {id(p) for m in model.modules() if isinstance(m, _FREE) for p in m.parameters(recurse=False)}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            free = id(parameter) in free_layers or parameter.dim() == 1 or name.endswith(_NO_DECAY)
            groups.setdefault((id(parameter) in encoder, free), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "factor": config.backbone_rate if backbone else 1.0,
                "weight_decay": 0.0 if free else config.weight_decay,
            }
            for (backbone, free), parameters in sorted(groups.items())
        ],
        lr=config.rate,
        fused=True,
    )


def rate_at(step: int, config: ScheduleConfig) -> float:
    """Learning rate of a step: linear warm-up, then one of the decays, at the end a linear cool-down to 0.

    Polynomial (power 0.9) or half-cosine to 0 at config.steps, or times gamma after each milestone.
    """
    if step < config.warm_up:
        return config.rate * (step + 1) / config.warm_up
    rate = config.rate * _decay(step, config)
    return rate * min(1.0, (config.end - step) / config.cool_down) if config.cool_down else rate


def _decay(step: int, config: ScheduleConfig) -> float:
    done = (step - config.warm_up) / max(config.steps - config.warm_up, 1)
    if config.decay == "poly":
        return (1 - done) ** 0.9
    if config.decay == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if config.decay == "step":
        return config.gamma ** bisect.bisect_right(config.milestones, step)
    return 1.0


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Move the averaged weights towards the model's; early steps move further, to forget the start."""
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
    for ours, theirs in zip(average.buffers(), model.buffers(), strict=True):
        ours.copy_(theirs)
