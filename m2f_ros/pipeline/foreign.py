"""Networks that others made: a file in ONNX, OpenVINO IR or torch.export, and a short m2f.yaml by hand beside it.

`manifest` completes the m2f.yaml to the Manifest of an export, so far as the file is not needed; `fitted` adds the
inputs and outputs of the file, or says where they differ from what m2f.yaml says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from m2f_ros import taxonomy as taxonomies
from m2f_ros.errors import CheckpointError, DocumentError, some
from m2f_ros.pipeline.manifest import Colours, Manifest, Port, Scales, Size
from m2f_ros.taxonomy import Taxonomy
from m2f_ros.typed import From1

# End of a file's name -> format.
FORMATS = {".onnx": "onnx", ".xml": "openvino", ".pt2": "pt2"}
_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]
_REALS = ("float32", "float16", "float64", "bfloat16")
_WHOLE = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "uint64")


class ByHand(msgspec.Struct, kw_only=True):
    """The contents of m2f.yaml beside a network that others made.

    Attributes:
        gives: "pixel_logits" (N, classes, h, w); "label_map" (N, h, w) or (N, 1, h, w) of whole numbers, for a network
            that ends in argmax; or "mask_classification" (N, queries, classes + 1) and (N, queries, h, w).
        range: largest value of a pixel before the normalisation, 1 or 255.
        mean, std: of the network's channels, in their order, of pixels of this range.
        channels: order of the network's channels.
        axes: order of the axes of its images, and of pixel logits: "nchw" or "nhwc".
        classes: names of the classes in the network's order; or
        taxonomy: name of a built-in taxonomy, a YAML file beside this one, or the contents of such a file.
        colours: RGB of each of `classes`.
        file: name of the network's file; may be left out where the folder has one alone, or the model's name has it.
        size: (height, width) of the network's input; may be left out where the file has it, or takes all multiples of
            `stride`.
        stride: number whose multiples the network takes, 32 by default; of no use with a size.
        outputs: names of the outputs to take, where the file has more.
    """

    gives: Literal["pixel_logits", "label_map", "mask_classification"]
    range: Literal[1, 255]
    mean: Colours
    std: Scales
    channels: Literal["rgb", "bgr"] = "rgb"
    axes: Literal["nchw", "nhwc"] = "nchw"
    classes: Annotated[list[str], msgspec.Meta(min_length=1, max_length=65535)] | None = None
    taxonomy: str | dict[str, Any] | None = None
    colours: list[tuple[_Byte, _Byte, _Byte]] | None = None
    file: str | None = None
    size: Size | None = None
    stride: From1 | None = None
    outputs: list[str] | None = None


class Found(NamedTuple):
    """An input or output of a file.

    Attributes:
        dtype: NumPy's name of the type.
        shape: dimensions, None for one that is open; None if even their number is.
    """

    dtype: str
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        shape = "" if self.shape is None else f" ({', '.join('?' if n is None else str(n) for n in self.shape)})"
        return f"{self.dtype}{shape}"


def manifest(folder: Path, by_hand: ByHand, file: str, kind: str) -> Manifest:
    """Return the Manifest without inputs and outputs.

    Args:
        file: name of the network's file in the folder; "" for that of m2f.yaml, or the only one.
        kind: its format; "" for that of its name.
    Raises:
        DocumentError, TaxonomyError: values do not go together, or the file is missing.
    """
    if file and by_hand.file not in (None, file):
        raise DocumentError(f"file: it is about {by_hand.file!r}, not {file!r}; name that one, or leave out the key")
    file = file or by_hand.file or _only_file(folder)
    of_name = FORMATS.get(Path(file).suffix, "")
    kind = kind or of_name
    if kind not in FORMATS.values() or of_name not in ("", kind):
        raise DocumentError(f"file: {file!r} is no {kind or 'known'} file; known are {', '.join(FORMATS)}")
    taxonomy = _taxonomy(folder, by_hand)
    mean, std = by_hand.mean, by_hand.std
    if by_hand.range == 1 and max(mean) > 1:
        raise DocumentError(f"range: it is 1, but a mean is {max(mean):g}, which is of pixels of 0 to 255: take 255")
    if by_hand.range == 255 and 0 < max(mean) <= 1:
        raise DocumentError(f"range: it is 255, but the means are {max(mean):g} at most, of pixels of 0 to 1: take 1")
    if not 0 <= min(mean) <= max(mean) <= 255:
        raise DocumentError(f"mean: {min(mean):g} to {max(mean):g}, and pixels are 0 to {by_hand.range}")
    scale = 255 / by_hand.range
    mean, std = (tuple(x * scale for x in values) for values in (mean, std))
    if by_hand.channels == "bgr":
        mean, std = mean[::-1], std[::-1]
    return Manifest(
        layout=1,
        made_by="",
        model=file,
        network=file,
        format=kind,  # type: ignore[arg-type]
        file=file,
        sha256={},
        gives=by_hand.gives,
        precision="fp32",
        size=by_hand.size,
        stride=by_hand.stride or (1 if by_hand.size else 32),
        mean=mean,
        std=std,
        channels=by_hand.channels,
        axes=by_hand.axes,
        inputs={},
        outputs={},
        taxonomy=taxonomy.to_dict(),
        unlabelled=taxonomy.unlabelled,
    )


def _only_file(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir() if path.suffix in FORMATS)
    if len(names) == 1:
        return names[0]
    there = f"the folder has {some(names, most=4)}" if names else f"the folder has no {', '.join(FORMATS)}"
    raise DocumentError(f"file: the key is missing, and {there}: name the network's file")


def _taxonomy(folder: Path, by_hand: ByHand) -> Taxonomy:
    if (by_hand.classes is None) == (by_hand.taxonomy is None):
        fault = "missing, and one is needed" if by_hand.classes is None else "both there, and one is enough"
        raise DocumentError(f"classes, taxonomy: they are {fault}")
    if by_hand.colours is not None and (by_hand.classes is None or len(by_hand.colours) != len(by_hand.classes)):
        count = len(by_hand.classes or ())
        raise DocumentError(f"colours: expected one for each of {count} classes, found {len(by_hand.colours)}")
    if by_hand.classes is not None:
        found = taxonomies.of_labels(str(folder), by_hand.classes)
        if by_hand.colours is None:
            return found
        classes = [replace(one, colour=colour) for one, colour in zip(found.classes, by_hand.colours, strict=True)]
        return replace(found, classes=tuple(classes))
    if isinstance(by_hand.taxonomy, dict):
        return Taxonomy.from_dict(by_hand.taxonomy, "taxonomy")
    name = str(by_hand.taxonomy)
    return taxonomies.get(folder / name if name.endswith((".yaml", ".yml")) else name)


def fitted(
    path: Path,
    manifest: Manifest,
    inputs: Mapping[str, Found],
    outputs: Mapping[str, Found],
    wanted: list[str] | None,
) -> Manifest:
    """Return the Manifest with the inputs and outputs of the file.

    Args:
        path: the file, for messages.
        inputs, outputs: of the file, by name, in its order.
        wanted: names of the outputs to take; None for all.
    Raises:
        CheckpointError: they differ from what m2f.yaml says.
    """

    def refuse(fault: str) -> CheckpointError:
        return CheckpointError(f"{path}: {fault}")

    if len(inputs) != 1:
        raise refuse(f"it has {len(inputs)} inputs ({some([*inputs], most=4)}), and takes images alone: export it anew")
    ((name, image),) = inputs.items()
    size = _image_size(image, f"its input {name}", manifest, refuse)
    names = wanted if wanted is not None else [*outputs]
    if absent := [one for one in names if one not in outputs]:
        raise refuse(f"it has no output {absent[0]!r}, which m2f.yaml names; there are {some([*outputs], most=8)}")
    count = 2 if manifest.gives == "mask_classification" else 1
    if len(names) != count:
        raise refuse(
            f"it has {len(names)} outputs ({some(names, most=8)}), and {manifest.gives} are {count}: name the right "
            "ones in m2f.yaml, outputs: [NAME]"
        )
    chosen = {one: outputs[one] for one in names}
    chosen = _in_order(chosen, manifest, refuse)
    fixed = {} if size is None else {"size": size, "stride": 1}
    batch = None if image.shape is None or image.shape[0] is None else 1
    return msgspec.structs.replace(
        manifest,
        batch=batch,
        inputs={name: _port(image)},
        outputs={one: _port(found) for one, found in chosen.items()},
        **fixed,
    )


def _port(found: Found) -> Port:
    return Port(found.dtype, ["?" if n is None else n for n in found.shape or ()])


def _image_size(image: Found, its: str, manifest: Manifest, refuse: Any) -> tuple[int, int] | None:
    """Return (height, width) of a network of one size, or None."""
    if image.dtype not in ("float32", "float16"):
        raise refuse(f"{its} is {image.dtype}; float32 and float16 are supported: put the cast into the network")
    shape = image.shape
    if shape is None:
        return manifest.size
    if len(shape) != 4:
        raise refuse(f"{its} is {image}; four axes are supported, batch, colours, height and width in one order")
    places = {"nchw": 1, "nhwc": 3}
    if shape[places[manifest.axes]] not in (3, None):
        other = next((axes for axes, place in places.items() if shape[place] == 3), None)
        if other:
            raise refuse(f"{its} is {image}, which is {other}, and m2f.yaml says {manifest.axes}: write axes: {other}")
        raise refuse(f"{its} is {image}, of {shape[places[manifest.axes]]} channels; images have 3, R, G and B")
    if shape[0] not in (1, None):
        raise refuse(f"{its} is {image}, of {shape[0]} images at a time; export it for 1, or an open number")
    height, width = shape[2:] if manifest.axes == "nchw" else shape[1:3]
    if manifest.size is None and (height is None) != (width is None):
        raise refuse(f"{its} is {image}: one side is open; give size: [HEIGHT, WIDTH] in m2f.yaml")
    if height is None and width is None:
        return manifest.size
    own = height, width
    size = manifest.size or own
    if any(n not in (None, side) for n, side in zip(own, size, strict=True)):
        raise refuse(f"{its} is {image}, and m2f.yaml says size: [{size[0]}, {size[1]}]; correct it, or leave it out")
    return size  # type: ignore[return-value]


def _in_order(chosen: Mapping[str, Found], manifest: Manifest, refuse: Any) -> dict[str, Found]:
    """Return the outputs in the order of the result's fields, after the comparison with what m2f.yaml says."""
    classes = len(manifest.taxonomy["classes"])
    if manifest.gives == "mask_classification":
        if any(found.dtype not in _REALS for found in chosen.values()):
            raise refuse(f"its outputs are {_list(chosen)}, and mask_classification is of float numbers")
        ranks = [0 if found.shape is None else len(found.shape) for found in chosen.values()]
        if sorted(ranks) not in ([3, 4], [0, 0]):
            raise refuse(
                f"its outputs are {_list(chosen)}, and mask_classification is (N, queries, classes + 1) and "
                "(N, queries, h, w)"
            )
        ordered = dict(sorted(chosen.items(), key=lambda one: len(one[1].shape or ())))
        logits = next(iter(ordered.values()))
        if logits.shape and logits.shape[2] not in (classes + 1, None):
            raise refuse(
                f"its output {next(iter(ordered))} has {logits.shape[2]} columns, and m2f.yaml has {classes} classes: "
                f"{classes + 1} with that of no object"
            )
        return ordered
    ((name, found),) = chosen.items()
    rank = None if found.shape is None else len(found.shape)
    if manifest.gives == "label_map":
        if found.dtype not in _WHOLE:
            more = ": that may be gives: pixel_logits" if rank == 4 else ""
            raise refuse(f"its output {name} is {found}, and a label_map is of whole numbers{more}")
        single = found.shape is not None and rank == 4 and 1 in (found.shape[1], found.shape[3])
        if rank not in (3, None) and not single:
            raise refuse(f"its output {name} is {found}, and a label_map is (N, h, w) or (N, 1, h, w)")
        return dict(chosen)
    if found.dtype not in _REALS:
        more = ": that may be gives: label_map" if found.dtype in _WHOLE else ""
        raise refuse(f"its output {name} is {found}, and pixel_logits are float numbers{more}")
    if rank not in (4, None):
        raise refuse(f"its output {name} is {found}, and pixel_logits have four axes")
    if found.shape is not None:
        channels = found.shape[1 if manifest.axes == "nchw" else 3]
        if channels not in (classes, None):
            raise refuse(f"its output {name} is {found}, of {channels} classes, and m2f.yaml has {classes}: correct it")
    return dict(chosen)


def _list(outputs: Mapping[str, Found]) -> str:
    return ", ".join(f"{name} {found}" for name, found in outputs.items())
