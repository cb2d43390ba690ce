"""The `m2f` command and its verbs. A verb imports its room when it is called: `m2f --help` needs no torch."""

from __future__ import annotations

import signal
import sys

import click

from m2f_ros import __version__, signals
from m2f_ros.cli import benchmark, drives, evaluation, export, live, quantising, serving, training, viewing
from m2f_ros.errors import M2fError, to_install


class _Verbs(click.Group):
    """The verbs. A verb ends as by SIGPIPE if its output has no reader."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            sys.exit(128 + signal.SIGPIPE)


@click.group(cls=_Verbs)
@click.version_option(__version__, prog_name="m2f")
def m2f() -> None:
    """Mask2Former for camera streams: the live node, and training, replay and scores without ROS."""


for _room in (live, training, drives, evaluation, viewing, serving, export, quantising, benchmark):
    for _verb in vars(_room).values():
        if isinstance(_verb, click.Command):
            m2f.add_command(_verb)


def main() -> None:
    """Run the command line.

    A user's error, or a package that is not installed, gives one line and exit status 2. A signal that the verb does
    not handle gives 128 plus its number; Ctrl-C gives a line, too.
    """
    signals.begin_command()
    code: str | int | None = 0
    try:
        code = m2f.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        signals.tell(signals.INTERRUPTED)
        code = 130
    except M2fError as error:
        click.echo(f"m2f: error: {error}", err=True)
        code = 2
    except ModuleNotFoundError as error:
        if not error.name or (error.name.startswith("m2f_ros.") and not error.name.startswith("m2f_ros.msg")):
            raise  # a fault of this package
        click.echo(f"m2f: error: {error.name} is not installed: {to_install(error.name)}", err=True)
        code = 2
    except SystemExit as error:
        code = error.code
    finally:
        read = signals.flush()
        signals.act_as_usual()
    sys.exit(code if read or code else 128 + signal.SIGPIPE)
