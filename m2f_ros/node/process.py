"""A node as a process: it ends itself or by a signal, with an exit code and without a traceback."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from m2f_ros.errors import ConfigError, M2fError
from m2f_ros.node import standard_error
from m2f_ros.node.arguments import FILE, without_effect
from m2f_ros.node.declare import unknown_parameters
from m2f_ros.node.executor import Executor

# Seconds. A model that is being loaded, or a frame that is being computed, cannot be interrupted: longer than
# this the end of the process does not wait for it.
CLOSE_TIMEOUT = 5.0

HELP = """\
usage: {name} [--ros-args [-p PARAMETER:=VALUE]... [--params-file FILE] [-r TOPIC:=TOPIC]...]

All that can be set is a ROS parameter: `ros2 param list` and `ros2 param describe` show those of a running node.
What the node does and which topics it has: docs/node.md; its parameters: docs/parameters.md."""


class Ending:
    """When, and with which exit code, a process ends. Any thread may ask; the first decides the code."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._lock = threading.Lock()
        self.code = 0

    def ask(self, code: int = 0) -> None:
        with self._lock:
            if not self._asked.is_set():
                self.code = code
                self._asked.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until the end is asked for, at most `timeout` seconds. True when it was."""
        return self._asked.wait(timeout)


class ProcessNode(Protocol):
    """What `run` wants of a node beside rclpy.node.Node."""

    def close(self, timeout: float) -> bool:
        """Stop the node's own threads, within `timeout` seconds. False when one still runs."""


def run(make: Callable[[Ending], Node], args: Sequence[str] | None = None) -> int:
    """Spin the node that `make` returns until it asks for the end, or SIGINT or SIGTERM does.

    Returns the exit code: 0, what the node asked for, or 2 for arguments and parameters that are wrong. What ROS
    leaves of the arguments (of `sys.argv` where they are None) may only be --help.
    """
    ending = Ending()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ending.ask(0))
    node = None
    try:
        given = sys.argv[1:] if args is None else list(args)
        left = remove_ros_args(["", *given])[1:]
        if "--help" in left or "-h" in left:
            print(HELP.format(name=os.path.basename(sys.argv[0])))
            return 0
        if left:
            raise ConfigError(f"unknown argument {' '.join(left)}: parameters and topics follow --ros-args, see --help")
        # rclpy's own handlers would shut the context down under the threads that publish.
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        node = make(ending)
        for line in without_effect(given, node.get_fully_qualified_name()):
            node.get_logger().warning(line)
        if unknown := ", ".join(unknown_parameters(node)):
            node.get_logger().warning(f"parameters that the node does not have, without effect: {unknown}")
    except Exception as error:
        # Beside this package's they are ROS' own, for arguments that it cannot parse.
        say(f"error: {_advice(error)}")
        rclpy.try_shutdown()
        return 2
    executor = Executor(node)
    taken_up = standard_error.take_up()
    # Python runs signal handlers in the main thread only, and not while that waits inside rclpy.
    spinning = threading.Thread(target=_spin, args=(executor, node, ending), name="executor", daemon=True)
    spinning.start()
    ending.wait()
    closed = node.close(CLOSE_TIMEOUT)
    executor.shutdown(timeout_sec=CLOSE_TIMEOUT)
    spinning.join(CLOSE_TIMEOUT)
    if taken_up is not None:
        taken_up.close()
    if not closed or spinning.is_alive():
        # Threads that still run inside torch would crash the interpreter while it ends.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ending.code)
    node.destroy_node()
    rclpy.try_shutdown()
    return ending.code


def _advice(error: Exception) -> str:
    """The words of an error while starting, with what to do about those that are ROS' own."""
    line = one_line(error)
    if isinstance(error, M2fError):
        return line
    if "logging" in line:
        return f"ROS cannot write its log: set ROS_LOG_DIR to a folder that can be written ({line})"
    if "remap rule" in line:
        return f"{line}. Names have letters, digits and _, with / between them and none behind, as in /camera/image_raw"
    if FILE in line:
        return f"{line}. Such a file has the name of a node, or /**, in it ros__parameters, in that the parameters"
    return line


def emit(event: str, **fields: object) -> None:
    """One line of JSON on standard output, for the process that started this one."""
    print(json.dumps({"event": event, **fields}), flush=True)


def say(line: str) -> None:
    """One line on standard error, for a person."""
    print(f"{os.path.basename(sys.argv[0])}: {line}", file=sys.stderr, flush=True)


def one_line(error: Exception) -> str:
    """The words of an error; before those that are not made for the reader, its type."""
    kind = "" if isinstance(error, M2fError) else f"{type(error).__name__}: "
    return f"{kind}{' '.join(str(error).split())}"


def read_line(ending: Ending) -> str | None:
    """A line of standard input, without its end; None if it is closed, or the process ends, before that."""
    # Not sys.stdin: a thread that waits inside it makes the interpreter abort when it ends.
    text = b""
    while not ending.wait(0):
        if not select.select([0], [], [], 0.2)[0]:
            continue
        part = os.read(0, 4096)
        text += part
        if b"\n" in text:
            return text.split(b"\n")[0].decode(errors="replace")
        if not part:
            return None
    return None


def join(threads: Sequence[threading.Thread], timeout: float) -> bool:
    """Wait for threads, at most `timeout` seconds each. False when one still runs."""
    for thread in threads:
        thread.join(timeout)
    return not any(thread.is_alive() for thread in threads)


def _spin(executor: Executor, node: Node, ending: Ending) -> None:
    code = 1
    try:
        executor.spin()
    except KeyboardInterrupt:
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
        if not ending.wait(0):
            node.get_logger().fatal(f"{type(error).__name__}: {error}")
    ending.ask(code)
