"""Runs a node as a process that ends by itself or by a signal, with an exit code and without a traceback."""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol, TextIO

import rclpy
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from m2f_ros import signals
from m2f_ros.errors import ConfigError, M2fError
from m2f_ros.node import standard_error
from m2f_ros.node.arguments import FILE, without_effect
from m2f_ros.node.declare import unknown_parameters
from m2f_ros.node.executor import Executor
from m2f_ros.processes import fastdds

# Seconds to wait at the end for the loading of a model or the work on a frame, which cannot be interrupted.
CLOSE_TIMEOUT = 5.0

HELP = """\
usage: {name} [--ros-args [-p PARAMETER:=VALUE]... [--params-file FILE] [-r TOPIC:=TOPIC]...]

All that can be set is a ROS parameter: `ros2 param list` and `ros2 param describe` show those of a running node.
docs/node.md describes the node and its topics, docs/parameters.md its parameters."""


class Ending:
    """The end of a process and its exit code. Threads and signal handlers request it; the first one sets the code."""

    def __init__(self) -> None:
        # Without a lock: a signal handler would deadlock if it interrupted the thread that holds it.
        self._codes: list[int] = []
        self._asked: SimpleQueue[None] = SimpleQueue()

    @property
    def code(self) -> int:
        return self._codes[0] if self._codes else 0

    @code.setter
    def code(self, code: int) -> None:
        self._codes.insert(0, code)

    def ask(self, code: int = 0) -> None:
        self._codes.append(code)
        self._asked.put(None)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the end is requested, at most `timeout` seconds. Return True if it was."""
        try:
            self._asked.get(timeout=timeout)
        except Empty:
            return False
        self._asked.put(None)  # for the next waiting thread
        return True


class ProcessNode(Protocol):
    """The method that `run` needs in addition to those of rclpy.node.Node."""

    def close(self, timeout: float) -> bool:
        """Stop the node's own threads, within `timeout` seconds. Return False if one still runs."""


def run(make: Callable[[Ending], Node], args: Sequence[str] | None = None) -> int:
    """Spin the node that `make` returns until it requests the end, or until SIGINT, SIGTERM or SIGHUP.

    args: arguments; None for `sys.argv`. Only ROS' own and --help are valid.

    Return the exit code: 0, the node's own code, or 2 for wrong arguments and parameters.
    """
    ending = Ending()

    def end(number: int, _frame: object) -> None:
        if number == signal.SIGHUP:
            signals.leave_terminal()
        ending.ask(0)

    signals.listen(end)
    signals.wake_main_thread()
    node = None
    try:
        given = sys.argv[1:] if args is None else list(args)
        left = remove_ros_args(["", *given])[1:]
        if "--help" in left or "-h" in left:
            print(HELP.format(name=os.path.basename(sys.argv[0])))
            return 0
        if left:
            raise ConfigError(f"unknown argument {' '.join(left)}: parameters and topics follow --ros-args, see --help")
        fastdds.remove_orphans(os.environ)
        short = fastdds.shortage(os.environ, Path.cwd())
        # rclpy's own handlers would shut the context down under the threads that publish.
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        node = make(ending)
        if short:
            node.get_logger().warning(short)
        for line in without_effect(given, node.get_fully_qualified_name()):
            node.get_logger().warning(line)
        if unknown := ", ".join(unknown_parameters(node)):
            node.get_logger().warning(f"parameters that the node does not have, without effect: {unknown}")
    except Exception as error:
        # Errors of this package, or of ROS for arguments that it cannot parse.
        say(f"error: {_advice(error)}")
        rclpy.try_shutdown()
        return 2
    executor = Executor(node)
    taken_up = standard_error.take_up()
    # Python runs signal handlers in the main thread only, and not while that thread waits inside rclpy.
    spinning = threading.Thread(target=_spin, args=(executor, node, ending), name="executor", daemon=True)
    spinning.start()
    ending.wait()
    try:
        closed = node.close(CLOSE_TIMEOUT)
    except Exception as error:
        say(f"error: {one_line(error)}")
        closed, ending.code = False, 1
    executor.shutdown(timeout_sec=CLOSE_TIMEOUT)
    spinning.join(CLOSE_TIMEOUT)
    if taken_up is not None:
        taken_up.close()
    if not closed or spinning.is_alive():
        # Threads that still run inside torch would crash the interpreter at its end.
        signals.flush()
        os._exit(ending.code)
    node.destroy_node()
    rclpy.try_shutdown()
    # DDS frees its shared memory with the node, whose reference cycles need a collection.
    del node, executor, spinning
    gc.collect()
    return ending.code


def _advice(error: Exception) -> str:
    """Return the message of an error at the start, with advice for errors of ROS."""
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
    """Print a line of JSON on standard output, for the parent process."""
    _write(sys.stdout, json.dumps({"event": event, **fields}))


def say(line: str) -> None:
    """Print a line on standard error."""
    _write(sys.stderr, f"{os.path.basename(sys.argv[0])}: {line}")


def _write(stream: TextIO, line: str) -> None:
    # With its end in one write: `print` makes two, between which another thread's line may come.
    stream.write(f"{line}\n")
    stream.flush()


def one_line(error: Exception) -> str:
    """Return the message of an error in one line, with its type unless it is one of this package's."""
    kind = "" if isinstance(error, M2fError) else f"{type(error).__name__}: "
    return f"{kind}{' '.join(str(error).split())}"


def read_line(ending: Ending) -> str | None:
    """Read a line of standard input, without its end; None if it is closed or the process ends."""
    # sys.stdin is not used: the interpreter aborts at its end if a thread waits inside it.
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
    """Wait for threads, at most `timeout` seconds each. Return False if one still runs."""
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
