"""Scores of a model on data sets during training, and pictures of its predictions."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch

from m2f_ros.metrics import Confusion, PanopticQuality
from m2f_ros.model import Network, heads
from m2f_ros.pipeline.resize import Resize
from m2f_ros.taxonomy import Taxonomy, merge_table
from m2f_ros.training.distributed import Group
from m2f_ros.training.sets import DataSet


def normalise(images: torch.Tensor, model: Network) -> torch.Tensor:
    """Normalise (B, H, W, 3) uint8 RGB for the model's backbone: (B, 3, H, W) float32."""
    mean, std = (torch.tensor(v, device=images.device) for v in (model.config.mean, model.config.std))
    return ((images.float() - mean) / std).permute(0, 3, 1, 2).contiguous()


def evaluate(
    model: Network, data: DataSet, taxonomy: Taxonomy, device: torch.device, group: Group | None = None
) -> dict:
    """Mean IoU and IoU of each class over a data set, in its own classes, at the size of its labels.

    taxonomy: the model's. group: processes that share the images; each gets the scores of all.
    Returns {"miou": float, "accuracy": float, "iou": {class name: float}}; None for a class that does not occur.
    """
    group = group or Group()
    merge = merge_table(taxonomy, data.taxonomy)
    confusion = Confusion(len(data.taxonomy.classes))
    for index in range(group.rank, len(data), group.size):
        image, truth = data.read(index)
        prediction = merge[predict(model, image, device)]
        confusion.update(truth, prediction, unlabelled=data.taxonomy.unlabelled)
    confusion.matrix = group.sum(torch.from_numpy(confusion.matrix).to(device)).cpu().numpy()
    means = {"miou": confusion.miou(), "accuracy": confusion.pixel_accuracy()}
    return {**means, "iou": _of_classes(data, confusion.iou())}


def _of_classes(data: DataSet, scores: np.ndarray) -> dict[str, float | None]:
    rounded = [None if np.isnan(score) else round(float(score), 4) for score in scores]
    return dict(zip(data.taxonomy.names, rounded, strict=True))


@torch.no_grad()
def evaluate_panoptic(
    model: Network, data: DataSet, taxonomy: Taxonomy, device: torch.device, group: Group | None = None
) -> dict:
    """PQ, SQ and RQ of a data set, means over its classes, and PQ of each class; arguments as those of `evaluate`.

    Frames whose things are not told apart are left out. Returns {"pq": float, "sq": float, "rq": float, "pq_of":
    {class name: float}}; None for what does not occur.
    """
    group = group or Group()
    merge = merge_table(taxonomy, data.taxonomy)
    quality = PanopticQuality(len(data.taxonomy.classes), [c.id for c in data.taxonomy.classes if c.thing])
    things = torch.tensor([c.thing for c in taxonomy.classes], device=device)
    for index in range(group.rank, len(data), group.size):
        image, truth = data.read_segments(index)
        if truth.segments is None or truth.ids is None:
            continue
        output, size = run(model, image, device)
        found = heads.panoptic(output.class_logits, output.mask_logits, size, image.shape[:2], things)
        rows = [s._replace(train_id=int(merge[s.train_id])) for s in heads.segments(found.table[0].cpu())]
        quality.update(truth.ids, truth.segments, found.ids[0].cpu().numpy(), rows)
    total = PanopticQuality(quality.num_classes, quality.things)
    for part in group.gather(quality):
        total += part
    means = {"pq": total.mean_pq(), "sq": total.mean_sq(), "rq": total.mean_rq()}
    return {**means, "pq_of": _of_classes(data, total.pq())}


def pictures(
    model: Network, data: DataSet, taxonomy: Taxonomy, device: torch.device, count: int = 4
) -> list[np.ndarray]:
    """Image, prediction and truth side by side, in the data set's colours, of `count` images from all over it.

    taxonomy: the model's. Returns a list of (H, 3 W, 3) uint8 RGB.
    """
    merge = merge_table(taxonomy, data.taxonomy)
    palette = data.taxonomy.palette()
    shown = []
    for index in np.unique(np.linspace(0, len(data) - 1, count).round().astype(int)):
        image, truth = data.read(index)
        prediction = merge[predict(model, image, device)]
        shown.append(np.concatenate([image, palette[prediction], palette[truth]], axis=1))
    return shown


def predict(model: Network, image: np.ndarray, device: torch.device) -> np.ndarray:
    """Train ids (H, W) of an image (H, W, 3) uint8 RGB; leaves the model in eval mode."""
    output, size = run(model, image, device)
    labels, _ = heads.labels(model.result(output), size, image.shape[:2])
    return labels[0].cpu().numpy()


@torch.no_grad()
def run(model: Network, image: np.ndarray, device: torch.device) -> tuple[Any, tuple[int, int]]:
    """The network's output for an image (H, W, 3) uint8 RGB, and the (height, width) of its input.

    Leaves the model in eval mode.
    """
    model.eval()
    # Images of other sizes than the model is for are enlarged or shrunk, as in use.
    height, width = Resize().for_model(model.config).place(*image.shape[:2]).network
    smaller = height * width < image[..., 0].size
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    return model(normalise(torch.from_numpy(image[None]).to(device), model)), (height, width)
