"""VidEoMT: its queries go from frame to frame. (Norouzi et al. 2026, https://arxiv.org/abs/2602.17807)

transformers' forward pass takes whole clips. This module runs the layers of its network on one frame of each stream.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from m2f_ros.model.adapters.huggingface import AdaptedMasks


class Output(NamedTuple):
    """MaskClassification, and the queries of the next frames.

    Attributes:
        class_logits: (B, Q, classes + 1); the last class is "no object".
        mask_logits: (B, Q, h, w).
        memory: (B, Q, C).
    """

    class_logits: Tensor
    mask_logits: Tensor
    memory: Tensor


class AdaptedVideo(AdaptedMasks):
    """A VidEoMT, one frame at a time. Its memory is the queries (Q, C) that enter the last blocks."""

    def memory(self) -> Tensor:
        """See Network.memory: the learned queries."""
        return self.network.query.weight

    def forward(self, pixels: Tensor, plan: None = None, memory: Tensor | None = None) -> Output:
        """See Network.forward. (VideomtForUniversalSegmentation.forward in transformers, for a clip of one frame)"""
        self.check_size(*pixels.shape[-2:])
        network, queries = self.network, self.memory()
        first = len(network.layers) - network.config.num_blocks
        hidden = network.embeddings(pixels)
        for layer in network.layers[:first]:
            hidden = layer(hidden)
        hidden = torch.cat([queries.expand(len(pixels), -1, -1) if memory is None else memory, hidden], 1)
        for layer in network.layers[first:]:
            hidden = layer(hidden)
        masks, classes = network.predict(network.layernorm(hidden))
        return Output(classes, masks, network.query_updater(hidden[:, : len(queries)]) + queries)
