"""How a process ends: by which signals, with its parent, and without its standard files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from m2f_ros import signals

# The main thread sleeps in a lock for ever; every other thread takes signals more readily, as in a node.
SLEEPER = """
import signal, sys, threading, time
from m2f_ros import signals
asked = threading.Event()
signals.listen(lambda number, frame: asked.set())
signals.wake_main_thread()
for _ in range(4):
    threading.Thread(target=lambda: [time.sleep(0.001) for _ in range(10**9)], daemon=True).start()
print("ready", flush=True)
asked.wait()
print("asked", flush=True)
"""


def python(code: str, *arguments: str, **options) -> subprocess.Popen:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen([sys.executable, "-c", code, *arguments], **streams)


def until(happened, what: str) -> None:
    deadline = time.monotonic() + 600
    while not happened():
        assert time.monotonic() < deadline, f"did not happen: {what}"
        time.sleep(0.01)


def state(pid: int) -> str:
    """A letter as `ps` shows it; empty where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


@pytest.mark.process
def test_a_signal_that_came_while_the_process_was_stopped_is_not_lost():
    # Which thread gets it is up to the kernel; without a wake-up nearly every time one that is not the main thread.
    processes = [python(SLEEPER) for _ in range(4)]
    numbers = (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    try:
        for process, number in zip(processes, numbers, strict=True):
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGSTOP)
            until(lambda process=process: state(process.pid) == "T", "it is stopped")
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)
        for process in processes:
            assert process.communicate(timeout=600) == ("asked\n", "") and process.returncode == 0
    finally:
        for process in processes:
            process.kill()


@pytest.mark.process
def test_what_was_ignored_at_the_start_stays_ignored():
    code = "import signal; from m2f_ros import signals\nsignals.listen(lambda *_: None)\n"
    code += "print([signal.getsignal(n) is signal.SIG_IGN for n in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)])"
    ignore = ["sh", "-c", 'trap "" INT HUP; exec "$@"', "sh"]
    done = subprocess.run([*ignore, sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[True, True, False]\n"


def test_handlers_come_back():
    before = [signal.getsignal(number) for number in signals.ENDING]
    taken = signals.listen(lambda *_: None)
    assert [signal.getsignal(number) for number in signals.ENDING] != before
    signals.restore(taken)
    assert [signal.getsignal(number) for number in signals.ENDING] == before


PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(100)
"""
CHILD = """
import sys, time
from m2f_ros import signals
signals.end_with_parent(int(sys.argv[1]))
print("ready", flush=True)
time.sleep(100)
"""


@pytest.mark.process
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells a child that its parent ended")
def test_a_child_ends_with_its_parent():
    parent = python(PARENT, CHILD)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    until(lambda: state(child) in ("", "Z"), "the child has ended")
    # One whose parent has gone before it could ask for that, and one that a debugger has started in its place.
    gone = python("")
    gone.communicate()
    assert python(CHILD, str(gone.pid)).wait(240) == -signal.SIGTERM
    here = python(CHILD, "1")
    assert here.stdout.readline() == "ready\n"
    here.kill()
    here.communicate()


@pytest.mark.process
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_missing_standard_files_are_replaced(tmp_path, closed):
    code = "import os, sys; from m2f_ros import signals\nsignals.open_standard_files()\n"
    code += "file = open(sys.argv[1], 'w'); print('printed', flush=True); print('said', file=sys.stderr, flush=True)\n"
    code += "os.write(1, b'by C'); os.write(2, b'by C'); sys.stdin.read(0); file.write(str(file.fileno() > 2))"
    command = f'exec "$@" {closed}'
    path = tmp_path / "file"
    subprocess.run(["sh", "-c", command, "sh", sys.executable, "-c", code, path], stdin=subprocess.DEVNULL, check=True)
    assert path.read_text() == "True"


COMMAND = "import sys; from m2f_ros.__main__ import main; sys.argv[0] = 'm2f'; main()"


@pytest.mark.process
def test_nobody_reads_on_is_141_without_a_word():
    # The pipe is closed before anything is written.
    read, write = os.pipe()
    os.close(read)
    process = python(COMMAND, "bag", "--help", stdout=write)
    os.close(write)
    assert process.communicate(timeout=600)[1] == "" and process.returncode == 128 + signal.SIGPIPE


@pytest.mark.process
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_without_standard_files_has_its_usual_status(closed):
    for arguments, status in ((["--help"], 0), (["compare", "/no/such/a", "/no/such/b"], 2)):
        done = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", COMMAND, *arguments])
        assert done.returncode == status


# A verb that works on, with a process of a pool; what it finishes on its way out is written.
WORKING = """
import sys, threading, time
from m2f_ros import cli
from m2f_ros.processes.workers import map_jobs
@cli.m2f.command()
def work():
    try:
        for number, _ in map_jobs(time.sleep, [0, 1000], 1):
            print("ready", flush=True)
    finally:
        print("closed", flush=True)
if __name__ == "__main__":
    sys.argv[1:] = ["work"]
    cli.main()
"""


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_verb_ends_by_each_signal_with_its_workers(tmp_path, number):
    script = tmp_path / "script.py"
    script.write_text(WORKING)
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    children = [int(c) for c in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(children) == 2  # the worker and what tracks its semaphores
    process.send_signal(number)
    out, err = process.communicate(timeout=600)
    if number == signal.SIGKILL:
        assert (process.returncode, out) == (-number, "")
    else:
        assert (process.returncode, out) == (128 + number, "closed\n"), err
        assert err == ("\nm2f: interrupted\n" if number == signal.SIGINT else "")
    until(lambda: all(state(child) in ("", "Z") for child in children), "all have ended")


@pytest.mark.process
@pytest.mark.parametrize("first, second", [(signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGHUP)])
def test_a_second_signal_ends_a_command_at_once(first, second):
    # Its cleaning up takes for ever.
    code = "import time; from m2f_ros import signals\nsignals.begin_command()\n"
    code += "try:\n    print('ready', flush=True); time.sleep(1000)\n"
    code += "finally:\n    print('closing', flush=True); time.sleep(1000)"
    process = python(code)
    for line, number in (("ready\n", first), ("closing\n", second)):
        assert process.stdout.readline() == line
        process.send_signal(number)
    assert process.communicate(timeout=600) == ("", "") and process.returncode == 128 + first
