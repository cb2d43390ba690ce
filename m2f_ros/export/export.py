"""Exports a model into a folder."""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
import yaml

import m2f_ros
from m2f_ros.errors import ConfigError, OutputError
from m2f_ros.export import formats, plugin, verify
from m2f_ros.export.modules import Planned, Whole
from m2f_ros.export.settings import BOUNDS, Settings
from m2f_ros.files import whole
from m2f_ros.frame.frame import Frame
from m2f_ros.model import Instances, Mask2Former, MaskClassification, Network, PixelLogits, SwinConfig, load
from m2f_ros.pipeline.backends.exported import BACKENDS
from m2f_ros.pipeline.classes import taxonomy_of
from m2f_ros.pipeline.colour import swap, to_rgb
from m2f_ros.pipeline.device import choose_device
from m2f_ros.pipeline.exported import FILE, LAYOUT, sha256
from m2f_ros.pipeline.manifest import Manifest, Port, Verified
from m2f_ros.pipeline.resize import Placement, Resize
from m2f_ros.results import Results
from m2f_ros.taxonomy import Taxonomy

COMMAND = "m2f export"
RESULTS: dict[type, str] = {
    MaskClassification: "mask_classification",
    PixelLogits: "pixel_logits",
    Instances: "instances",
}
Say = Callable[[str], object]


