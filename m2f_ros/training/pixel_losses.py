"""Per-pixel losses, of networks that classify pixels, and of masks, on the scores that the labels are made from.

Masks score a class at a pixel by the sum over the queries of class probability times mask probability. The logarithm of
the score is the logit, so that the softmax is its share in the scores of all classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor

from m2f_ros.errors import TrainingError, to_install
from m2f_ros.model import PixelLogits
from m2f_ros.model.heads import resize, semantic_scores
from m2f_ros.training.matching import Targets
from m2f_ros.typed import Number


@dataclass(frozen=True)
class PixelLossConfig:
    """Factor on each loss; what has 0 is not computed. dice, focal and lovasz are kornia's."""

    cross_entropy: Number = 0.0
    dice: Number = 0.0  # mean over the classes of an image
    focal: Number = 0.0
    focal_gamma: Number = 2.0
    lovasz: Number = 0.0  # Lovász-softmax, mean over all classes
    # Online hard example mining (Shrivastava et al. 2016, https://arxiv.org/abs/1604.03540): the mean cross-entropy of
    # the pixels of an image at which the probability of their class is below ohem_threshold; at least of the share
    # ohem_least of its labelled pixels, the hardest.
    ohem: Number = 0.0
    ohem_threshold: Annotated[float, Meta(ge=0, le=1)] = 0.7
    ohem_least: Annotated[float, Meta(gt=0, le=1)] = 0.2
    # Boundary loss (Kervadec et al. 2019, https://arxiv.org/abs/1812.07032), in pixels; it may be below 0. It is meant
    # for a sum with another loss: the paper begins with 0.01, and 1 for that one.
    boundary: Number = 0.0
    class_weights: tuple[Number, ...] = ()  # by train id; none: all alike

    @property
    def factors(self) -> dict[str, float]:
        """Name and factor of each loss that is computed."""
        names = ("cross_entropy", "dice", "focal", "lovasz", "ohem", "boundary")
        return {name: factor for name in names if (factor := getattr(self, name))}


