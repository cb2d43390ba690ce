"""Segmenters of torchvision and segmentation_models.pytorch by these libraries' own code: one wrapper, and a table.

A folder holds config.json and weights: as segmentation_models.pytorch's save_pretrained writes them, or as `save` does.
A name such as "torchvision:fcn_resnet50:FILE" or "smp:Unet/resnet34:FILE" has the network in place of config.json. The
libraries are imported when a network is built, or such a name is read.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from m2f_ros.errors import CheckpointError, say_once, to_install, words_of
from m2f_ros.model import preprocessor
from m2f_ros.model.adapters.huggingface import check_bounds
from m2f_ros.model.config import Keys, read_shared, shared_contents
from m2f_ros.model.layout import read_json
from m2f_ros.model.network import BoxedInstances, Network, PixelLogits
from m2f_ros.model.preprocessor import IMAGENET_MEAN, IMAGENET_STD
from m2f_ros.taxonomy import Taxonomy

PROCESSOR = "SegformerImageProcessor"  # type of the image processor that `save` writes
SMP = "smp"
_OWN = "_m2f"  # key in a config.json of segmentation_models.pytorch, which skips keys that begin so
_LONGEST_SIDE = 8192
_NO_EPS = "norms_without_eps"  # as torchvision computes the norms of its first weights of Mask R-CNN
# Keys of torchvision's older files of Mask R-CNN -> those of its modules.
_OLDER: tuple[tuple[str, Any], ...] = (
    (r"mask_head\.mask_fcn(\d)\.", lambda found: f"mask_head.{int(found[1]) - 1}.0."),
    (r"rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
    (r"(fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2"),
)


class Row(NamedTuple):
    """A family.

    Attributes:
        title: name for people.
        stride: number whose multiples are the height and width of the input.
        gives: type of the result. The library counts the background as class 0 of instances; here it is none.
    """

    title: str
    stride: int
    gives: type[PixelLogits] | type[BoxedInstances] = PixelLogits


class Library(NamedTuple):
    """A library of segmenters.

    Attributes:
        package: its name.
        rows: name of an architecture in the library -> row.
        last: keys of the weights of the last layer; the first that is there tells the number of classes.
    """

    package: str
    rows: dict[str, Row]
    last: tuple[str, ...]


# Kind -> library. torchvision's networks give logits at the stride, 8, or 16 of the MobileNets' features.
LIBRARIES = {
    "torchvision": Library(
        "torchvision",
        {
            "fcn_resnet50": Row("FCN with ResNet-50", 8),
            "fcn_resnet101": Row("FCN with ResNet-101", 8),
            "deeplabv3_resnet50": Row("DeepLabV3 with ResNet-50", 8),
            "deeplabv3_resnet101": Row("DeepLabV3 with ResNet-101", 8),
            "deeplabv3_mobilenet_v3_large": Row("DeepLabV3 with MobileNetV3", 16),
            "lraspp_mobilenet_v3_large": Row("LR-ASPP with MobileNetV3", 16),
            "maskrcnn_resnet50_fpn": Row("Mask R-CNN with ResNet-50", 32, BoxedInstances),
            "maskrcnn_resnet50_fpn_v2": Row("Mask R-CNN v2 with ResNet-50", 32, BoxedInstances),
        },
        ("roi_heads.mask_predictor.mask_fcn_logits.weight", "classifier.low_classifier.weight", "classifier.4.weight"),
    ),
    SMP: Library(
        "segmentation_models_pytorch",
        {
            "Unet": Row("U-Net", 32),
            "UnetPlusPlus": Row("U-Net++", 32),
            "MAnet": Row("MA-Net", 32),
            "Linknet": Row("LinkNet", 32),
            "FPN": Row("FPN", 32),
            "PSPNet": Row("PSPNet", 32),
            "PAN": Row("PAN", 32),
            "DeepLabV3": Row("DeepLabV3", 32),
            "DeepLabV3Plus": Row("DeepLabV3+", 32),
            "UPerNet": Row("UPerNet", 32),
            "Segformer": Row("SegFormer", 32),
        },
        ("segmentation_head.0.weight",),
    ),
}


@dataclass(frozen=True)
class ZooConfig:
    """Shape and meaning of a network of these libraries.

    Attributes:
        kind: key of LIBRARIES.
        architecture: key of its rows.
        shape: the arguments of the library's constructor, as JSON.
        bgr: True if the network takes B, G, R; the wrapper turns the channels.
        labels, mean, std, taxonomy, min_pixels, max_pixels, resize: see NetworkConfig.
    """

    kind: str
    architecture: str
    shape: str = field(repr=False)
    labels: tuple[str, ...]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    bgr: bool = False
    taxonomy: Taxonomy | None = field(default=None, repr=False)
    min_pixels: int | None = None
    max_pixels: int | None = None
    resize: tuple[str, int, int] | None = None
    processor: str = PROCESSOR

    @property
    def row(self) -> Row:
        return LIBRARIES[self.kind].rows[self.architecture]

    @property
    def stride(self) -> int:
        return self.row.stride

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    @property
    def is_binary(self) -> bool:
        """True if the network gives one map of logits: the second class against the first."""
        return json.loads(self.shape).get("classes") == 1

    @property
    def summary(self) -> str:
        encoder = f" with {json.loads(self.shape).get('encoder_name')}" if self.kind == SMP else ""
        return f"{self.row.title}{encoder} by {LIBRARIES[self.kind].package}, {self.num_classes} classes"

    @classmethod
    def read(cls, folder: Path) -> ZooConfig:
        """Read the files of a folder. Raises CheckpointError."""
        raw = read_json(folder / "config.json")
        where = f"{folder}/config.json: "
        check_bounds(where, raw)
        if "_model_class" not in raw:
            architecture, keys = architecture_in(where, "torchvision", raw.get("architecture")), Keys(where, raw)
            finds = LIBRARIES["torchvision"].rows[architecture].gives is BoxedInstances
            flag = _NO_EPS if finds else "aux_loss"
            shape: dict[str, Any] = {flag: keys.flag(flag, False)}
            shared = read_shared(folder, raw, cls._stride("torchvision", architecture), processor=PROCESSOR)
            return cls("torchvision", architecture, json.dumps(shape), **_without(shared))
        architecture = architecture_in(where, SMP, raw["_model_class"])
        weights = raw.get("encoder_weights")
        shape = smp_shape(where, {k: v for k, v in raw.items() if not k.startswith("_")})
        own = raw.get(_OWN) if isinstance(raw.get(_OWN), dict) else None
        if own is None or not (folder / preprocessor.FILE).exists():
            values = _smp_values(where, shape, weights)
            return cls(SMP, architecture, json.dumps(shape, sort_keys=True), **values)
        shared = read_shared(folder, own, cls._stride(SMP, architecture), processor=PROCESSOR)
        return cls(SMP, architecture, json.dumps(shape, sort_keys=True), **_without(shared))

    @staticmethod
    def _stride(kind: str, architecture: str) -> int:
        return LIBRARIES[kind].rows[architecture].stride

    def contents(self) -> dict[str, Any]:
        """See NetworkConfig.contents."""
        shape = json.loads(self.shape)
        if self.kind == SMP:
            return shape | {"_model_class": self.architecture, "encoder_weights": None, _OWN: shared_contents(self)}
        return {"model_type": self.kind, "architecture": self.architecture} | shape | shared_contents(self)


def kind_of(raw: dict) -> object:
    """Return the key of LIBRARIES that a config.json belongs to; or its model_type."""
    return SMP if "_model_class" in raw and "encoder_name" in raw else raw.get("model_type")


def _without(shared: dict[str, Any]) -> dict[str, Any]:
    not_here = "black_padding", "averaged"
    return {key: value for key, value in shared.items() if key not in not_here} | {"processor": PROCESSOR}


def architecture_in(where: str, kind: str, name: object) -> str:
    rows = LIBRARIES[kind].rows
    if not isinstance(name, str) or name not in rows:
        raise CheckpointError(f"{where}the network is {name!r}; known of {kind} are {', '.join(rows)}")
    return name


def smp_shape(where: str, raw: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of segmentation_models.pytorch's constructor, without leave to download an encoder's weights
    and without an activation, which leaves the best class as it is."""
    Keys(where, raw).refuse({"in_channels": 3}, ())
    encoder = raw.get("encoder_name", "resnet34")
    # timm takes names such as hf-hub:…, which it would fetch.
    if not isinstance(encoder, str) or not re.fullmatch(r"[\w.-]{1,100}", encoder):
        raise CheckpointError(f"{where}encoder_name is {encoder!r}; it must be the name of an encoder")
    if raw.get("activation") not in (None, "identity", "sigmoid", "softmax", "softmax2d", "logsoftmax", "tanh"):
        raise CheckpointError(f"{where}activation is {raw['activation']!r}; take a network that gives logits")
    classes = Keys(where, raw).whole("classes", 1, most=65535)
    return raw | {"encoder_name": encoder, "encoder_weights": None, "activation": None, "classes": classes}


