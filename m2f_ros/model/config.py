"""What a Mask2Former is made of: the numbers that shape the network, read from and written to config.json."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import CheckpointError, TaxonomyError, say_once
from m2f_ros.files import write_whole
from m2f_ros.model import preprocessor
from m2f_ros.model.efficientnet_lite import VARIANTS
from m2f_ros.model.layout import read_json
from m2f_ros.model.preprocessor import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class SwinConfig:
    """Shape of a Swin backbone. Defaults: Swin-T. (Liu et al. 2021, https://arxiv.org/abs/2103.14030)

    layer_norm_eps: of the two norms of each block; the other norms have 1e-5, as in transformers.
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
        resize: the size of the network's input by default, of a checkpoint that names it so: ("fixed", height, width),
            or ("shortest", pixels of the shorter side, or fewer where the longer one would exceed, pixels). Without
            it, and without the bounds above, images keep their size.
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
    resize: tuple[str, int, int] | None = None

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    @classmethod
    def read(cls, folder: Path) -> ModelConfig:
        """Read config.json, and preprocessor_config.json where it is there, of a Hugging Face style folder.

        Raises:
            CheckpointError: a file is missing or is no JSON, or the network is not one this package builds.
        """
        raw = read_json(folder / "config.json")
        if raw.get("model_type") != "mask2former":
            kind = raw.get("model_type") or raw.get("architectures") or "unknown"
            raise CheckpointError(
                f"{folder}: the checkpoint is a {kind!r}, not a 'mask2former'; name one with a Swin backbone, such as "
                "facebook/mask2former-swin-tiny-cityscapes-semantic"
            )
        keys = _Keys(f"{folder}/config.json: ", raw, _ALIASES)
        keys.refuse(_FIXED, _UNSUPPORTED)
        hidden_dim = keys.number("hidden_dim", 256, most=_MOST_CHANNELS)
        heads = keys.number("num_attention_heads", 8, most=hidden_dim)
        for key in ("feature_size", "mask_feature_size"):
            if keys.number(key, 256, most=_MOST_CHANNELS) != hidden_dim:
                keys.fail(key, f"only that of hidden_dim, {hidden_dim}, is supported")
        if hidden_dim % heads or hidden_dim % 32:
            keys.fail("hidden_dim", f"it must be a multiple of 32 and of num_attention_heads, {heads}")
        labels = _read_labels(folder, raw)
        bounds = {
            key: None if raw[key] is None else keys.number(key, 1, most=most)
            for key, most in (("min_pixels", _MOST_PIXELS // 4), ("max_pixels", _MOST_PIXELS))
            if key in raw
        }
        if (bounds.get("min_pixels") or 0) > (bounds.get("max_pixels") or _MOST_PIXELS):
            keys.fail("min_pixels", f"it must not be above max_pixels, {bounds['max_pixels']}")
        # This package always writes the bounds; what older versions of it wrote besides says nothing of sizes.
        mean, std, resize = preprocessor.read(folder, resized=not bounds)
        return cls(
            backbone=_read_backbone(folder, raw),
            labels=labels,
            mean=mean,
            std=std,
            hidden_dim=hidden_dim,
            heads=heads,
            encoder_layers=keys.number("encoder_layers", 6, most=_MOST_LAYERS),
            encoder_ffn=keys.number("encoder_feedforward_dim", 1024, most=_MOST_FFN),
            separable_output=keys.flag("separable_output", False),
            decoder_layers=keys.number("decoder_layers", 10, least=2, most=_MOST_LAYERS) - 1,
            decoder_ffn=keys.number("dim_feedforward", 2048, most=_MOST_FFN),
            num_queries=keys.number("num_queries", 100, most=_MOST_QUERIES),
            taxonomy=_read_taxonomy(f"{folder}/config.json", raw.get("taxonomy"), labels),
            resize=None if any(bounds.values()) else resize,
            **bounds,
        )

    def write(self, folder: Path, dtype: str = "float32") -> None:
        """Write config.json and preprocessor_config.json as `read` and, for Swin, transformers read them.

        dtype: of the weights, by torch's name.
        """
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
        else:
            backbone = {"model_type": self.backbone}
        config = {
            "architectures": ["Mask2FormerForUniversalSegmentation"],
            "model_type": "mask2former",
            "torch_dtype": dtype,  # read by every version of transformers, which calls it dtype since 4.56
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
        images = preprocessor.contents(self.mean, self.std, self.resize, self.max_pixels or self.min_pixels)
        for name, content in (("config.json", config), (preprocessor.FILE, images)):
            write_whole(folder / name, json.dumps(content, indent=2) + "\n")


# The most that a config.json may ask for, several times the values of any published network. checkpoint.load
# compares the shapes that config.json gives with those in the file of weights before it allocates memory.
_MOST_LAYERS = 64  # of a stage or a decoder
_MOST_CHANNELS = 4096
_MOST_FFN = 1 << 16
_MOST_QUERIES = 4096
_MOST_WINDOW = 32  # a window of w has w**4 pairs of tokens
_MOST_PIXELS = 1 << 26  # 8192 x 8192
_MOST_CLASSES = 65535  # that fit in a label image

# Values of config.json that every published checkpoint has, and that the network is built for.
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
# Keys that change the network or its weights unless they are empty.
_UNSUPPORTED = ("quantization_config", "per_layer_config", "pruned_heads")
# Other names that transformers takes.
_ALIASES = {"hidden_dim": "hidden_size", "decoder_layers": "num_hidden_layers"}
_ALIASES_SWIN = {"num_heads": "num_attention_heads"}


class _Keys:
    """Values of a JSON object, each of its type, or a CheckpointError that says which and where."""

    def __init__(self, where: str, raw: dict, aliases: dict[str, str]):
        """where: leads the messages. aliases: key -> another name of it."""
        self._where, self._raw, self._names = where, raw, {}
        for key, other in aliases.items():
            if other in raw and raw.get(key, raw[other]) != raw[other]:
                self.fail(key, f"but {other}, another name of it, is {raw[other]!r}; remove one of them")
            self._names[key] = key if key in raw else other

    def fail(self, key: str, what: str) -> None:
        raise CheckpointError(f"{self._where}{key} is {self._raw.get(self._names.get(key, key))!r}; {what}")

    def refuse(self, fixed: dict[str, Any], unsupported: tuple[str, ...]) -> None:
        """Any other value than those that are fixed, and all keys that are not supported."""
        for key, wanted in fixed.items():
            # [4, 4] of a patch is 4.
            value = self._raw.get(key, wanted)
            if value != wanted and not (isinstance(value, list) and value == [wanted] * 2):
                self.fail(key, f"only {wanted!r} is supported")
        for key in unsupported:
            if self._raw.get(key):
                raise CheckpointError(f"{self._where}{key} is not supported; take a checkpoint without it")

    def number(self, key: str, default: float, *, least: int | None = 1, most: float) -> Any:
        """A whole number from `least` to `most`; with None any number above 0."""
        value = self._raw.get(self._names.get(key, key), default)
        if least is None:
            if not _is_number(value) or not 0 < value <= most:
                self.fail(key, f"it must be a number above 0, {most} at most")
        elif not _is_whole(value) or not least <= value <= most:
            self.fail(key, f"it must be a whole number from {least} to {most}")
        return value

    def numbers(self, key: str, default: tuple[int, ...], count: int, most: int) -> tuple[int, ...]:
        values = self._raw.get(self._names.get(key, key), default)
        fits = isinstance(values, (list, tuple)) and len(values) == count
        if not fits or not all(_is_whole(v) and 1 <= v <= most for v in values):
            self.fail(key, f"it must be {count} whole numbers from 1 to {most}")
        return tuple(values)

    def flag(self, key: str, default: bool) -> bool:
        value = self._raw.get(key, default)
        if not isinstance(value, bool):
            self.fail(key, "it must be true or false")
        return value


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return _is_whole(value) or isinstance(value, float)


def _read_labels(folder: Path, raw: dict) -> tuple[str, ...]:
    where = f"{folder}/config.json: "
    id2label, label2id, count = raw.get("id2label"), raw.get("label2id") or {}, raw.get("num_labels")
    if not isinstance(label2id, dict):
        raise CheckpointError(f"{where}label2id must map class names to numbers")
    if id2label is None:
        # So transformers writes two classes without names, and reads any number of them.
        count = 2 if count is None else count
        if not _is_whole(count) or count < 1 or (label2id and len(label2id) != count):
            raise CheckpointError(f"{where}id2label is missing; the classes' names must be there")
        if count > _MOST_CLASSES:
            raise CheckpointError(f"{where}num_labels is {count}; at most {_MOST_CLASSES} fit in a label image")
        say_once(f"{where}names no classes: they are called LABEL_0 to LABEL_{count - 1}; id2label would name them")
        return tuple(f"LABEL_{i}" for i in range(count))
    try:
        labels = {int(key): name for key, name in id2label.items()}
    except (AttributeError, ValueError):
        labels = {}
    if not labels or not all(isinstance(name, str) for name in labels.values()):
        raise CheckpointError(f"{where}id2label must map '0', '1', … to class names")
    if len(labels) > _MOST_CLASSES:
        raise CheckpointError(
            f"{where}id2label has {len(labels)} classes; at most {_MOST_CLASSES} fit in a label image"
        )
    for name in labels.values():
        if fault := taxonomies.name_fault(name):
            raise CheckpointError(f"{where}id2label: {fault}; correct the name")
    if len(labels) != len(id2label) or sorted(labels) != list(range(len(labels))):
        raise CheckpointError(
            f"{where}id2label has the ids {min(labels)} to {max(labels)} for {len(id2label)} classes; the network's "
            f"classes are numbered 0 to {len(id2label) - 1}: say which is which"
        )
    if count is not None and count != len(labels):
        raise CheckpointError(f"{where}num_labels is {count!r}, but id2label has {len(labels)} classes; correct them")
    if any(labels.get(int(i)) != name for name, i in label2id.items() if re.fullmatch("[0-9]{1,9}", str(i))):
        say_once(f"{where}label2id has other classes than id2label, which is taken, as transformers does")
    return tuple(labels[i] for i in range(len(labels)))


def _read_taxonomy(file: str, raw: object, labels: tuple[str, ...]) -> taxonomies.Taxonomy | None:
    """The taxonomy that a config.json carries: whole, or by the name of a built-in one."""
    if raw is None or raw == "":
        return None
    try:
        if isinstance(raw, str):
            if fault := taxonomies.name_fault(raw):
                raise TaxonomyError(f"{file}: taxonomy: {fault}")
            # The name alone of a taxonomy that is not built in says no more than the labels do.
            found = taxonomies.get(raw) if raw in taxonomies.BUILTIN else taxonomies.of_labels(raw, labels)
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
    where = f"{folder}/config.json: "
    backbone = raw.get("backbone_config")
    if not backbone:
        if raw.get("backbone"):
            raise CheckpointError(
                f"{where}backbone is {raw['backbone']!r}, a name alone; describe it in backbone_config, as "
                "transformers does where it saves the model"
            )
        # transformers leaves Mask2FormerConfig's default backbone out, Swin-S.
        backbone = {"model_type": "swin", "depths": [2, 2, 18, 2]}
    kind = backbone.get("model_type") if isinstance(backbone, dict) else backbone
    if isinstance(kind, str) and kind in VARIANTS:
        return kind
    if kind != "swin":
        raise CheckpointError(f"{where}backbone {kind!r} is not supported; take a checkpoint with a 'swin' backbone")
    keys = _Keys(f"{where}backbone_config.", backbone, _ALIASES_SWIN)
    keys.refuse(_FIXED_SWIN, _UNSUPPORTED)
    stages = {"out_features": ["stage1", "stage2", "stage3", "stage4"], "out_indices": [1, 2, 3, 4]}
    for key, wanted in stages.items():
        if (backbone.get(key) or wanted) not in (wanted, [-4, -3, -2, -1]):
            keys.fail(key, f"only {wanted!r} is supported")
    default = SwinConfig()
    swin = SwinConfig(
        embed_dim=keys.number("embed_dim", default.embed_dim, most=_MOST_CHANNELS // 8),
        depths=keys.numbers("depths", default.depths, 4, _MOST_LAYERS),
        num_heads=keys.numbers("num_heads", default.num_heads, 4, _MOST_CHANNELS),
        window_size=keys.number("window_size", default.window_size, most=_MOST_WINDOW),
        mlp_ratio=keys.number("mlp_ratio", default.mlp_ratio, least=None, most=16),
        layer_norm_eps=keys.number("layer_norm_eps", default.layer_norm_eps, least=None, most=1),
    )
    if swin.embed_dim * swin.mlp_ratio < 1:
        keys.fail("mlp_ratio", f"of {swin.embed_dim} channels it leaves none")
    if any(swin.embed_dim * 2**i % heads for i, heads in enumerate(swin.num_heads)):
        keys.fail("num_heads", f"each must divide its stage's channels, {swin.embed_dim} times 1, 2, 4, 8")
    return swin
