"""`m2f export`."""

from __future__ import annotations

import os

import click

from m2f_ros.cli.options import Place, image_size

_FRAMES = 8  # to compare with PyTorch


@click.command()
@click.argument("model")
@click.option("--to", default="onnx", show_default=True, help="onnx, openvino, torchscript, pt2 or tensorrt.")
@click.option("--out", type=Place(), required=True, help="Folder of the export.")
@click.option("--size", help="HEIGHTxWIDTH of the network's input, or dynamic.  [default: as for the frames]")
@click.option("--whole", is_flag=True, help="From images of a camera to labels, all in the file.")
@click.option("--encoding", default="bgr8", show_default=True, help="bgr8 or rgb8: these images, with --whole.")
@click.option("--precision", default="fp32", show_default=True, help="fp32, fp16, or int8 (see m2f quantize).")
@click.option("--plugin", is_flag=True, help="Use TensorRT's plugin for deformable attention.")
@click.option("--frames", default="street", show_default=True, help="Source of frames to compare with PyTorch.")
@click.option("--frame-size", help="HEIGHTxWIDTH of a street's frames.  [default: 480x640]")
@click.option("--device", default="auto", show_default=True, help="GPU that a TensorRT engine is for.")
def export(model, out, size, frames, frame_size, **options) -> None:
    """Write MODEL for other runtimes, with m2f.yaml beside it, after comparing its labels with PyTorch's on frames.

    OUT is then a model for the node, replay, demo and prepare. With --whole it is for programs without m2f_ros.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # before torch is imported: other runtimes use the cores, too
    from m2f_ros.export.export import export as run
    from m2f_ros.export.settings import DYNAMIC, Settings

    wanted = size if size in (None, DYNAMIC) else image_size(size, "--size 480x640")
    settings = Settings(model, size=wanted, **options)
    shown = image_size(frame_size, "--frame-size 480x640") if frame_size else None
    manifest = run(settings, out, _read(frames, shown), frames, lambda line: click.echo(f"m2f: {line}", err=True))
    assert manifest.verified
    size = "x".join(map(str, manifest.size)) if manifest.size else "any size"
    equal, number = manifest.verified.equal, manifest.verified.frames
    click.echo(f"{out / manifest.file}: {manifest.network}, {size}, {manifest.precision}")
    click.echo(f"{100 * equal:.3f} % of the labels of {number} frames are PyTorch's")
    if manifest.format == "onnx" and manifest.size:
        from m2f_ros.export.tensorrt import line

        ((name, port),) = manifest.inputs.items()
        click.echo(f"for TensorRT: {line(str(out / manifest.file), name, 'x'.join(map(str, port.shape[1:])))}")


def _read(source: str, size: tuple[int, int] | None) -> list:
    """Return frames of a source; those of a street are a second apart."""
    from m2f_ros.errors import SourceError
    from m2f_ros.frame.frame import Frame
    from m2f_ros.sources.open import is_street, open_source
    from m2f_ros.sources.street import UNSEEN_SEED

    if is_street(source):
        from m2f_ros.street import Street

        height, width = size or (480, 640)
        street = Street(int(source.partition(":")[2] or UNSEEN_SEED), width, height)
        return [Frame(street.frame(10 * i).image, "rgb8") for i in range(_FRAMES)]
    if size:
        raise click.UsageError(f"--frame-size: is for a street; the frames of {source} have a size of their own")
    frames = [Frame(sample.image.copy(), sample.encoding) for sample in open_source(source, frames=_FRAMES)]
    if len(frames) < 2:
        raise SourceError(f"{source}: has {len(frames)} frames, and two or more are compared with PyTorch")
    return frames