def _smp_values(where: str, shape: dict[str, Any], weights: object) -> dict[str, Any]:
    """Return labels and preprocessing of a network whose files do not have them.

    weights: name of the encoder's weights that its training began with, or None.
    """
    count = max(2, shape["classes"])
    say_once(
        f"{where}names no classes: they are called LABEL_0 to LABEL_{count - 1}"
        + (" (LABEL_0 is the background)" if shape["classes"] == 1 else "")
        + "; the node's taxonomy names them"
    )
    return {"labels": tuple(f"LABEL_{i}" for i in range(count))} | smp_normalisation(
        where, shape["encoder_name"], weights if isinstance(weights, str) else "imagenet"
    )


def smp_normalisation(where: str, encoder: str, weights: str = "imagenet") -> dict[str, Any]:
    """Return mean, std and bgr of a ZooConfig for an encoder with these weights; {} for ImageNet's, which are said."""
    found = _encoder_params(encoder, weights)
    if found is None:
        say_once(f"{where}ImageNet's mean and std are taken for {encoder}, as nearly all encoders have them")
        return {}
    top = (found.get("input_range") or (0, 1))[1]
    scale = 255 / top
    mean, std = (tuple(float(x) * scale for x in found[key]) for key in ("mean", "std"))
    bgr = found.get("input_space", "RGB") == "BGR"
    if bgr:  # the library turns the channels before it subtracts the mean
        mean, std = mean[::-1], std[::-1]
    return {"mean": mean, "std": std, "bgr": bgr}


