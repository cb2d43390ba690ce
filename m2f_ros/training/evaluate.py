"""Scores of a model on labelled folders, while it is being trained."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from m2f_ros.metrics import Confusion
from m2f_ros.model import STRIDE, Mask2Former
from m2f_ros.model.heads import semantic
from m2f_ros.taxonomy import Taxonomy, merge_table
from m2f_ros.training.data import LabelledFolder


def normalise(images: torch.Tensor, model: Mask2Former) -> torch.Tensor:
    """(B, H, W, 3) uint8 RGB -> (B, 3, H, W) float32, as the model's backbone wants it."""
    mean, std = (torch.tensor(v, device=images.device) for v in (model.config.mean, model.config.std))
    return ((images.float() - mean) / std).permute(0, 3, 1, 2).contiguous()


@torch.no_grad()
def evaluate(model: Mask2Former, folder: LabelledFolder, taxonomy: Taxonomy, device: torch.device) -> dict:
    """Mean IoU and IoU of each class over a folder, in the folder's classes, at the size of its labels.

    taxonomy: the model's. Returns {"miou": float, "accuracy": float, "iou": {class name: float}}; None for
    what does not occur.
    """
    model.eval()
    merge = merge_table(taxonomy, folder.taxonomy)
    confusion = Confusion(len(folder.taxonomy.classes))
    for index in range(len(folder)):
        image, truth = folder.read(index)
        height, width = truth.shape
        size = [max(round(side / STRIDE), 1) * STRIDE for side in (width, height)]
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        output = model(normalise(torch.from_numpy(image[None]).to(device), model))
        labels, _ = semantic(output.class_logits, output.mask_logits, (size[1], size[0]), (height, width))
        confusion.update(truth, merge[labels[0].cpu().numpy()], unlabelled=folder.taxonomy.unlabelled)
    iou = [None if np.isnan(v) else round(float(v), 4) for v in confusion.iou()]
    return {
        "miou": confusion.miou(),
        "accuracy": confusion.pixel_accuracy(),
        "iou": dict(zip(folder.taxonomy.names, iou, strict=True)),
    }
