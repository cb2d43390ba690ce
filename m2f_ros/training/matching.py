"""Points on masks, and the assignment of queries to target masks.

After Cheng et al., Masked-attention Mask Transformer for Universal Image Segmentation (CVPR 2022), and
mask2former/modeling/matcher.py of facebookresearch/Mask2Former.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """The target masks of one image: one for each class in it, or for each thing where things are told apart.

    Attributes:
        classes: (N,) int64 train ids.
        masks: (N, H, W) float32, 0 or 1, at the size of the image.
        valid: (H, W) float32, 1 where the image is labelled; None: every pixel counts.
    """

    classes: Tensor
    masks: Tensor
    valid: Tensor | None = None


def targets_from_labels(labels: Tensor, unlabelled: int, ignore_unlabelled: bool) -> list[Targets]:
    """One binary mask of each class, or each segment, present in each label image.

    labels: (B, H, W) integers: train ids, or maps of segments (see m2f_ros.training.segment_map). A class that does
    not occur has no mask. With ignore_unlabelled, pixels labelled `unlabelled` carry no mask loss; without, they are
    background of every mask, as upstream.
    """
    targets = []
    for label in labels.long():
        segments = label.unique()
        segments = segments[segments != unlabelled]
        masks = (label == segments[:, None, None]).float()
        valid = (label != unlabelled).float() if ignore_unlabelled else None
        targets.append(Targets(segments % (unlabelled + 1), masks, valid))
    return targets


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of maps (N, C, H, W) at points (N, P, 2), x and y in 0..1 edge to edge -> (N, C, P)."""
    return F.grid_sample(maps, (2 * points - 1)[:, :, None], align_corners=False)[..., 0]


@torch.no_grad()
def match(
    class_logits: Tensor,
    mask_logits: Tensor,
    targets: Targets,
    *,
    points: int,
    class_weight: float,
    mask_weight: float,
    dice_weight: float,
) -> tuple[Tensor, Tensor]:
    """The cheapest one-to-one assignment of one image's queries to its targets.

    class_logits: (Q, K+1). mask_logits: (Q, h, w). Costs are compared on `points` random points common to all
    masks. Returns (queries, indices into targets), both (min(Q, N),) int64, by rising query.
    """
    where = torch.rand(1, points, 2, device=mask_logits.device)
    logits = sample_points(mask_logits[None].float(), where)[0]
    truth = sample_points(targets.masks[None], where)[0]
    cost_class = -class_logits.float().softmax(-1)[:, targets.classes]
    weight = count = torch.ones((), device=where.device)
    if targets.valid is None:
        count = count * points
    else:
        weight = sample_points(targets.valid[None, None], where)[0]
        count = weight.sum().clamp(min=1)
        truth = truth * weight
    # BCE(x, t) = softplus(x) - x t, so that the pairs need one matrix product.
    cost_mask = ((F.softplus(logits) * weight).sum(-1, keepdim=True) - logits @ truth.T) / count
    chance = logits.sigmoid() * weight
    overlap = 2 * chance @ truth.T
    cost_dice = 1 - (overlap + 1) / (chance.sum(-1, keepdim=True) + truth.sum(-1) + 1)
    cost = class_weight * cost_class + mask_weight * cost_mask + dice_weight * cost_dice
    # linear_sum_assignment refuses infinities and NaN; the loss itself reports them.
    cost = cost.clamp(-1e10, 1e10).nan_to_num(0)
    queries, indices = linear_sum_assignment(cost.cpu().numpy())
    device = mask_logits.device
    return torch.as_tensor(queries, device=device), torch.as_tensor(indices, device=device)


@torch.no_grad()
def uncertain_points(mask_logits: Tensor, points: int, oversample: float, importance: float) -> Tensor:
    """Points for each mask, most where the prediction is least certain (PointRend, Kirillov et al. 2020).

    mask_logits: (M, h, w). Draws points x oversample random points and keeps the importance x points with the smallest
    |logit|; the rest are new random ones. Returns (M, points, 2) in 0..1.
    """
    device = mask_logits.device
    candidates = torch.rand(len(mask_logits), int(points * oversample), 2, device=device)
    uncertainty = -sample_points(mask_logits[:, None], candidates)[:, 0].abs()
    uncertain = int(importance * points)
    best = uncertainty.topk(uncertain, dim=1)[1]
    chosen = candidates.gather(1, best[..., None].expand(-1, -1, 2))
    if uncertain == points:
        return chosen
    return torch.cat([chosen, torch.rand(len(mask_logits), points - uncertain, 2, device=device)], dim=1)