def semantic_logits(class_logits: Tensor, mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, Q, K + 1) and (B, Q, h, w) -> (B, K, *size) float32: logarithm of the scores, interpolated to `size`.

    The scores are made at the masks' own resolution: at that of the labels they would need sixteen times the memory.
    """
    scores = semantic_scores(class_logits.float(), mask_logits.float(), (mask_logits.shape[-2], mask_logits.shape[-1]))
    return resize(scores.clamp(min=torch.finfo(scores.dtype).tiny).log(), size)


def boundary_distances(target: Targets) -> tuple[Tensor, Tensor]:
    """The classes of an image, (C,) int64, and their signed distance maps, (C, H, W) float32, pixels.

    As in the authors' code (LIVIAETS/boundary-loss, one_hot2dist), a pixel outside a class has its distance to the
    class, one inside 1 less than its distance to the others, negated. Distances are to labelled pixels: what is not
    labelled is no boundary. A class that all labelled pixels have has a map of 0.
    """
    classes = target.classes.unique()
    masks = target.masks.bool()
    labelled = masks.any(0).cpu().numpy()
    maps = np.zeros((len(classes), *labelled.shape), np.float32)
    for distances, one in zip(maps, classes, strict=True):
        inside = masks[target.classes == one].any(0).cpu().numpy()
        others = labelled & ~inside
        if inside.any() and others.any():
            to_class, to_others = (
                cv2.distanceTransform((~goal).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
                for goal in (inside, others)
            )
            distances[:] = np.where(inside, 1 - to_others, to_class)
    return classes, torch.from_numpy(maps).to(target.masks.device)


def pixel_losses(
    logits: Tensor, target: Targets, config: PixelLossConfig, distances: tuple[Tensor, Tensor] | None = None
) -> dict[str, Tensor]:
    """Unweighted losses of one image, each () float32, a mean over its labelled pixels; 0 where it has none.

    logits: (K, H, W). target: masks that do not overlap; pixels in none are left out. distances: `boundary_distances`
    of the target; None: computed where they are needed. Raises TrainingError where kornia is needed and not installed.
    """
    labelled = target.masks.any(0)
    if not labelled.any():
        return {name: logits.sum() * 0 for name in config.factors}
    # As an image of one row: no loss then has to know which pixels to leave out.
    logits = logits[:, labelled][None, :, None]
    truth = target.classes[target.masks[:, labelled].argmax(0)][None, None]
    weight = torch.tensor(config.class_weights, device=logits.device) if config.class_weights else None
    losses = {}
    for name in config.factors:
        if name == "cross_entropy":
            losses[name] = F.cross_entropy(logits, truth, weight)
        elif name == "ohem":
            hard = _hard(logits, truth, config)
            losses[name] = F.cross_entropy(logits[..., hard], truth[..., hard], weight)
        elif name == "boundary":
            classes, maps = distances or boundary_distances(target)
            of_class = (logits.softmax(1)[0, classes, 0] * maps[:, labelled]).mean(1)
            share = torch.ones(logits.shape[1], device=logits.device) if weight is None else weight
            losses[name] = (share[classes] * of_class).sum() / share.sum()
        elif name == "dice":
            losses[name] = _kornia(name).dice_loss(logits, truth, average="macro", weight=weight)
        elif name == "focal":
            total = _kornia(name).focal_loss(logits, truth, None, config.focal_gamma, reduction="sum", weight=weight)
            losses[name] = total / truth.numel()
        else:
            losses[name] = _kornia(name).lovasz_softmax_loss(logits, truth, weight)
    return losses


def _hard(logits: Tensor, truth: Tensor, config: PixelLossConfig) -> Tensor:
    """The hard pixels (N,) bool of logits (1, K, 1, N) and classes (1, 1, N), by probability of the class."""
    chance = logits.detach().softmax(1).gather(1, truth[:, None]).flatten()
    least = chance.kthvalue(math.ceil(config.ohem_least * len(chance)))[0]
    return (chance < config.ohem_threshold) | (chance <= least)


def pixel_loss(
    output, targets: list[Targets], config: PixelLossConfig, images: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum to minimise over the last head and every auxiliary one, and the last head's unweighted losses.

    output: of a Mask2Former, or PixelLogits. images: by how many the sums over these images are divided.
    """
    factors = config.factors
    heads = _heads(output)
    total = heads[0][0].new_zeros((), dtype=torch.float32)
    shown = dict.fromkeys(factors, total)
    distances = [boundary_distances(target) if "boundary" in factors else None for target in targets]
    for head, of_head in enumerate(heads):
        for *tensors, target, maps in zip(*of_head, targets, distances, strict=True):
            logits = _logits([tensor[None] for tensor in tensors], (target.masks.shape[-2], target.masks.shape[-1]))[0]
            losses = pixel_losses(logits, target, config, maps)
            total = total + sum(factors[name] * loss for name, loss in losses.items()) / images
            if head == 0:
                shown = {name: shown[name] + loss.detach() / images for name, loss in losses.items()}
    return total, shown


def _heads(output) -> list[tuple[Tensor, ...]]:
    """Return the tensors of each head, the last head first."""
    if isinstance(output, PixelLogits):
        return [(output.logits,)]
    return [(output.class_logits, output.mask_logits), *output.aux]


def _logits(tensors: list[Tensor], size: tuple[int, int]) -> Tensor:
    if len(tensors) == 1:
        return resize(tensors[0].float(), size)
    class_logits, mask_logits = tensors
    return semantic_logits(class_logits, mask_logits, size)


def _kornia(loss: str):
    try:
        from kornia import losses
    except ImportError:
        raise TrainingError(f"loss.pixel: {loss} needs Python 3.11 and a package: {to_install('kornia')}") from None
    return losses
