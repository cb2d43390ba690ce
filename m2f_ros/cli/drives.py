"""`m2f bag`, `m2f replay`, `m2f demo` and `m2f prepare`."""

from __future__ import annotations

import os
import sys

import click

from m2f_ros.cli.options import Place, Range, image_size, names, two_numbers
from m2f_ros.cli.space_options import space_settings
from m2f_ros.frame.outputs import NAMES, REPLAYED, SPATIAL_NAMES


@click.command()
@click.argument("source")
@click.option("--out", type=Place(), required=True, help="Folder of the new bag.")
@click.option("--labels", help="Folder of label images for the source; their topic for a rosbag2.")
@click.option("--taxonomy", help="Taxonomy of the ids in the label images: camvid, a YAML file, …")
@click.option("--topic", help="Image topic of a rosbag2.")
@click.option("--rate", type=Range(0.01, 1000), help="Frames a second.  [default: the source's; folder: 10]")
@click.option("--frames", type=click.IntRange(1), help="Number of frames.  [default: all; 100 of an endless source]")
@click.option("--bit-depth", type=int, default=0, help="Bits used of 16, for example 12.  [default: from the values]")
@click.option("--stamps", help="Text file with a stamp a line for each image: seconds, nanoseconds or UTC.")
@click.option("--calibration", help="ROS camera_info YAML.  [default: the source's own]")
@click.option("--namespace", default="/camera", show_default=True, help="Namespace of the camera's topics.")
@click.option("--transport", type=click.Choice(["raw", "compressed"]), default="raw", show_default=True)
@click.option("--storage", type=click.Choice(["mcap", "sqlite3"]), default="mcap", show_default=True)
@click.option("--compression", type=click.Choice(["none", "chunk", "message"]), default="none", show_default=True)
@click.option("--depth", is_flag=True, help="Write depth images, too, and the street's transforms.")
@click.option("--depth-topic", help="Depth topic of a rosbag2.  [default: the one of the image's frame_id]")
@click.option("--tf", is_flag=True, help="Write the street's transforms, /tf and /tf_static.")
@click.option(
    "--lidar",
    is_flag=False,
    flag_value="32x1024",
    metavar="[RINGSxCOLUMNS]",
    help="Write the clouds of a lidar in the street with true labels, 32x1024 points each, and its transforms.",
)
@click.option("--grid", is_flag=True, help="Write the true grid of the ground in the street, and its transforms.")
def bag(
    source,
    out,
    labels,
    taxonomy,
    topic,
    rate,
    frames,
    bit_depth,
    stamps,
    depth,
    depth_topic,
    tf,
    lidar,
    grid,
    **options,
) -> None:
    """Turn SOURCE into a rosbag2 with images and, if it has them, camera_info and ground truth.

    SOURCE is a video, a folder of images, the simulated street (street[:SEED]), or one camera of a rosbag2. A rosbag2
    keeps its stamps and log times. For other sources the first frame is stamped 2020-01-01 00:00 UTC, unless --stamps
    is given, so that the same command gives the same bytes. Exit status 2: frames are missing.
    """
    from tqdm import tqdm

    from m2f_ros.replay.make_bag import make_bag
    from m2f_ros.sources.open import ENDLESS_FRAMES, SpaceOptions, is_street, open_source

    simulated = is_street(source)
    for name, value in (("--tf", tf), ("--lidar", lidar), ("--grid", grid)):
        if value and not simulated:
            raise click.UsageError(f"{name}: not for {source}: only the simulated street makes it")
    space = SpaceOptions(
        depth=depth or bool(depth_topic),
        transforms=simulated and bool(depth or tf or lidar or grid),
        clouds=bool(lidar),
        grid=grid,
        depth_topics=(depth_topic,) if depth_topic else (),
        lidar_size=two_numbers(lidar or "32x1024", "x", "--lidar 32x1024"),
    )
    chosen = {"labels": labels, "taxonomy": taxonomy, "topic": topic, "bit_depth": bit_depth, "stamps": stamps}
    chosen["space"] = space
    opened = open_source(source, rate=rate, frames=frames, **chosen)
    if opened.epoch and rate:
        raise click.UsageError(f"--rate {rate:g}: not for {source}, whose frames have stamps")
    if opened.length is None:
        opened.end_after(ENDLESS_FRAMES)
    with tqdm(total=opened.length, unit="frame") as bar:
        drive = make_bag(opened, out, progress=lambda count: bar.update(count - bar.n), **options)
    click.echo(f"{drive.path}: {drive.frames} frames, {drive.labels} of them with labels")
    if drive.cut:
        click.echo(f"m2f: error: {drive.path}: cut short: {drive.cut}; the bag holds the frames before", err=True)
        sys.exit(128 + drive.signal if drive.signal else 2)
    if drive.problem:
        click.echo(f"m2f: error: {source}: {drive.problem}; the bag holds the others", err=True)
        sys.exit(2)


