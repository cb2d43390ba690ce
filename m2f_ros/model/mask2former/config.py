"""The configuration of a Mask2Former, read from and written to config.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m2f_ros.errors import CheckpointError
from m2f_ros.model.config import Keys, read_shared, shared_contents
from m2f_ros.model.layout import read_json
from m2f_ros.model.mask2former.efficientnet_lite import VARIANTS
from m2f_ros.model.preprocessor import IMAGENET_MEAN, IMAGENET_STD
from m2f_ros.taxonomy import Taxonomy

STRIDE = 32  # stride of the coarsest feature maps


@dataclass(frozen=True)
class SwinConfig:
    """Shape of a Swin backbone. Defaults: Swin-T. (Liu et al. 2021, https://arxiv.org/abs/2103.14030)

    layer_norm_eps: epsilon of the two norms of each block; the other norms have 1e-5, as in transformers.
    """

    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0
    layer_norm_eps: float = 1e-5


SWIN = {
    "swin-tiny": SwinConfig(),
    "swin-small": SwinConfig(depths=(2, 2, 18, 2)),
    "swin-base": SwinConfig(128, (2, 2, 18, 2), (4, 8, 16, 32), window_size=12),
    "swin-large": SwinConfig(192, (2, 2, 18, 2), (6, 12, 24, 48), window_size=12),
}


@dataclass(frozen=True)
class Mask2FormerConfig:
    """Shape and meaning of a Mask2Former. (Cheng et al. 2022, https://arxiv.org/abs/2112.01527)

    Attributes:
        backbone: swinConfig, or one of efficientnet_lite.VARIANTS.
        hidden_dim: channels of the pixel decoder, of the queries and of the mask embedding.
        heads: number of heads of all attention outside the backbone.
        encoder_layers: number of deformable layers of the pixel decoder.
        encoder_ffn: width of the feed-forward nets of these layers.
        separable_output: True if the pixel decoder's last convolution, 3x3 at stride 4, is depthwise separable.
            transformers has no such network.
        decoder_layers: number of masked-attention layers; config.json counts one more.
        decoder_ffn: width of the feed-forward nets of these layers.
        num_queries: number of queries.
        labels, mean, std, taxonomy, min_pixels, max_pixels, resize: see NetworkConfig.
    """

    backbone: SwinConfig | str
    labels: tuple[str, ...]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    hidden_dim: int = 256
    heads: int = 8
    encoder_layers: int = 6
    encoder_ffn: int = 1024
    separable_output: bool = False
    decoder_layers: int = 9
    decoder_ffn: int = 2048
    num_queries: int = 100
    taxonomy: Taxonomy | None = field(default=None, repr=False)
    min_pixels: int | None = None
    max_pixels: int | None = None
    resize: tuple[str, int, int] | None = None

    @property
    def stride(self) -> int:
        return STRIDE

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    @property
    def summary(self) -> str:
        backbone = self.backbone
        if isinstance(backbone, SwinConfig):
            backbone = next((name for name, known in SWIN.items() if known == backbone), "Swin")
        return (
            f"Mask2Former, {backbone} backbone, {self.hidden_dim} channels, {self.encoder_layers} pixel decoder and "
            f"{self.decoder_layers} decoder layers, {self.num_queries} queries"
        )

    @classmethod
    def read(cls, folder: Path) -> Mask2FormerConfig:
        """Read the files of a Hugging Face style folder. Raises CheckpointError."""
        raw = read_json(folder / "config.json")
        keys = Keys(f"{folder}/config.json: ", raw, _ALIASES)
        keys.refuse(_FIXED, _UNSUPPORTED)
        hidden_dim = keys.whole("hidden_dim", 256, most=_MOST_CHANNELS)
        heads = keys.whole("num_attention_heads", 8, most=hidden_dim)
        for key in ("feature_size", "mask_feature_size"):
            if keys.whole(key, 256, most=_MOST_CHANNELS) != hidden_dim:
                keys.fail(key, f"only that of hidden_dim, {hidden_dim}, is supported")
        if hidden_dim % heads or hidden_dim % 32:
            keys.fail("hidden_dim", f"it must be a multiple of 32 and of num_attention_heads, {heads}")
        return cls(
            **read_shared(folder, raw, STRIDE),
            backbone=_read_backbone(folder, raw),
            hidden_dim=hidden_dim,
            heads=heads,
            encoder_layers=keys.whole("encoder_layers", 6, most=_MOST_LAYERS),
            encoder_ffn=keys.whole("encoder_feedforward_dim", 1024, most=_MOST_FFN),
            separable_output=keys.flag("separable_output", False),
            decoder_layers=keys.whole("decoder_layers", 10, least=2, most=_MOST_LAYERS) - 1,
            decoder_ffn=keys.whole("dim_feedforward", 2048, most=_MOST_FFN),
            num_queries=keys.whole("num_queries", 100, most=_MOST_QUERIES),
        )

    def contents(self) -> dict[str, Any]:
        """Return the contents of config.json, which transformers reads, too, for a Swin backbone."""
        backbone: dict[str, Any] = {"model_type": self.backbone}
        if isinstance(self.backbone, SwinConfig):
            swin = self.backbone
            backbone = {
                "model_type": "swin",
                "embed_dim": swin.embed_dim,
                "depths": list(swin.depths),
                "num_heads": list(swin.num_heads),
                "window_size": swin.window_size,
                "mlp_ratio": swin.mlp_ratio,
                "layer_norm_eps": swin.layer_norm_eps,
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
            }
        return {
            "architectures": ["Mask2FormerForUniversalSegmentation"],
            "backbone_config": backbone,
            "feature_size": self.hidden_dim,
            "mask_feature_size": self.hidden_dim,
            "hidden_dim": self.hidden_dim,
            "num_attention_heads": self.heads,
            "encoder_layers": self.encoder_layers,
            "encoder_feedforward_dim": self.encoder_ffn,
            "separable_output": self.separable_output,
            "decoder_layers": self.decoder_layers + 1,
            "dim_feedforward": self.decoder_ffn,
            "num_queries": self.num_queries,
            **shared_contents(self),
        }


# Upper bounds of the values in config.json, several times those of any published network. checkpoint.load compares the
# resulting shapes with those in the file of weights before it allocates memory.
_MOST_LAYERS = 64  # layers of a stage or a decoder
_MOST_CHANNELS = 4096
_MOST_FFN = 1 << 16
_MOST_QUERIES = 4096
_MOST_WINDOW = 32  # a window of w has w**4 pairs of tokens

# Values of config.json in every published checkpoint; the network supports no others.
_FIXED = {
    "feature_strides": [4, 8, 16, 32],
    "common_stride": 4,
    "num_feature_levels": 3,
    "pre_norm": False,
    "enforce_input_projection": False,
    "enforce_input_proj": False,
    "activation_function": "relu",
}
_FIXED_SWIN = {
    "patch_size": 4,
    "num_channels": 3,
    "hidden_act": "gelu",
    "qkv_bias": True,
    "use_absolute_embeddings": False,
    "path_norm": True,
}
# Keys that change the network or its weights; supported only if empty.
_UNSUPPORTED = ("quantization_config", "per_layer_config", "pruned_heads")
# Alternative keys of transformers.
_ALIASES = {"hidden_dim": "hidden_size", "decoder_layers": "num_hidden_layers"}
_ALIASES_SWIN = {"num_heads": "num_attention_heads"}


def has_own_backbone(raw: dict) -> bool:
    """Return True if the backbone in the contents of config.json is one of this package.

    A Swin that gives three of its four stages is not: transformers runs it, and fails with fewer.
    """
    backbone = raw.get("backbone_config") or "swin"  # by default
    kind = backbone.get("model_type") if isinstance(backbone, dict) else backbone
    stages = backbone.get("out_features") if isinstance(backbone, dict) else None
    if kind == "swin":
        return not (isinstance(stages, list) and len(stages) == 3)
    return isinstance(kind, str) and kind in VARIANTS


def _read_backbone(folder: Path, raw: dict) -> SwinConfig | str:
    where = f"{folder}/config.json: "
    backbone = raw.get("backbone_config")
    if not backbone:
        if raw.get("backbone"):
            raise CheckpointError(
                f"{where}backbone is {raw['backbone']!r}, a name alone; describe it in backbone_config, as "
                "transformers does where it saves the model"
            )
        # transformers does not write Mask2FormerConfig's default backbone, Swin-S.
        backbone = {"model_type": "swin", "depths": [2, 2, 18, 2]}
    kind = backbone.get("model_type") if isinstance(backbone, dict) else backbone
    if isinstance(kind, str) and kind in VARIANTS:
        return kind
    if kind != "swin":
        raise CheckpointError(f"{where}backbone {kind!r} is not supported; take a checkpoint with a 'swin' backbone")
    keys = Keys(f"{where}backbone_config.", backbone, _ALIASES_SWIN)
    keys.refuse(_FIXED_SWIN, _UNSUPPORTED)
    stages = {"out_features": ["stage1", "stage2", "stage3", "stage4"], "out_indices": [1, 2, 3, 4]}
    for key, wanted in stages.items():
        if (backbone.get(key) or wanted) not in (wanted, [-4, -3, -2, -1]):
            keys.fail(key, f"only {wanted!r} is supported")
    default = SwinConfig()
    swin = SwinConfig(
        embed_dim=keys.whole("embed_dim", default.embed_dim, most=_MOST_CHANNELS // 8),
        depths=keys.wholes("depths", default.depths, most=_MOST_LAYERS),
        num_heads=keys.wholes("num_heads", default.num_heads, most=_MOST_CHANNELS),
        window_size=keys.whole("window_size", default.window_size, most=_MOST_WINDOW),
        mlp_ratio=keys.number("mlp_ratio", default.mlp_ratio, most=16),
        layer_norm_eps=keys.number("layer_norm_eps", default.layer_norm_eps, most=1),
    )
    if swin.embed_dim * swin.mlp_ratio < 1:
        keys.fail("mlp_ratio", f"of {swin.embed_dim} channels it leaves none")
    if any(swin.embed_dim * 2**i % heads for i, heads in enumerate(swin.num_heads)):
        keys.fail("num_heads", f"each must divide its stage's channels, {swin.embed_dim} times 1, 2, 4, 8")
    return swin
