"""`m2f rerun`."""

from __future__ import annotations

import sys

import click

from m2f_ros.cli.options import Place, names


@click.command()
@click.argument("bag")
@click.option("--out", type=Place(), required=True, help="File of the recording, NAME.rrd.")
@click.option("--topics", default="", help="Image topics, separated by commas.  [default: all]")
def rerun(bag, out, topics) -> None:
    """Convert BAG, a rosbag2, to a recording of Rerun, with label images in the colours of their classes.

    `rerun NAME.rrd` shows it. Exit status 2: images are missing.
    """
    from tqdm import tqdm

    from m2f_ros.viewing.rerun import convert

    with tqdm(unit="message", disable=None) as bar:
        made = convert(bag, out, names(topics), lambda count: bar.update(count - bar.n))
    click.echo(f"{out}: {', '.join(f'{topic} ({count})' for topic, count in made.images.items())}")
    for reason in made.reasons:
        click.echo(f"m2f: error: {bag}: left out: {reason}", err=True)
    sys.exit(2 if made.reasons else 0)
