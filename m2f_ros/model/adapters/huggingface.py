"""Segmenters by transformers' own code: one wrapper, and a table with a row for each family.

transformers builds the network from config.json and maps the keys of the files to its modules; this module reads the
files, and says what comes in and out. transformers is imported when a network is built.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from m2f_ros.errors import CheckpointError, to_install, words_of
from m2f_ros.model import preprocessor
from m2f_ros.model.adapters import mask_training
from m2f_ros.model.config import Keys, is_whole, read_shared, shared_contents
from m2f_ros.model.layout import read_json
from m2f_ros.model.network import Instances, MaskClassification, Network, PixelLogits, TrackedMasks
from m2f_ros.model.preprocessor import IMAGENET_MEAN, IMAGENET_STD
from m2f_ros.taxonomy import Taxonomy

# Fields of transformers' outputs, in the order of the fields of the result.
_FIELDS: dict[type, tuple[str, ...]] = {
    PixelLogits: ("logits",),
    MaskClassification: ("class_queries_logits", "masks_queries_logits"),
    Instances: ("logits", "pred_masks"),
}
# Tokens of "the task is ..." in CLIP's vocabulary, which all OneFormer checkpoints have; zeros follow.
TASKS = {
    "semantic": (49406, 518, 10549, 533, 29119, 1550, 49407),
    "panoptic": (49406, 518, 10549, 533, 1072, 24755, 49407),
    "instance": (49406, 518, 10549, 533, 34572, 49407),
}
# Tensors of files that results do not depend on: the loss, tables of indices, counters, OneFormer's text encoder.
_UNUSED = re.compile(
    r"^criterion\.|relative_position_index$|position_ids$|num_batches_tracked$|^model\.text_mapper\."
    r"|^model\.pixel_level_module\.encoder\.((swin|model)\.)?layernorm\."  # a norm that Swin's features bypass
)
# Keys of config.json that this package reads, or that follow from the weights.
_OWN = {"id2label", "label2id", "num_labels", "taxonomy", "min_pixels", "max_pixels", "dtype", "torch_dtype", "task"}
_OWN |= {"model_type", "architectures", "transformers_version"}
_BOUNDS = {re.compile("layers|depth|blocks"): 1 << 10, re.compile(""): 1 << 24}


class Row(NamedTuple):
    """A family of transformers.

    Attributes:
        title: name for people.
        network: name of the class in transformers.
        gives: type of the result.
        processor: type of the image processor, if preprocessor_config.json does not name it.
        stride: function of config.json that returns the stride of the network's input, pixels; or that stride.
        side: function of config.json that returns the one side of the square input; None if all multiples of the
            stride will do.
        square: True if the input is a square, of the size in preprocessor_config.json alone.
        fixed: keys of config.json that are set for inference.
        class_layer: name of the layer with an output for each class, for networks that can be trained here.
        embeddings: field of transformers' output with the embeddings of the queries, for ids by them; "" for none.
        video: True for a network with memory, which transformers' code takes clips for.
    """

    title: str
    network: str
    gives: type[MaskClassification] | type[PixelLogits] | type[Instances]
    processor: str
    stride: Callable[[Keys], int] | int = 32
    side: Callable[[Keys], int] | None = None
    square: bool = False
    fixed: Mapping[str, Any] = {}
    class_layer: str = ""
    embeddings: str = ""
    video: bool = False

    @property
    def processor_type(self) -> str:
        return f"{self.processor}{'Video' if self.video else 'Image'}Processor"


def _output_stride(keys: Keys) -> int:
    return keys.whole("output_stride", 32, most=32)


def _side(default: int) -> Callable[[Keys], int]:
    """Return a function for networks whose position embeddings, or code, are for one size."""
    return lambda keys: keys.whole("image_size", default, most=8192)


def _dpt_side(keys: Keys) -> int:
    """Return the side for DPT's own ViT, which takes squares alone."""
    keys.refuse({"is_hybrid": False}, ("backbone_config", "backbone"))
    return keys.whole("image_size", 384, most=8192)


def _window_stride(keys: Keys) -> int:
    """Return the stride of a backbone whose windows divide the patches."""
    backbone = keys.part("backbone_config")
    return backbone.whole("patch_size", 14, most=64) * backbone.whole("num_windows", 4, most=64)


