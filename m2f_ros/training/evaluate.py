"""Scores of a model on data sets while it is being trained, and pictures of what it says."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from m2f_ros.metrics import Confusion
from m2f_ros.model import Mask2Former, Output
from m2f_ros.model.heads import semantic
from m2f_ros.pipeline.resize import Resize
from m2f_ros.taxonomy import Taxonomy, merge_table
from m2f_ros.training.distributed import Group
from m2f_ros.training.sets import DataSet


def normalise(images: torch.Tensor, model: Mask2Former) -> torch.Tensor:
    """(B, H, W, 3) uint8 RGB -> (B, 3, H, W) float32, as the model's backbone wants it."""
    mean, std = (torch.tensor(v, device=images.device) for v in (model.config.mean, model.config.std))
    return ((images.float() - mean) / std).permute(0, 3, 1, 2).contiguous()


def evaluate(
    model: Mask2Former, data: DataSet, taxonomy: Taxonomy, device: torch.device, group: Group | None = None
) -> dict:
    """Mean IoU and IoU of each class over a data set, in its own classes, at the size of its labels.

    taxonomy: the model's. group: processes that share the images; each gets the scores of all. Returns
    {"miou": float, "accuracy": float, "iou": {class name: float}}; None for what does not occur.
    """
    group = group or Group()
    merge = merge_table(taxonomy, data.taxonomy)
    confusion = Confusion(len(data.taxonomy.classes))
    for index in range(group.rank, len(data), group.size):
        image, truth = data.read(index)
        prediction = merge[predict(model, image, device)]
        confusion.update(truth, prediction, unlabelled=data.taxonomy.unlabelled)
    confusion.matrix = group.sum(torch.from_numpy(confusion.matrix).to(device)).cpu().numpy()
    iou = [None if np.isnan(v) else round(float(v), 4) for v in confusion.iou()]
    return {
        "miou": confusion.miou(),
        "accuracy": confusion.pixel_accuracy(),
        "iou": dict(zip(data.taxonomy.names, iou, strict=True)),
    }


def pictures(
    model: Mask2Former, data: DataSet, taxonomy: Taxonomy, device: torch.device, count: int = 4
) -> list[np.ndarray]:
    """Of `count` images from all over a data set: image, prediction and truth, side by side in its colours.

    taxonomy: the model's. Each (H, 3 W, 3) uint8 RGB.
    """
    merge = merge_table(taxonomy, data.taxonomy)
    palette = data.taxonomy.palette()
    shown = []
    for index in np.unique(np.linspace(0, len(data) - 1, count).round().astype(int)):
        image, truth = data.read(index)
        prediction = merge[predict(model, image, device)]
        shown.append(np.concatenate([image, palette[prediction], palette[truth]], axis=1))
    return shown


def predict(model: Mask2Former, image: np.ndarray, device: torch.device) -> np.ndarray:
    """Train ids (H, W) of an image (H, W, 3) uint8 RGB; leaves the model in eval mode."""
    output, size = run(model, image, device)
    labels, _ = semantic(output.class_logits, output.mask_logits, size, image.shape[:2])
    return labels[0].cpu().numpy()


@torch.no_grad()
def run(model: Mask2Former, image: np.ndarray, device: torch.device) -> tuple[Output, tuple[int, int]]:
    """The network's output for an image (H, W, 3) uint8 RGB, and the (height, width) of its input.

    Leaves the model in eval mode.
    """
    model.eval()
    # Images of other sizes than the model is for are enlarged or shrunk, as in use.
    height, width = Resize().for_model(model.config).place(*image.shape[:2]).network
    smaller = height * width < image[..., 0].size
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    return model(normalise(torch.from_numpy(image[None]).to(device), model)), (height, width)
