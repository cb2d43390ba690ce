"""`m2f quantize`."""

from __future__ import annotations

import os

import click

from m2f_ros.cli.options import Place, Range


@click.command()
@click.argument("model")
@click.option("--out", type=Place(), required=True, help="Folder of the quantised checkpoint, or of the export.")
@click.option("--to", type=click.Choice(["openvino", "onnx"]), default="openvino", show_default=True)
@click.option("--calibrate", multiple=True, default=["street"], show_default=True, help="Source of frames; see above.")
@click.option("--score", multiple=True, help="Source of the scored frames.  [default: other frames of --calibrate]")
@click.option("--labels", help="Labels of the scored frames: folder of PNGs, or topic of a rosbag2.")
@click.option("--taxonomy", help="Taxonomy of these labels: cityscapes, camvid, a YAML file, …")
@click.option("--frames", type=click.IntRange(1), default=20, show_default=True, help="Frames to calibrate with.")
@click.option("--scored", type=click.IntRange(1), default=20, show_default=True, help="Frames to score of each source.")
@click.option("--max-loss", type=Range(0, 1), default=0.005, show_default=True, help="Most mIoU lost on any source.")
def quantize(out, to, **options) -> None:
    """Put the products of MODEL into eight bits, and score it before and after.

    Sources are rosbag2s, folders, videos, or "street": ten simulated streets, and ten others to score. Products whose
    rounding costs most stay in floating point until the bound holds. --to openvino writes a checkpoint for precision
    int8 of node, replay, eval, demo and bench, at any size; --to onnx an export for ONNX Runtime and TensorRT.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # before torch is imported: OpenVINO uses the cores, too
    from m2f_ros.export.quantise import Settings, describe, quantise, quantise_for_onnx

    write = quantise if to == "openvino" else quantise_for_onnx
    click.echo(describe(write(Settings(**options), out, lambda line: click.echo(f"m2f: {line}", err=True))))