def _encoder_params(encoder: str, weights: str) -> dict[str, Any] | None:
    """Return the library's preprocessing for an encoder; None if neither it nor the hub's cache has it."""
    smp = _imported(SMP, "its name")
    with contextlib.suppress(Exception):  # an encoder without published weights
        if encoder.startswith("tu-"):
            import timm

            name = encoder.removeprefix("tu-")
            found = timm.models.get_pretrained_cfg(name) if timm.models.is_model_pretrained(name) else None
            return None if found is None else {"mean": found.mean, "std": found.std}
        settings = smp.encoders.encoders[encoder]["pretrained_settings"]
        own = settings.get(weights) or settings["imagenet"]
        if "mean" in own:
            return own
        from huggingface_hub import try_to_load_from_cache

        file = try_to_load_from_cache(own["repo_id"], "config.json", revision=own["revision"])
        return json.loads(Path(file).read_text()) if isinstance(file, str) else None
    return None


class Name(NamedTuple):
    """A name such as "smp:Unet/resnet34:FILE", apart.

    Attributes:
        text: the whole name.
        kind: key of LIBRARIES.
        architecture: key of its rows.
        encoder: name of the encoder; "" for torchvision.
        weights: path of a file or folder of weights, or "weights=NAME".
    """

    text: str
    kind: str
    architecture: str
    encoder: str
    weights: str


def parsed(text: str) -> Name | None:
    """Take a name apart; None for a name of another form. Raises CheckpointError for an incomplete or unknown one."""
    kind, colon, rest = text.partition(":")
    if not colon or kind not in LIBRARIES:
        return None
    network, _, weights = rest.partition(":")
    name, _, encoder = network.partition("/")
    architecture = architecture_in(f"model {text!r}: ", kind, name)
    if kind == SMP and not encoder:
        raise CheckpointError(f"model {text!r}: the encoder is missing: {kind}:{architecture}/ENCODER:FILE")
    if kind != SMP and encoder:
        raise CheckpointError(f"model {text!r}: {architecture} has one encoder; leave out '/{encoder}'")
    if not weights:
        more = ", or :weights=DEFAULT for torchvision's own, downloaded" if kind != SMP else ""
        raise CheckpointError(
            f"model {text!r} names no weights: {text.rstrip(':')}:FILE, a file or folder of them{more}"
        )
    return Name(text, kind, architecture, encoder, weights)


def weights_of(name: Name) -> Path:
    """Return the file or folder of a name's weights. weights=NAME downloads torchvision's own, unless torch's cache has
    them. Raises CheckpointError if there are none."""
    wanted = name.weights.partition("weights=")[2]
    if not wanted or os.path.exists(os.path.expanduser(name.weights)):
        path = Path(os.path.expanduser(name.weights))
        if (path / "config.json").is_file():
            raise CheckpointError(f"model {name.text!r}: the folder has a config.json: name it alone, {path}")
        if not path.exists():
            raise CheckpointError(f"model {name.text!r}: there is no file or folder {path}")
        return path
    if name.kind == SMP:
        raise CheckpointError(f"model {name.text!r}: {SMP} has no weights of whole networks by name; name a file")
    known = _published(name)
    if wanted not in known and wanted != "DEFAULT":
        raise CheckpointError(f"model {name.text!r}: known weights are {', '.join((*known, 'DEFAULT'))}")
    url = (known[wanted] if wanted in known else [*known.values()][-1]).url
    path = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(url)
    if not path.is_file():
        digits = re.search(r"-([0-9a-f]{8,})\.", path.name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), digits[1] if digits else None, progress=False)
        except Exception as error:  # of the network, the disk or the hash
            raise CheckpointError(f"model {name.text!r}: {url} could not be had ({words_of(error, 200)})") from None
    return path


