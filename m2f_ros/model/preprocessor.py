"""preprocessor_config.json: resizing and normalisation of images, as in transformers."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from m2f_ros.errors import CheckpointError, say_once
from m2f_ros.model.layout import read_json
from m2f_ros.model.network import NetworkConfig

FILE = "preprocessor_config.json"
VIDEO = "video_preprocessor_config.json"  # of a video processor, whose keys are the same; it has precedence over FILE
# transformers 5 may write its contents here, under image_processor; this file has precedence.
NESTED = "processor_config.json"
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
_PROCESSOR = re.compile(r"(\w+?)(ImageProcessor(?:Fast|Pil)?|FeatureExtractor|VideoProcessor)")
_BILINEAR = 2  # PIL's constant
_MOST_SIDE = 8192  # longest side of a resized image, pixels
# Size in every published checkpoint, regardless of its training size. It would squash images to a small square.
_PUBLISHED = (384, 384)


class Style(NamedTuple):
    """Defaults of one of transformers' image processors.

    Attributes:
        square: True if a number as size is the height and the width; else it is the shorter side.
        normalised, cropped, bgr: default of do_normalize, do_center_crop, do_flip_channel_order.
        averaged: False if images are resized after do_rescale, by interpolation without averaging.
    """

    square: bool = False
    normalised: bool = True
    cropped: bool = False
    bgr: bool = False
    averaged: bool = True


_OWN = ("Mask2Former", "MaskFormer")
# Name of the processor before "ImageProcessor" -> style.
STYLES = {
    **dict.fromkeys((*_OWN, "OneFormer", "Eomt", "Detr", "Videomt"), Style()),
    **dict.fromkeys(("Segformer", "Beit", "DPT"), Style(square=True)),
    "MobileNetV2": Style(cropped=True),
    "MobileViT": Style(normalised=False, cropped=True, bgr=True),
    "RfDetr": Style(averaged=False),
}


class Preprocessing(NamedTuple):
    """The preprocessing of images; for mean, std and resize see NetworkConfig.

    Attributes:
        processor: type of the image processor that it was read for.
        bgr: True if the channels are turned to B, G, R.
        black_padding: True if padding is black before the normalisation.
        averaged: True if images are averaged where they shrink.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: tuple[str, int, int] | None
    processor: str = ""
    bgr: bool = False
    black_padding: bool = False
    averaged: bool = True


def read(
    folder: Path,
    resized: bool,
    stride: int,
    processors: Collection[str] = (),
    processor: str = "",
    side: int | None = None,
) -> Preprocessing:
    """Read the file, if it exists.

    Args:
        folder: folder of the checkpoint.
        resized: default of do_resize.
        stride: stride of the network.
        processors: further types of image processors, whose files have the same keys with the same meaning.
        processor: type of image processor where the file names none, for a network that takes any of STYLES; "" for a
            Mask2Former.
        side: the one side of the network's square input; None for any size.
    Raises:
        CheckpointError: transformers or this package does not support a value.
    """
    path = folder / NESTED
    raw = read_json(path).get("image_processor") if path.exists() else None
    if not isinstance(raw, dict):
        path = folder / (VIDEO if processor.endswith("VideoProcessor") and (folder / VIDEO).exists() else FILE)
        if not path.exists():
            if processor:
                raise CheckpointError(f"{folder} has no {FILE}, which says how images are prepared; fetch it, too")
            say_once(f"{folder} has no {FILE}: ImageNet's mean and std are taken, and images keep their size")
            return Preprocessing(IMAGENET_MEAN, IMAGENET_STD, None)
        raw = read_json(path)
    default = processor or "Mask2FormerImageProcessor"
    keys = ("video_processor_type", "image_processor_type", "feature_extractor_type")
    kind = str(next(filter(None, map(raw.get, keys)), default))
    known = tuple(STYLES) if processor else _OWN
    found = _PROCESSOR.fullmatch(kind)
    if kind not in processors and (found is None or found[1] not in known):
        names = [_type_of(name) for name in (known if processor else known[:1])]
        raise CheckpointError(f"{path} is of a {kind!r}; take the file of a {' or '.join([*names, *processors])}")
    style = STYLES.get(found[1] if found else "", Style())
    bgr = _refuse(path, raw, style, stride, bool(processor), side)

    factor = _numbers(path, raw, "rescale_factor", 1 / 255, 1)[0] if _flag(path, raw, "do_rescale", True) else 1.0
    mean: tuple[float, ...] = (0.0,) * 3
    std: tuple[float, ...] = (1.0,) * 3
    if _flag(path, raw, "do_normalize", style.normalised):
        mean = _numbers(path, raw, "image_mean", tuple(v / 255 for v in IMAGENET_MEAN), 3)
        std = _numbers(path, raw, "image_std", tuple(v / 255 for v in IMAGENET_STD), 3)
    if factor <= 0 or min(std) <= 0:
        raise CheckpointError(f"{path}: rescale_factor and image_std must be above 0; correct them")
    if not 1e-6 <= factor <= 1e6:
        raise CheckpointError(f"{path}: rescale_factor is {factor}; it must be 0.000001 to 1000000, 1/255 as a rule")
    scale = 1 / factor
    mean, std = (tuple(value * scale for value in values) for values in (mean, std))
    # Pixels are 0..255; the margin is for rounding.
    if not 0 <= min(mean) <= max(mean) <= 255.001 or not 1e-3 <= min(std) <= max(std) <= 1e6:
        raise CheckpointError(
            f"{path}: image_mean and image_std, of pixels of 0 to 255 times rescale_factor, come to {_shown(mean)} and "
            f"{_shown(std)} of 0 to 255; means must be 0 to 255, and deviations 0.001 to 1000000"
        )
    resize = None
    if _flag(path, raw, "do_resize", resized):
        resize = _read_resize(path, raw, stride if side is None else 1, style, bool(processor))
    if raw.get("pad_size"):
        say_once(f"{path}: pad_size is not followed: images are padded to multiples of {stride}, and no further")
    padded = side is not None and _flag(path, raw, "do_pad", False)
    if side is not None:
        resize = _one_size(path, resize, side, padded)
    plain = _type_of(found[1]) if found else kind
    return Preprocessing(mean, std, resize, plain if processor else "", bgr, padded, style.averaged)


