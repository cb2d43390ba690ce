"""Per-pixel losses, of networks that classify pixels, and of masks, on the scores that the labels are made from.

Masks score a class at a pixel by the sum over the queries of class probability times mask probability. The logarithm of
the score is the logit, so that the softmax is its share in the scores of all classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from m2f_ros.errors import TrainingError, to_install
from m2f_ros.model import PixelLogits
from m2f_ros.model.heads import resize, semantic_scores
from m2f_ros.training.matching import Targets
from m2f_ros.typed import Number


@dataclass(frozen=True)
class PixelLossConfig:
    """Factor on each loss; what has 0 is not computed. All but cross_entropy are kornia's."""

    cross_entropy: Number = 0.0
    dice: Number = 0.0  # mean over the classes of an image
    focal: Number = 0.0
    focal_gamma: Number = 2.0
    lovasz: Number = 0.0  # Lovász-softmax, mean over all classes
    class_weights: tuple[Number, ...] = ()  # by train id; none: all alike

    @property
    def factors(self) -> dict[str, float]:
        """Name and factor of each loss that is computed."""
        named = {"cross_entropy": self.cross_entropy, "dice": self.dice, "focal": self.focal, "lovasz": self.lovasz}
        return {name: factor for name, factor in named.items() if factor}


def semantic_logits(class_logits: Tensor, mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, Q, K + 1) and (B, Q, h, w) -> (B, K, *size) float32: logarithm of the scores, interpolated to `size`.

    The scores are made at the masks' own resolution: at that of the labels they would need sixteen times the memory.
    """
    scores = semantic_scores(class_logits.float(), mask_logits.float(), (mask_logits.shape[-2], mask_logits.shape[-1]))
    return resize(scores.clamp(min=torch.finfo(scores.dtype).tiny).log(), size)


def pixel_losses(logits: Tensor, target: Targets, config: PixelLossConfig) -> dict[str, Tensor]:
    """Unweighted losses of one image, each () float32, a mean over its labelled pixels; 0 where it has none.

    logits: (K, H, W). target: masks that do not overlap; pixels in none are left out. Raises TrainingError where kornia
    is needed and not installed.
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
        elif name == "dice":
            losses[name] = _kornia(name).dice_loss(logits, truth, average="macro", weight=weight)
        elif name == "focal":
            total = _kornia(name).focal_loss(logits, truth, None, config.focal_gamma, reduction="sum", weight=weight)
            losses[name] = total / truth.numel()
        else:
            losses[name] = _kornia(name).lovasz_softmax_loss(logits, truth, weight)
    return losses


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
    for head, of_head in enumerate(heads):
        for *tensors, target in zip(*of_head, targets, strict=True):
            logits = _logits([tensor[None] for tensor in tensors], (target.masks.shape[-2], target.masks.shape[-1]))[0]
            losses = pixel_losses(logits, target, config)
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
