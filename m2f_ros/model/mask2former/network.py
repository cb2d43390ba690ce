"""Mask2Former: backbone, pixel decoder, transformer decoder. (Cheng et al. 2022, https://arxiv.org/abs/2112.01527)"""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
from torch import Tensor, nn

from m2f_ros.errors import CheckpointError
from m2f_ros.model import float8
from m2f_ros.model.mask2former.config import Mask2FormerConfig, SwinConfig
from m2f_ros.model.mask2former.decoder import DecoderPlan, MaskedAttentionDecoder
from m2f_ros.model.mask2former.deformable import DeformableAttention
from m2f_ros.model.mask2former.efficientnet_lite import VARIANTS, EfficientNetLite
from m2f_ros.model.mask2former.pixel_decoder import LEVELS, PixelDecoder, PixelDecoderPlan
from m2f_ros.model.mask2former.swin import Swin
from m2f_ros.model.network import MaskClassification, Network, TrackedMasks

_EXACT = ("decoder.mask_embed", "decoder.mask_projection", "decoder.class_predictor")


class Plan(NamedTuple):
    """Tensors that depend only on the weights and the size of the images. See Network.plan.

    Attributes:
        size: (height, width) of the images.
        backbone, pixel_decoder, decoder: plans of the three parts, tuples of tensors and integers.
    """

    size: tuple[int, int]
    backbone: tuple
    pixel_decoder: PixelDecoderPlan
    decoder: DecoderPlan


class Output(NamedTuple):
    """MaskClassification or TrackedMasks, and, in training mode, the auxiliary predictions of earlier layers.

    Attributes:
        class_logits: (B, Q, classes + 1); the last class is "no object".
        mask_logits: (B, Q, H/4, W/4).
        embeddings: (B, Q, C) after `give_embeddings`; else None.
        aux: such pairs of the learned queries and of every earlier layer, for deep supervision; empty in eval mode.
    """

    class_logits: Tensor
    mask_logits: Tensor
    embeddings: Tensor | None
    aux: list[tuple[Tensor, Tensor]]


class Mask2Former(Network):
    """The whole network: backbone, pixel decoder, transformer decoder."""

    gives: type[MaskClassification] | type[TrackedMasks] = MaskClassification
    config: Mask2FormerConfig

    def __init__(self, config: Mask2FormerConfig):
        super().__init__()
        self.config = config
        self.backbone: Swin | EfficientNetLite
        if isinstance(config.backbone, SwinConfig):
            self.backbone = Swin(config.backbone)
        elif config.backbone in VARIANTS:
            self.backbone = EfficientNetLite(config.backbone)
        else:
            raise CheckpointError(f"backbone {config.backbone!r} is not known; take Swin or {', '.join(VARIANTS)}")
        self.pixel_decoder = PixelDecoder(config, self.backbone.channels)
        self.decoder = MaskedAttentionDecoder(config)

    def plan(self, height: int, width: int) -> Plan:
        """See Network.plan."""
        self.check_size(height, width)
        shapes = [(height // stride, width // stride) for stride in (32, 16, 8)]
        return Plan(
            (height, width),
            self.backbone.plan(height, width),
            self.pixel_decoder.plan(shapes),
            self.decoder.plan(shapes),
        )

    def forward(self, pixels: Tensor, plan: Plan | None = None) -> Output:
        """See Network.forward."""
        size = pixels.shape[-2], pixels.shape[-1]
        if plan is None:
            plan = self.plan(*size)
        elif plan.size != size:
            raise ValueError(f"images of {size[0]}x{size[1]}, but the plan is for {plan.size[0]}x{plan.size[1]}")
        mask_features, levels = self.pixel_decoder(self.backbone(pixels, plan.backbone), plan.pixel_decoder)
        *aux, (class_logits, mask_logits, *more) = self.decoder(mask_features, levels, plan.decoder)
        return Output(class_logits, mask_logits, more[0] if more else None, aux)

    def give_embeddings(self) -> None:
        """See Network.give_embeddings."""
        self.gives, self.decoder.embeds = TrackedMasks, True

    def encoder(self) -> nn.Module:
        """See Network.encoder."""
        return self.backbone

    def class_layer(self) -> nn.Module:
        """See Network.class_layer."""
        return self.decoder.class_predictor

    def initialise(self) -> None:
        """Initialise the weights as upstream: Xavier projections, directional offsets; a CNN backbone is unchanged."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias_table"):
                nn.init.trunc_normal_(parameter, std=0.02)
            elif name.endswith(("level_embed", "level_embed.weight", "query_embed.weight", "query_features.weight")):
                nn.init.normal_(parameter)
            elif parameter.dim() > 1 and not name.startswith("backbone"):
                nn.init.xavier_uniform_(parameter)
        for layer in self.pixel_decoder.layers:
            _spread_offsets(layer.self_attn)

    def fold_norms(self) -> None:
        """Fold the backbone's batch norms, if it has any."""
        if isinstance(self.backbone, EfficientNetLite):
            self.backbone.fold_norms()

    def use_float8(self) -> None:
        """Convert Swin's third stage, which has most of the work, and the MLPs of the pixel decoder."""
        blocks = list(self.backbone.stages)[2].blocks if isinstance(self.backbone, Swin) else ()
        float8.convert(
            [(layer, "fc1", "fc2") for layer in (*blocks, *self.pixel_decoder.layers)]
            + [(block.attn, name, "") for block in blocks for name in ("qkv", "proj")]
        )

    def keeps_float(self, product: str) -> bool:
        """Return True for sampling points, class logits and embeddings of the masks; see `Network.keeps_float`."""
        place, _, call = product.partition(":")
        if place == "decoder" and call.startswith("linear."):  # the values of each level come first, then the masks
            return int(call.removeprefix("linear.")) >= min(LEVELS, len(self.decoder.layers))
        if re.fullmatch(r"pixel_decoder\.layers\.\d+\.self_attn", place) and call == "baddbmm.0":
            return True
        return place.startswith(_EXACT) or place.endswith(".sampling_offsets")

    def unused_weights(self, dtype: torch.dtype) -> dict[str, Tensor]:
        """Return a norm of Swin, and the class weights of the loss; empty for backbones that transformers lacks."""
        if not isinstance(self.config.backbone, SwinConfig):
            return {}
        norm = "model.pixel_level_module.encoder.swin.layernorm."
        width = self.backbone.channels[-1]
        classes = torch.ones(self.config.num_classes + 1, dtype=dtype)
        classes[-1] = 0.1  # no_object_weight
        return {
            f"{norm}weight": torch.ones(width, dtype=dtype),
            f"{norm}bias": torch.zeros(width, dtype=dtype),
            "criterion.empty_weight": classes,
        }


@torch.no_grad()
def _spread_offsets(attention: DeformableAttention) -> None:
    # As in Deformable DETR: point p of head i is p + 1 pixels away in direction 2 pi i / heads.
    angle = torch.arange(attention.heads) * (2 * torch.pi / attention.heads)
    direction = torch.stack([angle.cos(), angle.sin()], -1)
    direction = direction / direction.abs().amax(-1, keepdim=True)
    points = attention.sampling_offsets.bias.numel() // (attention.heads * attention.levels * 2)
    steps = torch.arange(1, points + 1)[:, None]
    bias = (direction[:, None, None] * steps).expand(-1, attention.levels, -1, -1)
    nn.init.zeros_(attention.sampling_offsets.weight)
    attention.sampling_offsets.bias.copy_(bias.reshape(-1))
    nn.init.zeros_(attention.attention_weights.weight)
    nn.init.zeros_(attention.attention_weights.bias)
