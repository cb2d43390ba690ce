"""What a Mask2Former is made of: the numbers that shape the network, read from and written to config.json."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import CheckpointError, TaxonomyError
from m2f_ros.files import write_whole
from m2f_ros.model.efficientnet_lite import VARIANTS

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class SwinConfig:
    """Shape of a Swin backbone. Defaults: Swin-T. (Liu et al. 2021, https://arxiv.org/abs/2103.14030)"""

    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0


SWIN = {
    "swin-tiny": SwinConfig(),
    "swin-small": SwinConfig(depths=(2, 2, 18, 2)),
    "swin-base": SwinConfig(128, (2, 2, 18, 2), (4, 8, 16, 32), window_size=12),
    "swin-large": SwinConfig(192, (2, 2, 18, 2), (6, 12, 24, 48), window_size=12),
}


@dataclass(frozen=True)
class ModelConfig:
    """Shape and meaning of a Mask2Former. (Cheng et al. 2022, https://arxiv.org/abs/2112.01527)

    Attributes:
        backbone: a SwinConfig, or one of m2f_ros.model.efficientnet_lite.VARIANTS.
        labels: class names; their order is the train id. The network has one class more, "no object".
        mean, std: of the input's R, G, B in 0..255, as the backbone was trained.
        hidden_dim: channels of the pixel decoder, of the queries and of the mask embedding.
        encoder_layers, encoder_ffn: deformable layers of the pixel decoder and their feed-forward width.
        separable_output: the pixel decoder's last convolution, 3x3 at stride 4, is a depthwise one and a 1x1. Not
            upstream's: transformers has no such network.
        decoder_layers, decoder_ffn: masked-attention layers (config.json counts one more) and their width.
        taxonomy: whole, of the labels, if it is known.
        min_pixels, max_pixels: smaller images are enlarged, larger ones shrunk to about this many pixels by default, as
            the model was trained.
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
    taxonomy: taxonomies.Taxonomy | None = field(default=None, repr=False)
    min_pixels: int | None = None
    max_pixels: int | None = None

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    @classmethod
    def read(cls, folder: Path) -> ModelConfig:
        """Read config.json, and preprocessor_config.json where it is there, of a Hugging Face style folder.

        Raises:
            CheckpointError: a file is missing or is no JSON, or the network is not one this package builds.
        """
        raw = _read_json(folder / "config.json")
        if raw.get("model_type") != "mask2former":
            kind = raw.get("model_type") or raw.get("architectures") or "unknown"
            raise CheckpointError(f"{folder}: the checkpoint is a {kind!r}, not a 'mask2former'; name another model")
        hidden_dim = raw.get("hidden_dim", 256)
        for key, wanted in _FIXED.items():
            wanted = hidden_dim if wanted == "hidden_dim" else wanted
            if raw.get(key, wanted) != wanted:
                raise CheckpointError(f"{folder}/config.json: {key} is {raw[key]!r}; only {wanted!r} is supported")
        id2label = raw.get("id2label")
        if not id2label:
            raise CheckpointError(f"{folder}/config.json: id2label is missing; the classes' names must be there")
        try:
            labels = tuple(id2label[key] for key in sorted(id2label, key=int))
        except (TypeError, ValueError):
            raise CheckpointError(f"{folder}/config.json: id2label must map '0', '1', … to class names") from None
        mean, std = _read_normalisation(folder)
        return cls(
            backbone=_read_backbone(folder, raw),
            labels=labels,
            mean=mean,
            std=std,
            hidden_dim=hidden_dim,
            heads=raw.get("num_attention_heads", 8),
            encoder_layers=raw.get("encoder_layers", 6),
            encoder_ffn=raw.get("encoder_feedforward_dim", 1024),
            separable_output=raw.get("separable_output", False),
            decoder_layers=raw.get("decoder_layers", 10) - 1,
            decoder_ffn=raw.get("dim_feedforward", 2048),
            num_queries=raw.get("num_queries", 100),
            taxonomy=_read_taxonomy(f"{folder}/config.json", raw.get("taxonomy"), labels),
            min_pixels=raw.get("min_pixels"),
            max_pixels=raw.get("max_pixels"),
        )

    def write(self, folder: Path) -> None:
        """Write config.json and preprocessor_config.json as `read` and, for Swin, transformers read them."""
        if isinstance(self.backbone, SwinConfig):
            swin = self.backbone
            backbone = {
                "model_type": "swin",
                "embed_dim": swin.embed_dim,
                "depths": list(swin.depths),
                "num_heads": list(swin.num_heads),
                "window_size": swin.window_size,
                "mlp_ratio": swin.mlp_ratio,
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
            }
        else:
            backbone = {"model_type": self.backbone}
        config = {
            "architectures": ["Mask2FormerForUniversalSegmentation"],
            "model_type": "mask2former",
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
            "id2label": {str(i): name for i, name in enumerate(self.labels)},
            "label2id": {name: i for i, name in enumerate(self.labels)},
            "taxonomy": self.taxonomy and self.taxonomy.to_dict(),
            "min_pixels": self.min_pixels,
            "max_pixels": self.max_pixels,
        }
        preprocessor = {
            "image_processor_type": "Mask2FormerImageProcessor",
            "image_mean": [value / 255 for value in self.mean],
            "image_std": [value / 255 for value in self.std],
            "size_divisor": 32,
        }
        for name, content in (("config.json", config), ("preprocessor_config.json", preprocessor)):
            write_whole(folder / name, json.dumps(content, indent=2) + "\n")


# Values of config.json that every published checkpoint has and the compact network relies on.
_FIXED = {
    "feature_size": "hidden_dim",
    "mask_feature_size": "hidden_dim",
    "feature_strides": [4, 8, 16, 32],
    "common_stride": 4,
    "pre_norm": False,
    "enforce_input_projection": False,
    "activation_function": "relu",
}
_FIXED_SWIN = {"patch_size": 4, "hidden_act": "gelu", "qkv_bias": True, "use_absolute_embeddings": False}


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist; a checkpoint folder holds config.json and weights") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object")
    return content


def _read_taxonomy(file: str, raw: object, labels: tuple[str, ...]) -> taxonomies.Taxonomy | None:
    """The taxonomy that a config.json carries: whole, or by the name of a built-in one."""
    if not raw:
        return None
    try:
        if isinstance(raw, str):
            # Of a taxonomy that is not built in, a name alone says no more than the labels do.
            found = taxonomies.get(raw) if raw in taxonomies.BUILTIN else taxonomies.from_names(raw, labels)
        else:
            found = taxonomies.Taxonomy.from_dict(raw, f"{file}: taxonomy")
    except TaxonomyError as error:
        raise CheckpointError(str(error)) from None
    if reason := taxonomies.difference(found, labels):
        raise CheckpointError(
            f"{file}: its taxonomy {found.name!r} and its id2label are of different models: {reason}; take the "
            "right one of them, or remove the key taxonomy, and the classes are called as in id2label"
        )
    return found


def _read_backbone(folder: Path, raw: dict) -> SwinConfig | str:
    # transformers leaves backbone_config out for Mask2FormerConfig's default backbone, Swin-S.
    backbone = raw.get("backbone_config") or {"model_type": "swin", "depths": [2, 2, 18, 2]}
    kind = backbone.get("model_type")
    if kind in VARIANTS:
        return kind
    if kind != "swin":
        raise CheckpointError(
            f"{folder}/config.json: backbone {kind!r} is not supported; take a checkpoint with a 'swin' backbone"
        )
    for key, wanted in _FIXED_SWIN.items():
        if backbone.get(key, wanted) != wanted:
            raise CheckpointError(
                f"{folder}/config.json: backbone_config.{key} is {backbone[key]!r}; only {wanted!r} is supported"
            )
    default = SwinConfig()
    return SwinConfig(
        embed_dim=backbone.get("embed_dim", default.embed_dim),
        depths=tuple(backbone.get("depths", default.depths)),
        num_heads=tuple(backbone.get("num_heads", default.num_heads)),
        window_size=backbone.get("window_size", default.window_size),
        mlp_ratio=backbone.get("mlp_ratio", default.mlp_ratio),
    )


def _read_normalisation(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    # Only mean and std are taken: the hub's "size" is 384x384 for every checkpoint and would squash the image.
    path = folder / "preprocessor_config.json"
    if not path.exists():
        return IMAGENET_MEAN, IMAGENET_STD
    raw = _read_json(path)
    scale = 1 / raw.get("rescale_factor", 1 / 255)
    mean = tuple(value * scale for value in raw.get("image_mean", [v / 255 for v in IMAGENET_MEAN]))
    std = tuple(value * scale for value in raw.get("image_std", [v / 255 for v in IMAGENET_STD]))
    return mean, std
