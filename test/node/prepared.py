"""Starts executables of the package by fork, from a process that has made their imports, which take seconds each time.

`python prepared.py EXECUTABLE` makes the imports. For each line of JSON on standard input it starts the executable as a
child of the process that started this one, and answers with its process id.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
import warnings

# Beside the executable's own module: what it imports while it works.
MORE = {"evaluation_node": ("jinja2", "matplotlib.backends.backend_agg", "matplotlib.figure")}
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Forked:
    """The part of subprocess.Popen that tests use, of a child process that another one has started."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Prepared:
    """A process for each executable, begun when it is first asked for."""

    def __init__(self) -> None:
        self._servers: dict[str, subprocess.Popen] = {}

    def start(self, name: str, arguments: list[str], env: dict[str, str], log: str) -> Forked:
        """Start an executable whose output is added to a file, which is there."""
        if name not in self._servers:
            command = [sys.executable, __file__, name]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            # In this process' environment: that of the first test to ask may be a broken one.
            self._servers[name] = subprocess.Popen(command, text=True, **pipes)
        server = self._servers[name]
        asked = {"arguments": arguments, "env": env, "log": log, "folder": os.getcwd(), "parent": os.getpid()}
        prctl = ctypes.CDLL(None).prctl
        prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # it becomes a child of this process
        try:
            server.stdin.write(json.dumps(asked) + "\n")
            server.stdin.flush()
            return Forked(int(server.stdout.readline()))
        finally:
            prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)

    def close(self) -> None:
        for server in self._servers.values():
            server.stdin.close()
            server.wait()
            server.stdout.close()


def _run(name: str, main, arguments: list[str], env: dict[str, str], log: str, folder: str, parent: int) -> None:
    """Be the executable, and end."""
    from m2f_ros.node.starting import leave, may_end

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    for number, file in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
        os.dup2(file, number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [name, *arguments]
    while os.getppid() != parent:
        time.sleep(0.001)
    may_end(name)
    leave(main())


def _serve(name: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest, whose end closes standard input
    main = importlib.import_module(f"m2f_ros.node.{name}").main
    for module in MORE.get(name, ()):
        importlib.import_module(module)
    # Python 3.12 and later say that of a process with threads. NumPy's are here, which OpenBLAS stops before a fork.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    for line in sys.stdin:
        read, write = os.pipe()
        between = os.fork()
        if not between:
            # Its child has no parent once it ends, and goes to the nearest ancestor that takes such processes.
            child = os.fork()
            if child:
                os.write(write, str(child).encode())
                os._exit(0)
            try:
                _run(name, main, **json.loads(line))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        os.waitpid(between, 0)
        print(os.read(read, 32).decode(), flush=True)
        os.close(read)
        os.close(write)


if __name__ == "__main__":
    _serve(sys.argv[1])