@click.command()
@click.argument("drives", nargs=-1, required=True)
@click.option("--out", type=Place(), required=True, help="Rosbag2 to write; for several drives, their folder.")
@click.option(
    "--model",
    default="street",
    show_default=True,
    help="Name, folder or Hugging Face hub id; truth: the drive's own labels.",
)
@click.option("--topics", default="", help="Image topics of a rosbag2, separated by commas.  [default: all cameras]")
@click.option("--frames", type=int, help="Frames of each drive.  [default: all; 100 of the simulated street]")
@click.option("--bit-depth", type=int, default=0, help="Bits used of 16, for example 12.  [default: from the values]")
@click.option(
    "--outputs", default=",".join(REPLAYED), show_default=True, help=f"Some of {', '.join((*NAMES, *SPATIAL_NAMES))}."
)
@click.option(
    "-p",
    "parameters",
    multiple=True,
    metavar="NAME:=VALUE",
    help="Parameter of the node, for outputs in space: grid.resolution:=0.2, camera.front.extrinsics:=[…].",
)
@click.option(
    "--depth-topic",
    "depth_topics",
    multiple=True,
    help="Depth topic, or CAMERA=TOPIC; none: read none.  [default: all found]",
)
@click.option("--cloud-topic", help="Topic of the lidar's clouds.  [default: the only one]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--precision", help="fp32, tf32, fp16, bf16, int8 or fp8.  [default: fp16 on CUDA, else fp32]")
@click.option("--backend", default="auto", show_default=True, help="auto, eager, compile, openvino; an export's own.")
@click.option(
    "--track-by", default="overlap", show_default=True, help="Panoptic ids follow overlap of masks, or queries alike."
)
@click.option("--batch", type=int, default=1, show_default=True, help="Frames of a batch.")
@click.option("--size", help="HEIGHTxWIDTH of the network's input.  [default: the checkpoint's, or the frame's]")
@click.option("--max-pixels", type=int, help="Most pixels of the network's input.  [default: the model's bound]")
@click.option("--tta", default="", help="Mean of several scales, and mirrored: 0.75,1,1.25+flip, or flip.")
@click.option("--windows", default="", help="HEIGHTxWIDTH of windows over frames that are larger in the network.")
@click.option("--window-overlap", type=Range(0, 0.9), default=0.25, show_default=True, help="Least share of a window.")
@click.option("--storage", default="mcap", show_default=True, help="mcap or sqlite3.")
@click.option("--compression", default="none", show_default=True, help="none, or zstd by message or chunk.")
@click.option("--video", is_flag=True, help="Write OUT/overlay.mp4, too.")
@click.option("--png", is_flag=True, help="Write OUT/labels/*.png (train ids), too.")
@click.option("--threads", type=int, default=0, help="CPU threads of each worker.  [default: one a core, at most 4]")
@click.option("--workers", type=click.IntRange(1), help="Drives at a time.  [default: one for each of --devices, or 1]")
@click.option("--devices", default="", help="Devices for the drives, in turns: cuda:0,cuda:1.")
@click.option("--ray", is_flag=True, help="Use workers of the Ray cluster that RAY_ADDRESS names, or start one here.")
@click.option("--part", type=int, default=128, show_default=True, help="Images in each file of the bag.")
@click.option("--restart", is_flag=True, help="Begin anew instead of continuing the replay in OUT.")
def replay(
    drives, out, topics, outputs, parameters, depth_topics, size, workers, devices, ray, restart, **options
) -> None:
    """Segment every frame of DRIVES: rosbag2, videos, folders of images or of bags, street, street:SEED, or patterns.

    Outputs in space need depth images, transforms and clouds: of a rosbag2, or of the simulated street. After an
    interruption the same command continues, and the result equals that of one run. Exit status 2: images or outputs are
    missing.
    """
    # Set before torch is imported: its threads would spin after their work, while reader and writer need the cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    from m2f_ros.replay.job import describe
    from m2f_ros.replay.run import run
    from m2f_ros.replay.settings import Settings

    wanted = image_size(size, "--size 480x640") if size else None
    settings = Settings(
        topics=names(topics),
        outputs=names(outputs),
        size=wanted,
        space=space_settings(parameters),
        depth_topics=tuple(depth_topics),
        **options,
    )
    choice = {"restart": restart, "workers": workers or 0, "devices": names(devices), "ray": ray}
    outcomes, number = run(drives, out, settings, **choice)
    for outcome in outcomes:
        click.echo(describe(outcome), err=bool(outcome.problem))
    sys.exit(128 + number if number else 2 if any(outcome.problem for outcome in outcomes) else 0)