def _published(name: Name) -> dict[str, Any]:
    """Return torchvision's own weights of a network, by name."""
    torchvision = _imported("torchvision", f"model {name.text!r}")
    return dict(torchvision.models.get_model_weights(name.architecture).__members__)


def config_of(name: Name, path: Path, state: dict[str, Tensor]) -> ZooConfig:
    """Return the config of a network from its name and the tensors of its file. Raises CheckpointError."""
    where, library = f"model {name.text!r}: ", LIBRARIES[name.kind]
    found = [value for last in library.last for key, value in state.items() if _ends(key, last)]
    if not found or not found[0].dim():
        raise CheckpointError(f"{where}{path} has no {library.last[-1]}: it is no {name.architecture} of {name.kind}")
    count = len(found[0])
    if name.kind == SMP:
        raw = {"encoder_name": name.encoder, "classes": count}
        shape = smp_shape(where, raw)
        return ZooConfig(SMP, name.architecture, json.dumps(shape, sort_keys=True), **_smp_values(where, shape, None))
    weights = _published(name)
    own = next((one for one in weights.values() if os.path.basename(one.url) == path.name), None)
    if library.rows[name.architecture].gives is BoxedInstances:
        return _finder_of(name, own, count)
    shape = {"aux_loss": any("aux_classifier." in key for key in state)}
    preset = (own or [*weights.values()][-1]).transforms()
    mean, std = (tuple(255 * x for x in values) for values in (preset.mean, preset.std))
    labels = tuple(own.meta["categories"]) if own else ()
    if len(labels) != count:
        labels = tuple(f"LABEL_{i}" for i in range(count))
        say_once(
            f"{where}names no classes: they are called LABEL_0 to LABEL_{count - 1}; the node's taxonomy names them"
        )
    resize = ("shortest", preset.resize_size[0], _LONGEST_SIDE) if own and preset.resize_size else None
    return ZooConfig("torchvision", name.architecture, json.dumps(shape), labels, mean, std, resize=resize)


def _finder_of(name: Name, own: Any, count: int) -> ZooConfig:
    """Return the config of a network that finds instances, with the preprocessing of torchvision's constructor.

    own: torchvision's weights, if it is their file. count: number of classes with the background.
    """
    labels = tuple(own.meta["categories"][1:]) if own else ()
    if len(labels) != count - 1:
        labels = tuple(f"LABEL_{i}" for i in range(1, count))
        say_once(
            f"model {name.text!r}: names no classes: they are called LABEL_1 to LABEL_{count - 1}; the node's taxonomy "
            "names them"
        )
    first = own is not None and name.architecture == "maskrcnn_resnet50_fpn"
    return ZooConfig(name.kind, name.architecture, json.dumps({_NO_EPS: first}), labels, resize=("shortest", 800, 1333))


def _ends(key: str, last: str) -> bool:
    """Return True for a key in any wrapper, but not of the auxiliary classifier."""
    return key == last or key.endswith(f".{last}")


class Zoo(Network):
    """A network of these libraries: normalised pixels in, logits out."""

    gives: type[PixelLogits] | type[BoxedInstances] = PixelLogits
    config: ZooConfig
    network: Any

    def __init__(self, config: ZooConfig):
        super().__init__()
        self.config, self.network = config, _built(config)

    def forward(self, pixels: Tensor, plan: None = None) -> tuple:
        """See Network.forward. torchvision's last upsampling is left to the head, which does the same."""
        self.check_size(*pixels.shape[-2:])
        if self.config.bgr:
            pixels = pixels.flip(1)
        if self.config.kind == SMP:
            found = self.network(pixels)
            logits = found[0] if isinstance(found, tuple) else found  # beside it classes of whole images
        else:
            features = self.network.backbone(pixels)
            logits = self.network.classifier(features.get("out", features))
        if self.config.is_binary:
            logits = torch.cat([torch.zeros_like(logits), logits], 1)
        return PixelLogits(logits)

    def encoder(self) -> nn.Module:
        """See Network.encoder."""
        return self.network.encoder if self.config.kind == SMP else self.network.backbone

    def class_layer(self) -> nn.Module:
        """See Network.class_layer. LR-ASPP adds up two such layers."""
        if self.config.kind == SMP:
            return self.network.segmentation_head[0]
        head = self.network.classifier
        return nn.ModuleList([head.low_classifier, head.high_classifier]) if hasattr(head, "cbr") else head[-1]


