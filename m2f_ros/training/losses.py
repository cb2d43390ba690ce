"""Mask2Former's loss, after mask2former/modeling/criterion.py of facebookresearch/Mask2Former."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor

from m2f_ros.training.matching import Targets, match, sample_points, uncertain_points
from m2f_ros.training.pixel_losses import PixelLossConfig, pixel_loss
from m2f_ros.typed import From1, Number


@dataclass(frozen=True)
class LossConfig:
    """Weights and sampling of the loss; the defaults are upstream's."""

    class_weight: Number = 2.0
    mask_weight: Number = 5.0
    dice_weight: Number = 5.0
    no_object_weight: Number = 0.1
    class_weights: tuple[Number, ...] = ()  # by train id, of the queries matched to a class; none: all alike
    points: From1 = 12544  # on each mask, 112 x 112
    oversample: Annotated[float, Meta(ge=1, le=1e6)] = 3.0
    importance: Annotated[float, Meta(ge=0, le=1)] = 0.75
    ignore_unlabelled: bool = False  # upstream takes unlabelled pixels for background of every mask
    pixel: PixelLossConfig | None = None  # instead of all the above


def mask_losses(
    mask_logits: Tensor, targets: list[Targets], pairs: list[tuple[Tensor, Tensor]], config: LossConfig
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and dice of the matched masks, each summed over masks: () float32, () float32.

    mask_logits: (B, Q, h, w). pairs: (queries, indices into the targets) of each image. With Targets.valid, both are
    means over the labelled points of a mask alone.
    """
    logits = torch.cat([image[queries] for image, (queries, _) in zip(mask_logits, pairs, strict=True)]).float()
    truth = torch.cat([target.masks[i] for target, (_, i) in zip(targets, pairs, strict=True)])
    if not len(truth):
        zero = logits.sum()  # keeps the graph: the gradients of an image without labels are zero, not None
        return zero, zero
    points = uncertain_points(logits, config.points, config.oversample, config.importance)
    truth = sample_points(truth[:, None], points)[:, 0]
    logits = sample_points(logits[:, None], points)[:, 0]
    loss = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    chance = logits.sigmoid()
    areas = [(t.valid, len(i)) for t, (_, i) in zip(targets, pairs, strict=True) if t.valid is not None]
    if not areas:
        mask = loss.mean(1)
    else:
        valid = torch.cat([area.expand(masks, -1, -1) for area, masks in areas])
        weight = sample_points(valid[:, None], points)[:, 0]
        mask = (loss * weight).sum(1) / weight.sum(1).clamp(min=1)
        chance, truth = chance * weight, truth * weight
    dice = 1 - (2 * (chance * truth).sum(1) + 1) / (chance.sum(1) + truth.sum(1) + 1)
    return mask.sum(), dice.sum()


def class_loss(
    class_logits: Tensor, targets: list[Targets], pairs: list[tuple[Tensor, Tensor]], config: LossConfig
) -> Tensor:
    """Cross-entropy of class_logits (B, Q, K+1), weighted and summed over queries: () float32.

    Unmatched queries are taught "no object".
    """
    batch, queries, outputs = class_logits.shape
    truth = class_logits.new_full((batch, queries), outputs - 1, dtype=torch.int64)
    for row, target, (query, index) in zip(truth, targets, pairs, strict=True):
        row[query] = target.classes[index]
    weight = torch.tensor(
        [*(config.class_weights or [1.0] * (outputs - 1)), config.no_object_weight], device=class_logits.device
    )
    return F.cross_entropy(class_logits.float().flatten(0, 1), truth.flatten(), weight, reduction="sum")


def denominators(targets: list[Targets], queries: int, config: LossConfig) -> Tensor:
    """Divisors of the sums over these images; they add up over images, processes and parts of a batch.

    queries: number of the network's queries. Returns (3,) float64 on the CPU: number of target masks; weight of all
    queries in the class loss; number of images. Where an image has more masks than queries, the mean weight of its
    classes counts for each query, since heads may match different ones.
    """
    masks = [len(target.classes) for target in targets]
    matched = [min(count, queries) for count in masks]
    unmatched = len(targets) * queries - sum(matched)
    of_class = torch.tensor(config.class_weights, dtype=torch.float64)
    weights = [
        count * (of_class[target.classes.cpu()].mean().item() if config.class_weights and count else 1.0)
        for count, target in zip(matched, targets, strict=True)
    ]
    weight = sum(weights) + config.no_object_weight * unmatched
    return torch.tensor([sum(masks), weight, len(targets)], dtype=torch.float64)


def head_losses(
    class_logits: Tensor, mask_logits: Tensor, targets: list[Targets], config: LossConfig, sums: Tensor
) -> dict[str, Tensor]:
    """Unweighted losses {"class", "mask", "dice"} of one prediction head.

    class_logits: (B, Q, K+1). mask_logits: (B, Q, h, w), any size: points are relative. sums: see `denominators`.
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
    count, weight = max(float(sums[0]), 1.0), float(sums[1])
    return {
        "class": class_loss(class_logits, targets, pairs, config) / weight,
        "mask": mask / count,
        "dice": dice / count,
    }


def training_loss(
    output,
    targets: list[Targets],
    config: LossConfig,
    sums: Tensor | None = None,
    seeds: Sequence[int] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mask2Former's loss, or the per-pixel losses where config.pixel is set; arguments as `mask2former_loss`.

    output: of a Mask2Former; or PixelLogits, for which config.pixel is set.
    """
    if config.pixel is None:
        return mask2former_loss(output, targets, config, sums, seeds)
    return pixel_loss(output, targets, config.pixel, len(targets) if sums is None else float(sums[2]))


def mask2former_loss(
    output,
    targets: list[Targets],
    config: LossConfig,
    sums: Tensor | None = None,
    seeds: Sequence[int] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum to minimise over the last head and every auxiliary one, and the last head's unweighted parts.

    output: of a Mask2Former, with class_logits, mask_logits and aux. Each head is matched anew (deep supervision).
    sums: `denominators` of the whole batch where these images are only a part of it; the losses of its parts then add
    up to that of the whole. seeds: one for each image, which then has random points of its own, the same whatever
    images it is with. Without, all share torch's generator, in upstream's order.
    """
    if sums is None:
        sums = denominators(targets, output.class_logits.shape[1], config)
    weights = {"class": config.class_weight, "mask": config.mask_weight, "dice": config.dice_weight}
    size = len(targets) if seeds is None else 1
    heads = [(output.class_logits, output.mask_logits), *output.aux]
    groups = zip(*(zip(classes.split(size), masks.split(size), strict=True) for classes, masks in heads), strict=True)
    total = output.class_logits.new_zeros(())
    shown = dict.fromkeys(weights, total)
    for i, group in enumerate(groups):
        if seeds is not None:
            torch.manual_seed(seeds[i])
        part = targets[i * size : (i + 1) * size]
        losses = [head_losses(classes, masks, part, config, sums) for classes, masks in group]
        total = total + sum(weights[name] * value for parts in losses for name, value in parts.items())
        shown = {name: value + losses[0][name].detach() for name, value in shown.items()}
    return total, shown
