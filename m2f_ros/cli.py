"""The `m2f` command: one verb for each thing to do without ROS. A verb imports its room when it is called."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from m2f_ros.errors import M2fError


@click.group()
def m2f() -> None:
    """Mask2Former for camera streams: train, replay and score without ROS."""


@m2f.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run; default: out/CONFIG's name.")
@click.option("--data", "data_root", help="Where the data sets are, in place of the config's data.root.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out; starts one where there is none.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads, in place of the config's.")
@click.option("--max-minutes", type=float, help="Stop and save after so long; --resume goes on.")
def train(config, out, data_root, resume, device, threads, max_minutes) -> None:
    """Train the model that CONFIG (YAML) describes."""
    from dataclasses import replace

    from m2f_ros.training.config import load_config
    from m2f_ros.training.loop import train as run

    settings = load_config(config, data_root)
    if threads:
        settings = replace(settings, threads=threads)
    run(settings, out or Path("out") / config.stem, resume=resume, device=device, max_minutes=max_minutes)


@m2f.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--seeds", default="0..9", show_default=True, help="A..B, both included: one street each.")
@click.option("--frames", type=click.IntRange(1), default=300, show_default=True, help="Length of a drive.")
@click.option("--every", type=click.IntRange(1), default=10, show_default=True, help="One frame of so many.")
@click.option("--size", default="640x480", show_default=True, help="WIDTHxHEIGHT in pixels.")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Processes.")
def street(out, seeds, frames, every, size, workers) -> None:
    """Write simulated streets with their labels to OUT/images and OUT/labels, for training."""
    from tqdm import tqdm

    from m2f_ros.replay.street_export import export_street

    first, last = _two_numbers(seeds, "..", "--seeds 0..9")
    if first > last:
        raise click.UsageError(f"--seeds {seeds!r} is empty; the smaller number comes first")
    width, height = _two_numbers(size, "x", "--size 640x480")
    done = export_street(out, range(first, last + 1), range(0, frames, every), width, height, workers)
    for _ in tqdm(done, total=last + 1 - first, unit="street"):
        pass


@m2f.command()
@click.option("--source", default="street", show_default=True, help="Video, images, rosbag2, /dev/videoN.")
@click.option("--labels", help="Folder of label images for the source.")
@click.option("--taxonomy", help="What the ids in the label images mean: camvid, a YAML file, …")
@click.option("--topic", help="Image topic of a rosbag2.")
@click.option("--rate", type=click.FloatRange(0.01, 1000), help="Frames a second.  [default: the source's]")
@click.option("--frames", type=click.IntRange(1), help="How many.  [default: all; 100 of an endless source]")
@click.option("--model", default="street", show_default=True, help="Name, folder or Hugging Face hub id.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, …")
@click.option("--out", type=click.Path(path_type=Path), default="out/demo", show_default=True, help="Results.")
@click.option("--timeout", type=click.FloatRange(1), default=120, show_default=True, help="Most seconds idle.")
def demo(**options) -> None:
    """Segment a camera stream with the ROS node and show what came of it (needs ROS and a built package)."""
    from m2f_ros.replay import demo
    from m2f_ros.replay.processes import ProcessError

    options = demo.Options(**options)
    try:
        click.echo(demo.describe(demo.run(options), options.out))
    except ProcessError as error:
        click.echo(f"m2f: error: {error}", err=True)
        sys.exit(1)


def _two_numbers(text: str, between: str, example: str) -> tuple[int, int]:
    first, found, second = text.partition(between)
    if not (found and first.isdecimal() and second.isdecimal()):
        raise click.UsageError(f"{text!r} is not of the form {example}")
    return int(first), int(second)


def main() -> None:
    """Run the command line; an error that the user can mend is one line and exit status 2."""
    try:
        m2f()
    except M2fError as error:
        click.echo(f"m2f: error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
