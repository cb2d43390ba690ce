"""`m2f train` and `m2f street`."""

from __future__ import annotations

from pathlib import Path

import click

from m2f_ros.cli.options import Place, image_size, two_numbers


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--out", type=Place(), help="Folder of the run.  [default: out/NAME of CONFIG]")
@click.option("--data", "data_root", help="Folder of the data sets, in place of the config's data.root.")
@click.option("--resume", is_flag=True, help="Continue the run in --out, or start one if there is none.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads, in place of the config's.")
@click.option("--max-minutes", type=float, help="Save and stop after this time; --resume continues.")
def train(config, out, data_root, resume, device, threads, max_minutes) -> None:
    """Train the model that CONFIG (YAML) describes."""
    from dataclasses import replace

    from m2f_ros.street import Street
    from m2f_ros.training.config import load_config
    from m2f_ros.training.loop import train as run

    settings = load_config(config, data_root)
    if threads:
        settings = replace(settings, threads=threads)
    out = out or Path("out") / config.stem
    run(settings, out, resume=resume, device=device, max_minutes=max_minutes, street=Street)


@click.command()
@click.argument("out", type=Place())
@click.option("--seeds", default="0..9", show_default=True, help="A..B, both included; one street for each seed.")
@click.option("--frames", type=click.IntRange(1), default=300, show_default=True, help="Frames of a drive.")
@click.option("--every", type=click.IntRange(1), default=10, show_default=True, help="Write every Nth frame.")
@click.option("--size", default="640x480", show_default=True, help="WIDTHxHEIGHT in pixels.")
@click.option("--workers", type=click.IntRange(1), default=2, show_default=True, help="Number of processes.")
def street(out, seeds, frames, every, size, workers) -> None:
    """Write simulated streets to OUT/images, OUT/labels and OUT/instances, for training."""
    from tqdm import tqdm

    from m2f_ros.street.export import export_street

    first, last = two_numbers(seeds, "..", "--seeds 0..9")
    if first > last:
        raise click.UsageError(f"--seeds {seeds!r} is empty; the smaller number comes first")
    width, height = image_size(size, "--size 640x480")
    done = export_street(out, range(first, last + 1), range(0, frames, every), width, height, workers)
    for _ in tqdm(done, total=last + 1 - first, unit="street"):
        pass