class MaskRcnn(Zoo):
    """torchvision's Mask R-CNN: normalised pixels in, instances out, as many as its `detections_per_img`.

    All after the backbone is computed in float32, in any precision: half precisions round boxes to whole pixels. The
    numbers of proposals and of instances depend on the pixels.
    """

    gives = BoxedInstances
    captures = False

    def _apply(self, fn: Callable, recurse: bool = True) -> MaskRcnn:
        super()._apply(fn, recurse)
        self.network.rpn.float()
        self.network.roi_heads.float()
        return self

    def forward(self, pixels: Tensor, plan: None = None) -> tuple:
        """See Network.forward. torchvision's masks are pasted into the frame by the head, as torchvision does."""
        self.check_size(*pixels.shape[-2:])
        network, sizes = self.network, [tuple(pixels.shape[-2:])] * len(pixels)
        images = _imported("torchvision", "a Mask R-CNN").models.detection.image_list.ImageList(pixels, sizes)
        features = {name: one.float() for name, one in network.backbone(pixels).items()}
        proposals, _ = network.rpn(images, features)
        found, _ = network.roi_heads(features, proposals, sizes)
        most, each = network.roi_heads.detections_per_img, []
        for one in found:
            number = len(one["scores"])
            scores = one["scores"].new_zeros(most, self.config.num_classes)
            scores[torch.arange(number, device=scores.device), one["labels"] - 1] = one["scores"]
            masks, boxes = one["masks"][:, 0], one["boxes"]
            absent = (0, 0) * (masks.dim() - 1) + (0, most - number)
            each.append((scores, F.pad(masks, absent), F.pad(boxes, (0, 0, 0, most - number))))
        return BoxedInstances(*map(torch.stack, zip(*each, strict=True)))


def build(config: ZooConfig) -> Zoo:
    """Build a network with random weights."""
    return (MaskRcnn if config.row.gives is BoxedInstances else Zoo)(config)


def _built(config: ZooConfig) -> Any:
    shape, where = json.loads(config.shape), f"a {config.row.title}"
    library = _imported(config.kind, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about encoders that have other names now
            if config.kind == SMP:
                return getattr(library, config.architecture)(**shape)
            without: dict[str, Any] = {"weights": None, "weights_backbone": None}
            if config.row.gives is BoxedInstances:
                finder = getattr(library.models.detection, config.architecture)
                network = finder(**without, num_classes=config.num_classes + 1)
                for norm in network.modules() if shape[_NO_EPS] else ():
                    if isinstance(norm, torch.nn.BatchNorm2d):
                        norm.eps = 0.0
                return network
            make: Callable[..., Any] = getattr(library.models.segmentation, config.architecture)
            more = shape if "lraspp" not in config.architecture else {}
            return make(**without, num_classes=config.num_classes, **more)
    except Exception as error:  # these libraries' errors have no common type
        package = LIBRARIES[config.kind].package
        raise CheckpointError(
            f"{where}: {package} cannot build the network ({type(error).__name__}: {words_of(error, 200)})"
        ) from None


def unwrapped(state: dict[str, Tensor], network: Network) -> dict[str, Tensor]:
    """Return tensors without the prefix that a trainer put before all keys, such as Lightning's "model."; those of an
    older Mask R-CNN by the keys of its modules."""
    if isinstance(network, MaskRcnn):
        for pattern, made in _OLDER:
            state = {re.sub(pattern, made, key): value for key, value in state.items()}
    own = {key.removeprefix("network.") for key in network.state_dict()}
    first = next(iter(own))
    prefixes = {key.removesuffix(first) for key in state if key == first or key.endswith(f".{first}")} - {""}
    best = max(("", *sorted(prefixes)), key=lambda prefix: sum(f"{prefix}{key}" in state for key in own))
    return {key.removeprefix(best): value for key, value in state.items() if key.startswith(best)}


def _imported(kind: str, where: str) -> Any:
    package = LIBRARIES[kind].package
    try:
        return __import__(package)
    except Exception as error:  # torchvision beside another torch raises a RuntimeError
        raise CheckpointError(
            f"{where} needs {package} ({words_of(error, 100)}): {to_install(package)}; torchvision needs the "
            "torch that it was built for"
        ) from None
