"""The settings of Tuning in the device's memory, for captured graphs."""

from __future__ import annotations

import numpy as np
import torch

from m2f_ros.pipeline.overlay import OPAQUE
from m2f_ros.pipeline.streams import Cpu, Cuda
from m2f_ros.pipeline.tuning import Tuning
from m2f_ros.taxonomy import Taxonomy


class Tables:
    """Tensors on the device, uninitialised before the first `fill`.

    Attributes:
        palette: (N, 3) uint8 RGB by label, black for hidden classes; N is 256, or 65536 above 255 classes. The last row
            is for unlabelled pixels.
        weight: (N,) int32, weight of each colour in the overlay, 0..OPAQUE.
        min_level: () uint8, least confidence of a label.
        score_threshold: () float64; see `heads.panoptic`.
        overlap_threshold: () float64; see `heads.panoptic`.
        mask_threshold: () float64; see `heads.panoptic`.
    """

    def __init__(self, taxonomy: Taxonomy, device: torch.device):
        self._colours = taxonomy.palette()
        self._classes = len(taxonomy.classes)
        self.palette = torch.empty(self._colours.shape, dtype=torch.uint8, device=device)
        self.weight = torch.empty(len(self._colours), dtype=torch.int32, device=device)
        self.min_level = torch.empty((), dtype=torch.uint8, device=device)
        thresholds = torch.empty(3, dtype=torch.float64, device=device)
        self.score_threshold, self.overlap_threshold, self.mask_threshold = thresholds

    def fill(self, tuning: Tuning, streams: Cuda | Cpu) -> None:
        """Copy the settings on the current stream, between two frames, asynchronously."""
        hidden = list(tuning.hidden)
        palette = self._colours.copy()
        palette[hidden] = 0
        weight = np.zeros(len(palette), np.int32)
        weight[list(tuning.highlighted) or slice(self._classes)] = round(tuning.alpha * OPAQUE)
        weight[hidden] = 0
        for table, values in (
            (self.palette, palette),
            (self.weight, weight),
            (self.min_level, tuning.min_level),
            (self.score_threshold, tuning.score_threshold),
            (self.overlap_threshold, tuning.overlap_threshold),
            (self.mask_threshold, tuning.mask_threshold),
        ):
            # torch does not reuse this memory before the copy has ended.
            staged = streams.pinned(table.shape, table.dtype)
            staged.numpy()[...] = values
            streams.copy(table, staged)
