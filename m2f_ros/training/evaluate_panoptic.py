"""Panoptic quality of a model on a data set while it is being trained."""

from __future__ import annotations

import numpy as np
import torch

from m2f_ros.metrics import PanopticQuality
from m2f_ros.model import Mask2Former
from m2f_ros.model.heads import panoptic, segments
from m2f_ros.taxonomy import Taxonomy, merge_table
from m2f_ros.training.distributed import Group
from m2f_ros.training.evaluate import run
from m2f_ros.training.sets import DataSet


@torch.no_grad()
def evaluate_panoptic(
    model: Mask2Former, data: DataSet, taxonomy: Taxonomy, device: torch.device, group: Group | None = None
) -> dict:
    """PQ, SQ and RQ, means over the classes, and PQ of each class, in the data set's classes; None: does not occur.

    taxonomy: the model's. group: processes that share the images; each gets the scores of all. Frames whose things are
    not told apart are left out.
    """
    group = group or Group()
    merge = merge_table(taxonomy, data.taxonomy)
    quality = PanopticQuality(len(data.taxonomy.classes), [c.id for c in data.taxonomy.classes if c.thing])
    things = torch.tensor([c.thing for c in taxonomy.classes], device=device)
    for index in range(group.rank, len(data), group.size):
        image, truth = data.read_segments(index)
        if truth.segments is None:
            continue
        output, size = run(model, image, device)
        found = panoptic(output.class_logits, output.mask_logits, size, image.shape[:2], things)
        rows = [s._replace(train_id=int(merge[s.train_id])) for s in segments(found.table[0].cpu())]
        quality.update(truth.ids, truth.segments, found.ids[0].cpu().numpy(), rows)
    total = PanopticQuality(quality.num_classes, quality.things)
    for part in group.gather(quality):
        total += part
    pq = [None if np.isnan(v) else round(float(v), 4) for v in total.pq()]
    means = {"pq": total.mean_pq(), "sq": total.mean_sq(), "rq": total.mean_rq()}
    return {**means, "pq_of": dict(zip(data.taxonomy.names, pq, strict=True))}