# model_type in config.json -> row.
ROWS = {
    "segformer": Row(
        "SegFormer",
        "SegformerForSemanticSegmentation",
        PixelLogits,
        "Segformer",
        class_layer="decode_head.classifier",
    ),
    "upernet": Row(
        "UperNet", "UperNetForSemanticSegmentation", PixelLogits, "Segformer", class_layer="decode_head.classifier"
    ),
    "beit": Row(
        "BEiT",
        "BeitForSemanticSegmentation",
        PixelLogits,
        "Beit",
        side=_side(224),
        class_layer="decode_head.classifier",
    ),
    "dpt": Row("DPT", "DPTForSemanticSegmentation", PixelLogits, "DPT", side=_dpt_side, class_layer="head.head.4"),
    "mobilenet_v2": Row(
        "MobileNetV2 with DeepLabV3+",
        "MobileNetV2ForSemanticSegmentation",
        PixelLogits,
        "MobileNetV2",
        stride=_output_stride,
        class_layer="segmentation_head.classifier",
    ),
    "mobilevit": Row(
        "MobileViT",
        "MobileViTForSemanticSegmentation",
        PixelLogits,
        "MobileViT",
        class_layer="segmentation_head.classifier",
    ),
    "mask2former": Row(
        "Mask2Former",
        "Mask2FormerForUniversalSegmentation",
        MaskClassification,
        "Mask2Former",
        class_layer="class_predictor",
    ),
    "maskformer": Row(
        "MaskFormer",
        "MaskFormerForInstanceSegmentation",
        MaskClassification,
        "MaskFormer",
        class_layer="class_predictor",
        embeddings="transformer_decoder_last_hidden_state",
    ),
    "oneformer": Row(
        "OneFormer",
        "OneFormerForUniversalSegmentation",
        MaskClassification,
        "OneFormer",
        fixed={"is_training": False},
        class_layer="model.transformer_module.decoder.class_embed",
    ),
    "eomt": Row(
        "EoMT",
        "EomtForUniversalSegmentation",
        MaskClassification,
        "Eomt",
        side=_side(640),
        class_layer="class_predictor",
        embeddings="last_hidden_state",
    ),
    "eomt_dinov3": Row(
        "EoMT with DINOv3",
        "EomtDinov3ForUniversalSegmentation",
        MaskClassification,
        "Eomt",
        side=_side(640),
        class_layer="class_predictor",
        embeddings="last_hidden_state",
    ),
    # The code of its windows mixes up height and width.
    "rf_detr": Row("RF-DETR", "RfDetrForInstanceSegmentation", Instances, "RfDetr", stride=_window_stride, square=True),
    "videomt": Row(
        "VidEoMT", "VideomtForUniversalSegmentation", MaskClassification, "Videomt", side=_side(640), video=True
    ),
}


