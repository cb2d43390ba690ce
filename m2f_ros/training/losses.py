"""Mask2Former's loss, after mask2former/modeling/criterion.py of facebookresearch/Mask2Former."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from m2f_ros.training.matching import Targets, match, sample_points, uncertain_points


@dataclass(frozen=True)
class LossConfig:
    """Weights and sampling of the loss; the defaults are upstream's."""

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object_weight: float = 0.1
    points: int = 12544  # on each mask, 112 x 112
    oversample: float = 3.0
    importance: float = 0.75
    ignore_unlabelled: bool = False  # upstream takes unlabelled pixels for background of every mask


def mask_losses(
    mask_logits: Tensor, targets: list[Targets], pairs: list[tuple[Tensor, Tensor]], config: LossConfig
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and dice of the matched masks, each summed over masks: () float32, () float32.

    mask_logits: (B, Q, h, w). pairs: for each image (queries, indices into its targets). With Targets.valid,
    both are means over the labelled points of a mask only.
    """
    logits = torch.cat([image[queries] for image, (queries, _) in zip(mask_logits, pairs, strict=True)]).float()
    truth = torch.cat([target.masks[i] for target, (_, i) in zip(targets, pairs, strict=True)])
    if not len(truth):
        zero = logits.sum()  # keeps the graph: an image without labels has gradients of zero, not none
        return zero, zero
    points = uncertain_points(logits, config.points, config.oversample, config.importance)
    truth = sample_points(truth[:, None], points)[:, 0]
    logits = sample_points(logits[:, None], points)[:, 0]
    loss = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    chance = logits.sigmoid()
    if targets[0].valid is None:
        mask = loss.mean(1)
    else:
        valid = torch.cat([t.valid.expand(len(i), -1, -1) for t, (_, i) in zip(targets, pairs, strict=True)])
        weight = sample_points(valid[:, None], points)[:, 0]
        mask = (loss * weight).sum(1) / weight.sum(1).clamp(min=1)
        chance, truth = chance * weight, truth * weight
    dice = 1 - (2 * (chance * truth).sum(1) + 1) / (chance.sum(1) + truth.sum(1) + 1)
    return mask.sum(), dice.sum()


def class_loss(
    class_logits: Tensor, targets: list[Targets], pairs: list[tuple[Tensor, Tensor]], no_object_weight: float
) -> Tensor:
    """Cross-entropy of class_logits (B, Q, K+1) -> () float32; unmatched queries are taught "no object"."""
    batch, queries, outputs = class_logits.shape
    truth = class_logits.new_full((batch, queries), outputs - 1, dtype=torch.int64)
    for row, target, (query, index) in zip(truth, targets, pairs, strict=True):
        row[query] = target.classes[index]
    weight = torch.ones(outputs, device=class_logits.device)
    weight[-1] = no_object_weight
    return F.cross_entropy(class_logits.float().flatten(0, 1), truth.flatten(), weight)


def head_losses(
    class_logits: Tensor, mask_logits: Tensor, targets: list[Targets], config: LossConfig
) -> dict[str, Tensor]:
    """Unweighted losses {"class", "mask", "dice"} of one prediction head, mask and dice per target mask.

    class_logits: (B, Q, K+1). mask_logits: (B, Q, h, w), any size: points are relative.
    """
    pairs = [
        match(
            classes,
            masks,
            target,
            points=config.points,
            class_weight=config.class_weight,
            mask_weight=config.mask_weight,
            dice_weight=config.dice_weight,
        )
        for classes, masks, target in zip(class_logits, mask_logits, targets, strict=True)
    ]
    mask, dice = mask_losses(mask_logits, targets, pairs, config)
    count = max(sum(len(target.classes) for target in targets), 1)
    return {
        "class": class_loss(class_logits, targets, pairs, config.no_object_weight),
        "mask": mask / count,
        "dice": dice / count,
    }


def mask2former_loss(output, targets: list[Targets], config: LossConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum to minimise over the last head and every auxiliary one, and the last head's unweighted parts.

    output: model.Output with class_logits, mask_logits and aux. Each head is matched anew (deep supervision).
    """
    weights = {"class": config.class_weight, "mask": config.mask_weight, "dice": config.dice_weight}
    heads = [(output.class_logits, output.mask_logits), *output.aux]
    losses = [head_losses(classes, masks, targets, config) for classes, masks in heads]
    total = sum(weights[name] * value for parts in losses for name, value in parts.items())
    return total, {name: value.detach() for name, value in losses[0].items()}