def export(
    settings: Settings,
    out: Path,
    frames: Sequence[Frame],
    source: str,
    say: Say = lambda line: None,
    name: str | None = None,
) -> Manifest:
    """Write a model in another program's format, compared with PyTorch, and its m2f.yaml into a folder.

    Nothing is written unless the comparison passes.

    Args:
        out: folder; new, empty or of an earlier export.
        frames: two or more, for the comparison. The first says the size of a camera's images.
        source: name of their source.
        say: function that takes a line about each step.
        name: name of the model for m2f.yaml; None for that of the settings.
    Raises:
        ConfigError: a package is absent, the format cannot hold the model, or its labels differ from PyTorch's.
        CheckpointError, OutputError: the model cannot be read, or `out` holds other files.
    """
    formats.check_packages(settings)
    results = Results(out, COMMAND, [settings.model])
    device = choose_device(settings.device) if settings.to == "tensorrt" else torch.device("cpu")
    if settings.to == "tensorrt" and device.type != "cuda":
        raise ConfigError("--to tensorrt: builds engines on the GPU that they are for, and there is none here")
    network = load(settings.model)
    written = load(settings.model, eight_bits=True) if settings.precision == "int8" else network
    taxonomy = taxonomy_of(settings.model, network.config)
    if settings.dynamic and isinstance(network, Mask2Former) and isinstance(network.config.backbone, SwinConfig):
        raise ConfigError(
            "--size dynamic: the windows of a Swin backbone are constants of one size; name one: --size HEIGHTxWIDTH"
        )
    if not network.captures or network.gives not in RESULTS:
        raise ConfigError(f"{settings.model}: the shapes inside this network depend on the pixels: it has no export")
    if network.config.resize and network.config.resize[0] == "within":
        raise ConfigError(
            f"{settings.model}: its images are padded to one size, and exports stretch them: take another"
        )
    if settings.whole and network.gives is Instances:
        raise ConfigError("--whole: labels of instances depend on a threshold, which the node has; leave --whole out")
    if network.memory() is not None:
        raise ConfigError(
            f"{settings.model}: has a memory from frame to frame, which the files have no place for: run the checkpoint"
        )
    if settings.plugin and not isinstance(network, Mask2Former):
        raise ConfigError("--plugin: the network has no deformable attention; leave it out")
    frames = [_as(settings.encoding, frame) for frame in frames]
    placement = _placement(network, settings, frames[0].size)
    if settings.whole:
        _refuse_sizes(frames)
    with tempfile.TemporaryDirectory(prefix="m2f_export_") as scratch:
        folder = Path(scratch) / "export"
        folder.mkdir()
        say(f"exporting {settings.model} to {settings.to}")
        made, ports = _module(written, settings, placement, frames[0].size)
        file, versions = formats.write(made, settings, folder, device)
        manifest = _manifest(network, taxonomy, settings, placement, frames[0].size, ports, file, versions)
        manifest.model = name or settings.model
        if settings.to == "tensorrt":
            from m2f_ros.pipeline.backends.tensorrt import describe_device

            manifest.device = describe_device(device)
        write_manifest(manifest, folder)
        say(f"comparing its labels with PyTorch's on {len(frames)} frames of {source}")
        sizes = _sizes(placement.network, network.config.stride) if settings.dynamic else [placement.network]
        checked = _without_plugin(manifest, folder, Path(scratch) / "checked") if settings.plugin else folder
        bound = BOUNDS[settings.precision]
        rounding = written.quantisation if settings.precision == "int8" else None
        share = verify.compare(checked, written, taxonomy, frames, sizes, device, bound, rounding)
        manifest.verified = Verified(len(frames), source, _runtime(settings), share, bound.share, sizes)
        write_manifest(manifest, folder)
        _move(folder, results)
    return manifest


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write m2f.yaml, with the hashes of the folder's other files."""
    manifest.sha256 = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.name != FILE}
    text = yaml.safe_dump(manifest.contents(), sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    (folder / FILE).write_text(text, encoding="utf-8")


def _move(folder: Path, results: Results) -> None:
    """Copy the finished files into the folder of results, m2f.yaml last."""
    with results:
        results.clear()
        try:
            for path in sorted(folder.iterdir(), key=lambda path: path.name == FILE):
                with whole(results.new(path.name)) as partial:
                    shutil.copyfile(path, partial)
        except OSError as error:
            results.clear()
            reason = error.strerror or error
            raise OutputError(f"{results.folder}: cannot be written ({reason}); name another folder") from None


def _as(encoding: str, frame: Frame) -> Frame:
    """Return a frame in rgb8 or bgr8."""
    data, of = frame.raw
    picture = to_rgb(torch.from_numpy(np.ascontiguousarray(data)), of)
    return Frame(np.ascontiguousarray((swap(picture) if encoding == "bgr8" else picture).numpy()), encoding)


def _placement(network: Network, settings: Settings, frame: tuple[int, int]) -> Placement:
    stride = network.config.stride
    if isinstance(settings.size, tuple):
        return Resize("fixed", height=settings.size[0], width=settings.size[1], stride=stride).place(*frame)
    placement = Resize().for_model(network.config).place(*frame)
    # In a pipeline an export of one size stretches all images to it.
    return placement if settings.whole else Placement(placement.network, placement.network)


def _refuse_sizes(frames: Sequence[Frame]) -> None:
    height, width = frames[0].size
    for frame in frames:
        if frame.size != (height, width):
            raise ConfigError(
                f"--whole: the frames have several sizes, {width}x{height} and {frame.size[1]}x{frame.size[0]}; the "
                "camera's images must have one"
            )


def _sizes(size: tuple[int, int], stride: int) -> list[tuple[int, int]]:
    """Return sizes of other aspects around one size."""
    (height, width), step = size, stride
    return [size, (max(2 * step, height - 2 * step), width + step), (height + step, max(2 * step, width - 3 * step))]


def _module(
    network: Network, settings: Settings, placement: Placement, frame: tuple[int, int]
) -> tuple[formats.Module, tuple[dict[str, Port], dict[str, Port]]]:
    """Return the module to write, and its inputs and outputs."""
    # OpenVINO's own half precision is of the file alone.
    half = settings.precision == "fp16" and settings.to != "openvino"
    model = copy.deepcopy(network).half() if half else network
    height, width = placement.network
    stride = network.config.stride if settings.dynamic else None
    quantisation = model.quantisation if settings.precision == "int8" else None
    planned = Planned(model, None if stride else placement.network, quantisation).eval()
    if settings.whole:
        dtype = "uint8" if network.config.num_classes <= 255 else "int32"
        shape: list[int | str] = ["batch", *frame]
        ports = {"image": Port("uint8", [*shape, 3])}, {"label": Port(dtype, shape), "confidence": Port("uint8", shape)}
        module: torch.nn.Module = Whole(planned, placement, frame, settings.encoding == "bgr8")
        example = torch.zeros(2, *frame, 3, dtype=torch.uint8)
    else:
        module, example = planned, torch.zeros(2, 3, height, width)
        with torch.inference_mode():
            result = planned(example)
        ports = (
            {"pixels": Port("float32", ["batch", 3, *(("height", "width") if stride else placement.network)])},
            {
                name: Port("float32", _shape(x, placement.network, stride))
                for name, x in zip(network.gives._fields, result, strict=True)
            },
        )
    inputs, outputs = ports
    (name,) = inputs
    return formats.Module(module.eval(), example, name, [*outputs], stride, settings.precision), ports


def _shape(result: torch.Tensor, size: tuple[int, int], stride: int | None) -> list[int | str]:
    if result.dim() < 4 or not stride:
        return ["batch", *result.shape[1:]]
    height, width = (side // part for side, part in zip(size, result.shape[2:], strict=True))
    return ["batch", result.shape[1], f"height/{height}", f"width/{width}"]


def _manifest(
    network: Network,
    taxonomy: Taxonomy,
    settings: Settings,
    placement: Placement,
    frame: tuple[int, int],
    ports: tuple[dict[str, Port], dict[str, Port]],
    file: str,
    versions: dict[str, str],
) -> Manifest:
    config = network.config
    return Manifest(
        layout=LAYOUT,
        made_by=f"m2f_ros {m2f_ros.__version__}",
        model=settings.model,
        network=config.summary,
        format=settings.to,  # type: ignore[arg-type]
        file=file,
        sha256={},
        gives="labels" if settings.whole else RESULTS[network.gives],  # type: ignore[arg-type]
        precision=settings.precision,  # type: ignore[arg-type]
        size=None if settings.dynamic else placement.network,
        stride=config.stride,
        mean=config.mean,
        std=config.std,
        frame=frame if settings.whole else None,
        encoding=settings.encoding if settings.whole else None,  # type: ignore[arg-type]
        # A network of one size has that alone.
        resize=None if config.resize and config.resize[0] == "only" else config.resize,  # type: ignore[arg-type]
        min_pixels=config.min_pixels,
        max_pixels=config.max_pixels,
        averaged=getattr(config, "averaged", True),
        inputs=ports[0],
        outputs=ports[1],
        taxonomy=taxonomy.to_dict(),
        unlabelled=taxonomy.unlabelled,
        plugin=plugin.NAME if settings.plugin else None,
        versions=versions,
    )


def _without_plugin(manifest: Manifest, folder: Path, to: Path) -> Path:
    """Write a copy of an export that computes the plugin's nodes without it, for the comparison."""
    if manifest.format != "onnx":
        return folder
    to.mkdir()
    plugin.with_function(folder / manifest.file, to / manifest.file)
    other = copy.copy(manifest)
    other.plugin = None
    write_manifest(other, to)
    return to


def _runtime(settings: Settings) -> str:
    name, package = BACKENDS[settings.to]
    return f"{name} {metadata.version(package) if package else torch.__version__}"