@dataclass(frozen=True)
class AdaptedConfig:
    """Shape and meaning of a network of transformers.

    Attributes:
        kind: model_type of config.json, a key of ROWS.
        shape: the rest of config.json as JSON, as transformers reads it.
        stride: see NetworkConfig; for a network with one size of input, its side.
        processor: type of the image processor.
        bgr: True if the network takes B, G, R; the wrapper turns the channels.
        black_padding: True if images are padded before the normalisation: padding is black, and not of the mean.
        averaged: True if images are averaged where they shrink, and rounded; False if they are interpolated alone.
        task: OneFormer's task, a key of TASKS; "" for other families.
        labels, mean, std, taxonomy, min_pixels, max_pixels, resize: see NetworkConfig.
    """

    kind: str
    shape: str = field(repr=False)
    stride: int
    labels: tuple[str, ...]
    processor: str
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    bgr: bool = False
    black_padding: bool = False
    averaged: bool = True
    task: str = ""
    taxonomy: Taxonomy | None = field(default=None, repr=False)
    min_pixels: int | None = None
    max_pixels: int | None = None
    resize: tuple[str, int, int] | None = None

    @property
    def row(self) -> Row:
        return ROWS[self.kind]

    @property
    def has_one_size(self) -> bool:
        return self.resize is not None and self.resize[0] in ("only", "within")

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    @property
    def summary(self) -> str:
        task = f", {self.task} task" if self.task else ""
        return f"{self.row.title} by transformers{task}, {self.num_classes} classes"

    @classmethod
    def read(cls, folder: Path) -> AdaptedConfig:
        """Read the files of a Hugging Face style folder. Raises CheckpointError."""
        raw = read_json(folder / "config.json")
        where, kind = f"{folder}/config.json: ", raw["model_type"]
        keys, row = Keys(where, _without_pairs(raw)), ROWS[kind]
        keys.refuse({"num_channels": 3}, ("quantization_config", "pruned_heads"))
        check_bounds(where, raw)
        side = row.side(keys) if row.side else None
        stride = side or (row.stride if isinstance(row.stride, int) else row.stride(keys))
        shared = read_shared(folder, raw, stride, processor=row.processor_type, side=side)
        if row.square:
            stride = _side_of(folder, shared["resize"])
            shared["resize"] = ("only", stride, stride)
        task = ""
        if kind == "oneformer":
            task = raw.get("task") or "semantic"
            if task not in TASKS:
                keys.fail("task", f"it must be {', '.join(TASKS)}")
        if raw.get("backbone") and not raw.get("backbone_config"):
            keys.fail("backbone", "a name alone; describe it in backbone_config, as transformers does where it saves")
        shape = _with_own_weights({key: value for key, value in raw.items() if key not in _OWN}) | dict(row.fixed)
        return cls(kind, json.dumps(shape, sort_keys=True), stride, task=task, **shared)

    def contents(self) -> dict[str, Any]:
        """See NetworkConfig.contents."""
        task = {"task": self.task} if self.task else {}
        kind = {"model_type": self.kind, "architectures": [self.row.network]}
        return json.loads(self.shape) | kind | task | shared_contents(self)


def _side_of(folder: Path, resize: tuple[str, int, int] | None) -> int:
    """Return the side of the square that images are stretched to."""
    if resize is None or resize[0] != "fixed" or resize[1] != resize[2]:
        raise CheckpointError(
            f"{folder}/{preprocessor.FILE}: the network takes images of one square alone: set do_resize to true, and "
            "size to equal height and width"
        )
    return resize[1]


def _without_pairs(raw: dict) -> dict:
    """Return an object with [n, n] in place of n."""
    pairs = {k: v[0] for k, v in raw.items() if isinstance(v, list) and len(v) == 2 and v[0] == v[1]}
    return raw | pairs


def _with_own_weights(raw: dict) -> dict:
    """Return an object without leave to download weights of a backbone: they are in the checkpoint."""
    return {
        key: _with_own_weights(value) if isinstance(value, dict) else value
        for key, value in raw.items()
        if key != "use_pretrained_backbone"
    }


def check_bounds(where: str, raw: dict) -> None:
    """Raise CheckpointError for sizes that no network has, which would take memory and time without end."""
    for key, value in raw.items():
        if isinstance(value, dict):
            check_bounds(f"{where}{key}.", value)
        most = next(most for pattern, most in _BOUNDS.items() if pattern.search(key))
        for number in value if isinstance(value, list) else [value]:
            if is_whole(number) and not -most <= number <= most:
                raise CheckpointError(f"{where}{key} is {number}; it must be {most} at most")


