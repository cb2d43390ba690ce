"""transformers' Mask2Former with given weights."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from m2f_ros.benchmark.weights import Checkpoint
from m2f_ros.model.checkpoint import load_for_training, read_weights


class HuggingFace(nn.Module):
    """transformers' network: (B, 3, H, W) normalised pixels -> class logits and mask logits, as ours gives them.

    With a Swin backbone it is Mask2FormerForUniversalSegmentation.from_pretrained. transformers has no
    EfficientNet-Lite: there its pixel decoder, with this package's last convolution, and its transformer module take
    the features of this package's backbone module, whose batch norms are not folded.
    """

    def __init__(self, weights: Checkpoint, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.network = (_whole(weights) if weights.has_swin else _around_our_backbone(weights)).eval().to(dtype)
        self.requires_grad_(False)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        out = self.network(pixel_values=pixels)
        return out.class_queries_logits, out.masks_queries_logits

    def parts(self) -> dict[str, nn.Module]:
        """Stage -> module."""
        level = self.network.model.pixel_level_module
        return {"backbone": level.encoder, "pixel decoder": level.decoder, "decoder": self.network}


def _whole(weights: Checkpoint) -> nn.Module:
    import transformers
    from transformers.utils import logging

    # Silence about a norm of Swin that no feature passes and that no checkpoint needs.
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        return transformers.Mask2FormerForUniversalSegmentation.from_pretrained(
            weights.folder, dtype=torch.float32, local_files_only=True
        )
    finally:
        logging.enable_progress_bar()
        logging.set_verbosity(verbosity)


def _around_our_backbone(weights: Checkpoint) -> nn.Module:
    from transformers import Mask2FormerConfig
    from transformers.models.mask2former import modeling_mask2former as theirs

    ours = weights.config
    config = Mask2FormerConfig(
        feature_size=ours.hidden_dim,
        mask_feature_size=ours.hidden_dim,
        hidden_dim=ours.hidden_dim,
        encoder_feedforward_dim=ours.encoder_ffn,
        encoder_layers=ours.encoder_layers,
        decoder_layers=ours.decoder_layers + 1,
        dim_feedforward=ours.decoder_ffn,
        num_attention_heads=ours.heads,
        num_queries=ours.num_queries,
        id2label=dict(enumerate(ours.labels)),
    )
    model = load_for_training(weights.folder)
    backbone = model.backbone
    with torch.device("meta"):
        network = theirs.Mask2FormerForUniversalSegmentation(config)
        level = network.model.pixel_level_module
        level.encoder = nn.Identity()
        level.decoder = theirs.Mask2FormerPixelDecoder(config, feature_channels=backbone.channels)
    if ours.separable_output:
        level.decoder.layer_1[0] = model.pixel_decoder.output[0]
    network.criterion = nn.Identity()
    rest = {
        key: value.float()
        for key, value in read_weights(weights.folder).items()
        if not key.startswith("model.pixel_level_module.encoder.")
    }
    network.load_state_dict(rest, assign=True)
    level.encoder = _Features(backbone)
    return network


class _Features(nn.Module):
    """A backbone as transformers' pixel-level module calls it."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels: Tensor) -> SimpleNamespace:
        return SimpleNamespace(feature_maps=self.backbone(pixels))