@click.command()
@click.option("--source", default="street", show_default=True, help="Video, images, rosbag2, /dev/videoN.")
@click.option("--labels", help="Folder of label images for the source.")
@click.option("--taxonomy", help="Taxonomy of the ids in the label images: camvid, a YAML file, …")
@click.option("--topic", help="Image topic of a rosbag2.")
@click.option("--rate", type=Range(0.01, 1000), help="Frames a second.  [default: the source's]")
@click.option("--frames", type=click.IntRange(1), help="Number of frames.  [default: all; 100 of an endless source]")
@click.option("--bit-depth", type=int, default=0, help="Bits used of 16, for example 12.  [default: from the values]")
@click.option("--model", default="street", show_default=True, help="Name, folder or Hugging Face hub id.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option(
    "--precision", default="auto", show_default=True, help="auto, fp32, bf16, int8, …; see the node's parameter."
)
@click.option("--out", type=Place(), default="out/demo", show_default=True, help="Folder of the results.")
@click.option("--outputs", default="", help=f"Outputs in space with pictures, some of {', '.join(SPATIAL_NAMES)}.")
@click.option("--timeout", type=Range(1), default=120, show_default=True, help="Most seconds without progress.")
def demo(outputs, **options) -> None:
    """Segment a camera stream with the ROS node and show the results (needs ROS and a built package).

    Outputs in space need depth images, transforms and clouds: of the simulated street, or of a rosbag2.
    """
    from m2f_ros.processes.children import ProcessError
    from m2f_ros.replay import demo

    chosen = demo.Options(outputs=names(outputs), **options)
    try:
        summary = demo.run(chosen)
        click.echo(demo.describe(summary, chosen.out))
        if "missing" in summary:
            sys.exit(2)
    except ProcessError as error:
        click.echo(f"m2f: error: {error}", err=True)
        sys.exit(1)


@click.command()
@click.option("--model", default="street", show_default=True, help="Name, folder or Hugging Face hub id.")
@click.option("--image", "size", default="640x480", show_default=True, help="WIDTHxHEIGHT of the camera's images.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
def prepare(model, size, device) -> None:
    """Convert a model for images of one size ahead of time, so that the node's first image does not wait for it."""
    from m2f_ros.pipeline.build import PipelineSettings, build_pipeline

    width, height = image_size(size, "--image 640x480")
    pipeline = build_pipeline(PipelineSettings(model, device=device, precision="auto"))
    pipeline.warm_up(height, width)
    click.echo(f"{model} is ready for {width}x{height} on {pipeline.device} ({pipeline.backend}, {pipeline.precision})")