class Adapted(Network):
    """A network of transformers: normalised pixels in, the result out."""

    config: AdaptedConfig
    network: Any  # transformers has types of its own for each family
    tokens: Tensor

    def __init__(self, config: AdaptedConfig, network: nn.Module):
        super().__init__()
        self.config = config
        self.network = network
        tokens = torch.zeros(0)
        if config.task:
            tokens = torch.zeros(self.network.config.task_seq_len)
            tokens[: len(TASKS[config.task])] = torch.tensor(TASKS[config.task], dtype=torch.float32)
        self.register_buffer("tokens", tokens, persistent=False)

    def check_size(self, height: int, width: int) -> None:
        """Raise ValueError for a size that the network does not take."""
        super().check_size(height, width)
        side = self.config.stride
        if self.config.has_one_size and (height, width) != (side, side):
            raise ValueError(f"images of {height}x{width}: the network takes {side}x{side} alone")

    def forward(self, pixels: Tensor, plan: None = None) -> tuple:
        """See Network.forward."""
        out = self._outputs(pixels)
        fields = tuple(out[name] for name in _FIELDS[type(self).gives])
        if self.gives is TrackedMasks:
            fields += (out[self.config.row.embeddings][:, : fields[0].shape[1]],)
        return self._result(*fields)

    def _outputs(self, pixels: Tensor, **more: Any) -> Any:
        """Return the library's own outputs. more: arguments for its network."""
        self.check_size(*pixels.shape[-2:])
        if self.config.bgr:
            pixels = pixels.flip(1)
        if self.config.task:
            more["task_inputs"] = self.tokens.expand(len(pixels), -1)
        return self.network(pixel_values=pixels, **more)

    def _result(self, *fields: Tensor) -> tuple:
        return self.gives(*fields)

    def give_embeddings(self) -> None:
        """See Network.give_embeddings."""
        if not self.config.row.embeddings:
            raise CheckpointError(f"a {self.config.row.title} by transformers gives no embeddings of queries")
        self.gives = TrackedMasks

    def encoder(self) -> nn.Module:
        """See Network.encoder."""
        whole = self.network.base_model
        return self.network.backbone if whole is self.network else whole

    def class_layer(self) -> nn.Module:
        """See Network.class_layer."""
        if not self.config.row.class_layer:
            return super().class_layer()
        return self.network.get_submodule(self.config.row.class_layer)

    def fold_norms(self) -> None:
        """Make a constant of EoMT's schedule of masks, which its forward pass reads back from a buffer."""
        buffers = self.network._buffers
        probabilities = buffers.get("attn_mask_probs")
        if probabilities is not None:
            buffers.pop("attn_mask_probs")
            self.network.attn_mask_probs = probabilities.tolist()

    def write_weights(self, folder: Path, dtype: torch.dtype | None) -> torch.dtype:
        """Write model.safetensors for `load` and transformers. Return the dtype of the weights.

        dtype: dtype of the floating-point weights in the file; None keeps the network's.
        """
        network = self.network
        tensors = network.state_dict()
        if "attn_mask_probs" not in tensors and hasattr(network, "attn_mask_probs"):  # see fold_norms
            tensors["attn_mask_probs"] = torch.tensor(network.attn_mask_probs)
        state = {
            key: value.detach().to("cpu", dtype if dtype and value.is_floating_point() else None).contiguous()
            for key, value in tensors.items()
        }
        with tempfile.TemporaryDirectory(dir=folder) as work, _quiet():
            network.save_pretrained(work, state_dict=state, max_shard_size="1TB")
            file = Path(work) / "model.safetensors"
            file.chmod(0o644)
            os.replace(file, folder / "model.safetensors")
        return dtype or next(network.parameters()).dtype


class AdaptedPixels(Adapted):
    """A network of transformers that classifies pixels."""

    gives = PixelLogits


class AdaptedMasks(Adapted):
    """A network of transformers with queries, each a mask and a class."""

    gives = MaskClassification

    def forward(self, pixels: Tensor, plan: None = None) -> tuple:
        """See Network.forward. In training the results of all decoder layers."""
        if not self.training:
            return super().forward(pixels, plan)
        return mask_training.run(self.network, partial(self._outputs, pixels))

    def encoder(self) -> nn.Module:
        """See Network.encoder."""
        return mask_training.encoder(self.network)


class AdaptedInstances(Adapted):
    """A network of transformers that finds instances: queries with a sigmoid for each class."""

    gives = Instances

    def _result(self, *fields: Tensor) -> Instances:
        """As many pairs of query and class score as there are queries: the best ones. (post_process_* of RF-DETR)"""
        logits, masks = fields
        scores = logits.sigmoid()
        least = scores.flatten(1).topk(scores.shape[1]).values[:, -1:, None]
        return Instances(scores * (scores >= least), masks)


_WRAPPERS: dict[type, type[Adapted]] = {
    PixelLogits: AdaptedPixels,
    MaskClassification: AdaptedMasks,
    Instances: AdaptedInstances,
}


def build(config: AdaptedConfig) -> Adapted:
    """Build a network with random weights."""
    make, shape = _classes(config, f"a {config.row.title}")
    with _quiet(), _explained(f"a {config.row.title}"):
        return _wrapped(config, make(shape))