def _type_of(name: str) -> str:
    """Return the plain type of a processor by its name in STYLES."""
    return f"{name}VideoProcessor" if name == "Videomt" else f"{name}ImageProcessor"


def _refuse(path: Path, raw: dict, style: Style, stride: int, adapted: bool, side: int | None) -> bool:
    """Raise CheckpointError for steps that the pipeline does not have. Return do_flip_channel_order."""
    crop = "do_center_crop"
    if _flag(path, raw, crop, style.cropped):
        raise CheckpointError(
            f"{path}: {crop} asks for the centre of each image alone, but all of an image is segmented; set it to false"
        )
    if raw.get("do_split_image"):
        raise CheckpointError(
            f"{path}: do_split_image asks for windows of each image, which are not supported; set it to false and size "
            f"to height and width {side or stride}, and whole images are stretched to that"
        )
    bgr = _flag(path, raw, "do_flip_channel_order", style.bgr)
    if bgr and not adapted:
        raise CheckpointError(f"{path}: do_flip_channel_order asks for B, G, R, which the network does not take")
    if adapted and side is None and raw.get("do_pad") and raw.get("size_divisor"):
        say_once(f"{path}: size_divisor is not followed: images are stretched or padded to multiples of {stride}")
    return bgr


def _one_size(path: Path, resize: tuple[str, int, int] | None, side: int, padded: bool) -> tuple[str, int, int]:
    """Return the rule for a network with one size of input: ("only", side, side), or ("within", side, side), padded."""
    if resize is not None and resize[1:] == (side, side) and (padded or resize[0] == "fixed"):
        return "within" if padded else "only", side, side
    raise CheckpointError(
        f"{path}: its size and do_pad do not give the {side}x{side} that the network takes alone; set do_resize to "
        f"true, and size to height and width {side}, or to both edges {side} with do_pad"
    )


def contents(config: NetworkConfig) -> dict:
    """Return the contents of the file for a network.

    transformers has no key for a number of pixels: the edges give that number for images of 4:3 and of 16:9.
    """
    resize, pixels = config.resize, config.max_pixels or config.min_pixels
    if resize is None and pixels:
        short, long = (multiple(math.sqrt(pixels * aspect), config.stride) for aspect in (3 / 4, 16 / 9))
        resize = ("shortest", short, long)
    processor = getattr(config, "processor", "")
    content: dict[str, Any] = {
        f"{'video' if processor.endswith('VideoProcessor') else 'image'}_processor_type": processor
        or "Mask2FormerImageProcessor",
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [value / 255 for value in config.mean],
        "image_std": [value / 255 for value in config.std],
        "do_resize": resize is not None,
    }
    if resize is not None:
        mode, first, second = resize
        keys = ("height", "width") if mode in ("fixed", "only") else ("shortest_edge", "longest_edge")
        content |= {"size": dict(zip(keys, (first, second), strict=True)), "resample": _BILINEAR}
        content |= {"do_pad": True} if mode == "within" else {}
    if processor:
        turned = getattr(config, "bgr", False)
        return content | {"do_center_crop": False, "do_flip_channel_order": turned, "do_reduce_labels": False}
    return content | {"size_divisor": config.stride, "ignore_index": 255, "do_reduce_labels": False}


