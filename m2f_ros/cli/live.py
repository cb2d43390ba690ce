"""`m2f node` and `m2f topics`, for a running ROS system."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import click

from m2f_ros.cli.options import Range


class _Node(click.Command):
    """A command whose help lists the arguments of the launch file."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from m2f_ros.node.launch_arguments import ARGUMENTS

        with formatter.section("Arguments"):
            formatter.write_dl(
                [
                    (f"{one.name}:={one.default or ''}", one.description + (one.wanted and f" One of {one.wanted}."))
                    for one in ARGUMENTS
                ]
            )


@click.command(cls=_Node, context_settings={"max_content_width": 120})
@click.argument("arguments", nargs=-1, metavar="NAME:=VALUE...")
def node(arguments) -> None:
    """Start the live node by the arguments of m2f.launch.py, where there is no `ros2 launch` (needs a built package).

    For example: m2f node image:=/camera/image_raw device:=cuda
    """
    from m2f_ros.node.launch_arguments import parse, read
    from m2f_ros.processes.children import executable

    start = read(parse(arguments))
    command = [str(executable("segmentation_node")), *start.ros_arguments()]
    if start.chooses_profile:
        choose_profile()
    sys.stdout.flush()
    # In this process, which signals and a supervisor reach; its exit status is the node's.
    os.execv(command[0], command)


@click.command()
@click.option("--seconds", type=Range(0.5, 3600), default=5, show_default=True, help="How long to listen.")
@click.option("--images", is_flag=True, help="Only topics of images.")
@click.option("--rates", is_flag=True, help="Receive also the topics that the node does not read, for their rates.")
def topics(seconds, images, rates) -> None:
    """List the topics of the running ROS system, and the images that the node takes (needs ROS).

    It subscribes to those of images, calibration, clouds and transforms, and gives their rates. Ctrl-C ends it early:
    it lists the topics so far. Exit status 1: there is no topic; 130: Ctrl-C ended it.
    """
    from m2f_ros.node.topics import describe, listen
    from m2f_ros.processes.children import ProcessError

    with suppress(ProcessError):  # ROS suffices where the package is not built
        choose_profile()
    heard = listen(seconds, images, rates)
    listened = f"{heard.seconds:.1f}" if heard.interrupted else f"{seconds:g}"
    if heard.topics:
        click.echo(describe(heard.topics, listened))
    else:
        domain = os.environ.get("ROS_DOMAIN_ID", "0")
        what = "topic of images" if images else "topic"
        click.echo(
            f"m2f: error: no {what} of another node within {listened} s: start it, or set its ROS_DOMAIN_ID "
            f"(here {domain}), RMW_IMPLEMENTATION and discovery range",
            err=True,
        )
    if heard.interrupted:
        click.echo(f"m2f: stopped after {listened} of {seconds:g} s", err=True)
        sys.exit(128 + signal.SIGINT)
    if not heard.topics:
        sys.exit(1)


def choose_profile() -> None:
    """Set the Fast DDS profile for large images, as the launch files do. Raises ProcessError in no built package."""
    from m2f_ros.processes import fastdds
    from m2f_ros.processes.children import config_folder

    config = config_folder()
    fastdds.remove_orphans(os.environ)
    profile = fastdds.choose(config, os.environ, Path.cwd())
    os.environ.update(profile.variables)
    click.echo(f"m2f: {profile.line}", err=True)