def new_config(shape: Mapping[str, Any], taxonomy: Taxonomy) -> AdaptedConfig:
    """Return the config of a network without a checkpoint, with ImageNet's normalisation, if its processor has any.

    shape: keys of transformers' config.json, such as {"model_type": "segformer", "depths": [2, 2, 2, 2]}; those that
    are absent have transformers' defaults.

    Raises CheckpointError: the family is unknown, or a key is wrong.
    """
    kind = shape.get("model_type")
    if kind not in ROWS:
        raise CheckpointError(f"model_type {kind!r} is unknown; known are {', '.join(ROWS)}")
    row, names = ROWS[kind], enumerate(taxonomy.names)
    side = row.side(Keys("", _without_pairs(dict(shape)))) if row.side else None
    processor: dict[str, Any] = {"image_processor_type": row.processor_type, "do_resize": bool(side)}
    processor |= {"size": {"height": side, "width": side}} if side else {}
    style = preprocessor.STYLES[row.processor]  # MobileViT's processor ignores do_normalize
    processor |= {"do_normalize": style.normalised, "do_center_crop": False, "do_flip_channel_order": style.bgr}
    with tempfile.TemporaryDirectory() as work:
        for name, content in (("config.json", {**shape, "id2label": dict(names)}), (preprocessor.FILE, processor)):
            Path(work, name).write_text(json.dumps(content))
        try:
            return replace(AdaptedConfig.read(Path(work)), taxonomy=taxonomy)
        except CheckpointError as error:
            raise CheckpointError(str(error).replace(f"{work}/", "")) from None


class Loaded(NamedTuple):
    """A network from files, and the keys of tensors that do not fit it.

    Attributes:
        missing, surplus: keys of tensors that the files lack, or that the network lacks.
        misshapen: key, shape in the files, shape in the network.
    """

    network: Adapted
    missing: list[str]
    surplus: list[str]
    misshapen: list[tuple[str, tuple, tuple]]


def load(config: AdaptedConfig, state: dict[str, Tensor], folder: Path) -> Loaded:
    """Build a network from tensors by their keys in the files. Raises CheckpointError if transformers cannot."""
    make, shape = _classes(config, f"{folder}/config.json")
    with _quiet(), _explained(f"{folder}/config.json"):
        network, found = make.from_pretrained(
            None,
            config=shape,
            state_dict=state,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    missing, surplus = (
        sorted(key for key in found[name] if not _UNUSED.search(key)) for name in ("missing_keys", "unexpected_keys")
    )
    misshapen = sorted((key, tuple(one), tuple(other)) for key, one, other in found["mismatched_keys"])
    return Loaded(_wrapped(config, network), missing, surplus, misshapen)


def _wrapped(config: AdaptedConfig, network: nn.Module) -> Adapted:
    if config.row.video:
        from m2f_ros.model.adapters.videomt import AdaptedVideo

        return AdaptedVideo(config, network)
    return _WRAPPERS[config.row.gives](config, network)


def _classes(config: AdaptedConfig, where: str) -> tuple[Any, Any]:
    """Return transformers' class of the network, and its config. where: prefix of messages."""
    try:
        import transformers
    except ImportError as error:
        raise CheckpointError(
            f"{where}: a {config.row.title} needs transformers ({error}): {to_install('transformers')}"
        ) from None
    make = getattr(transformers, config.row.network, None)
    if make is None:
        raise CheckpointError(
            f"transformers {transformers.__version__} has no {config.row.network}: pip install -U transformers"
        )
    with _quiet(), _explained(where):
        labels = {"id2label": dict(enumerate(config.labels))}
        return make, make.config_class.from_dict(json.loads(config.shape) | labels)


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn transformers' errors, which have no common type, into a CheckpointError of one line."""
    try:
        yield
    except (CheckpointError, KeyboardInterrupt):
        raise
    except ImportError as error:
        raise CheckpointError(f"{what}: a package is missing: {words_of(error, 200)}") from None
    except Exception as error:
        raise CheckpointError(
            f"{what}: transformers cannot build the network ({type(error).__name__}: {words_of(error, 200)})"
        ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' bars and its reports of keys, which `Loaded` has."""
    from transformers.utils import logging

    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