def _read_resize(path: Path, raw: dict, stride: int, style: Style, adapted: bool) -> tuple[str, int, int] | None:
    size = raw.get("size")
    if style.square and isinstance(size, int) and not isinstance(size, bool):
        size = {"height": size, "width": size}
    longest = raw.get("max_size") or raw.get("_max_size") or 1333  # old files, with a number as size
    if size is None:
        size = {"shortest_edge": 800, "longest_edge": longest}
    elif isinstance(size, int) and not isinstance(size, bool):
        size = {"shortest_edge": size, "longest_edge": longest}
    elif isinstance(size, list) and len(size) == 2:
        size = dict(zip(("height", "width"), size, strict=True))
    values = {key: value for key, value in size.items() if value is not None} if isinstance(size, dict) else {}
    whole = all(
        isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST_SIDE for value in values.values()
    )
    if raw.get("resample", _BILINEAR) != _BILINEAR:
        say_once(f"{path}: resample {raw['resample']!r} is not followed: images are resized bilinearly")
    if whole and {"shortest_edge", "longest_edge"} <= values.keys():
        return "shortest", values["shortest_edge"], values["longest_edge"]
    if whole and "max_height" in values and values["max_height"] == values.get("max_width"):
        return "shortest", values["max_height"], values["max_height"]  # sets the longer side
    if whole and adapted and values.keys() == {"shortest_edge"}:
        return "shortest", values["shortest_edge"], _MOST_SIDE
    if whole and {"height", "width"} <= values.keys():
        if _flag(path, raw, "keep_aspect_ratio", False):
            say_once(f"{path}: keep_aspect_ratio: the shorter side becomes that of size; sides are rounded up")
            return "shortest", min(values["height"], values["width"]), _MOST_SIDE
        return _fixed(path, values["height"], values["width"], stride, adapted)
    raise CheckpointError(
        f"{path}: size is {raw.get('size')!r}; it must have shortest_edge and longest_edge, height and width, or "
        f"max_height and max_width of one value, whole numbers from 1 to {_MOST_SIDE}"
    )


def _fixed(path: Path, height: int, width: int, stride: int, adapted: bool) -> tuple[str, int, int] | None:
    if (height, width) == _PUBLISHED and not adapted:
        say_once(
            f"{path}: size {height}x{width} is not followed: published checkpoints have it whatever they were trained "
            "with; images keep their size and aspect (resize: fixed would squash them)"
        )
        return None
    height, width = (math.ceil(side / stride) * stride for side in (height, width))
    say_once(
        f"{path}: images are stretched to {height}x{width} (height x width) as it says, whatever their aspect; "
        "max_pixels keeps the aspect"
    )
    return "fixed", height, width


def _flag(path: Path, raw: dict, key: str, default: bool) -> bool:
    """Return a boolean; null is false, as in transformers."""
    value = raw.get(key, default)
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(f"{path}: {key} is {value!r}; it must be true or false")
    return bool(value)


def _numbers(path: Path, raw: dict, key: str, default: float | tuple[float, ...], count: int) -> tuple[float, ...]:
    """Return `count` numbers, given by one number for all channels or one for each."""
    value = raw.get(key, default)
    numbers = tuple(value) if isinstance(value, (list, tuple)) and count > 1 else (value,) * count
    if len(numbers) != count or not all(_is_number(v) for v in numbers):
        wanted = "a number" if count == 1 else f"{count} numbers, of red, green and blue"
        raise CheckpointError(f"{path}: {key} is {value!r}; it must be {wanted}")
    return tuple(map(float, numbers))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _shown(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def multiple(side: float, stride: int) -> int:
    """Return the multiple of `stride` nearest to a length, at least `stride`."""
    return max(stride, round(side / stride) * stride)
