"""Mask2Former: backbone, pixel decoder, transformer decoder. (Cheng et al. 2022, https://arxiv.org/abs/2112.01527)"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from m2f_ros.errors import CheckpointError
from m2f_ros.model.config import ModelConfig, SwinConfig
from m2f_ros.model.decoder import DecoderPlan, MaskedAttentionDecoder
from m2f_ros.model.efficientnet_lite import VARIANTS, EfficientNetLite
from m2f_ros.model.pixel_decoder import PixelDecoder, PixelDecoderPlan
from m2f_ros.model.swin import Swin

STRIDE = 32


class Plan(NamedTuple):
    """Everything that depends on the images' size and on the weights, but not on pixels. See Mask2Former.plan.

    Attributes:
        size: (height, width) of the images.
        backbone, pixel_decoder, decoder: the parts' own; tuples of tensors and integers.
    """

    size: tuple[int, int]
    backbone: tuple
    pixel_decoder: PixelDecoderPlan
    decoder: DecoderPlan


class Output(NamedTuple):
    """What the network says.

    Attributes:
        class_logits: (B, Q, classes + 1); the last class is "no object".
        mask_logits: (B, Q, H/4, W/4).
        aux: the same pairs of the learned queries and of every earlier layer, for deep supervision; empty in eval.
    """

    class_logits: Tensor
    mask_logits: Tensor
    aux: list[tuple[Tensor, Tensor]]


class Mask2Former(nn.Module):
    """The whole network. `config` says how it is built and what its classes are."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        if isinstance(config.backbone, SwinConfig):
            self.backbone = Swin(config.backbone)
        elif config.backbone in VARIANTS:
            self.backbone = EfficientNetLite(config.backbone)
        else:
            raise CheckpointError(f"backbone {config.backbone!r} is not known; take Swin or {', '.join(VARIANTS)}")
        self.pixel_decoder = PixelDecoder(config, self.backbone.channels)
        self.decoder = MaskedAttentionDecoder(config)

    def plan(self, height: int, width: int) -> Plan:
        """Prepare for images of one size; whoever segments many of them keeps it and hands it to `forward`.

        It is on the model's device and in its precision, and is stale once weights change. Gradients pass through it.

        Args:
            height, width: multiples of STRIDE.
        """
        if height % STRIDE or width % STRIDE or min(height, width) <= 0:
            raise ValueError(f"images of {height}x{width}: height and width must be multiples of {STRIDE}")
        shapes = [(height // stride, width // stride) for stride in (32, 16, 8)]
        return Plan(
            (height, width),
            self.backbone.plan(height, width),
            self.pixel_decoder.plan(shapes),
            self.decoder.plan(shapes),
        )

    def forward(self, pixels: Tensor, plan: Plan | None = None) -> Output:
        """Segment normalised images.

        Args:
            pixels: (B, 3, H, W) RGB, (value - config.mean) / config.std of values in 0..255; H and W multiples
                of STRIDE.
            plan: for this size. With it nothing here is made from the host's data and nothing is read back: the call
                can be captured in a CUDA graph, exported and compiled. None makes one.
        Raises:
            ValueError: a size that is no multiple of STRIDE, or a plan for another size.
        """
        size = tuple(pixels.shape[-2:])
        if plan is None:
            plan = self.plan(*size)
        elif plan.size != size:
            raise ValueError(f"images of {size[0]}x{size[1]}, but the plan is for {plan.size[0]}x{plan.size[1]}")
        mask_features, levels = self.pixel_decoder(self.backbone(pixels, plan.backbone), plan.pixel_decoder)
        *aux, (class_logits, mask_logits) = self.decoder(mask_features, levels, plan.decoder)
        return Output(class_logits, mask_logits, aux)


def build(config: ModelConfig) -> Mask2Former:
    """A network with fresh weights, initialised as upstream does it (Xavier projections, directional offsets)."""
    model = Mask2Former(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias_table"):
            nn.init.trunc_normal_(parameter, std=0.02)
        elif name.endswith(("level_embed", "level_embed.weight", "query_embed.weight", "query_features.weight")):
            nn.init.normal_(parameter)
        elif parameter.dim() > 1 and not name.startswith("backbone"):
            nn.init.xavier_uniform_(parameter)
    for layer in model.pixel_decoder.layers:
        _spread_offsets(layer.self_attn)
    return model


@torch.no_grad()
def _spread_offsets(attention: nn.Module) -> None:
    # Deformable DETR: head i looks in direction 2 pi i / heads, point p goes p + 1 pixels that way.
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
