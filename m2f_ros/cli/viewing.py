"""`m2f view` and `m2f rerun`."""

from __future__ import annotations

import sys
from contextlib import suppress

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


@click.command()
@click.argument("recording", required=False)
@click.option("--node", default="", help="Full name of the live node.  [default: the only one that runs]")
@click.option("--images", help="Bag with the images, for a replay's result.  [default: the drive that was replayed]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address; with --token that of other machines.")
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any free one.")
@click.option("--token", default="", envvar="M2F_TOKEN", help="The page is opened as /?token=TOKEN.")
def view(recording, node, images, host, port, token) -> None:
    """Show RECORDING, a rosbag2 or the result of a replay, or else the running node, on a page in the browser.

    Over ssh: `ssh -L 8080:localhost:8080 ROBOT`, and open http://localhost:8080.
    """
    from m2f_ros.serve.page.run import view as run

    if recording is None and images:
        raise click.UsageError("--images is for a recording; the live node's images come from its cameras")
    if recording is not None and node:
        raise click.UsageError(f"--node {node} is for the live node; {recording} is a recording")

    def say(line):
        click.echo(f"m2f: {line}", err=True)

    def opened():
        if recording is None:
            from m2f_ros.cli.live import choose_profile
            from m2f_ros.node.viewing import LiveFeed
            from m2f_ros.processes.children import ProcessError

            with suppress(ProcessError):  # ROS suffices where the package is not built
                choose_profile()
            return LiveFeed(node)
        from m2f_ros.serve.page.recording import open_recording

        found = open_recording(recording, images)
        if found.note:
            say(found.note)
        return found

    run(opened, host, port, token, say)
