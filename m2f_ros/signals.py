"""Signals that end a process, the end of its parent, and its standard files. Imports the standard library only.

A process ends by SIGINT, SIGTERM or SIGHUP (the terminal was closed). A signal that is ignored at the start of the
process stays ignored: `nohup` ignores SIGHUP, and a shell without job control ignores SIGINT for background jobs.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PARENT = "M2F_ENDS_WITH"  # environment variable: id of the parent process whose end ends the process
# Interrupts a system call without other effect: it is ignored by default.
_WAKE = signal.SIGURG
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

INTERRUPTED = "m2f: interrupted"

Handler = Callable[[int, "FrameType | None"], object] | int | None
_waking = False
_woken = False


def listen(handler: Handler) -> dict[signal.Signals, Handler]:
    """Install a handler for the signals that end a process; return the previous ones. Main thread only."""
    before = {number: signal.getsignal(number) for number in ENDING}
    taken = {number: old for number, old in before.items() if old is not signal.SIG_IGN}
    for number in taken:
        signal.signal(number, handler)
    return taken


def restore(before: Mapping[signal.Signals, Handler]) -> None:
    """Restore the handlers that `listen` returned."""
    for number, handler in before.items():
        # None for a handler that was not set from Python.
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


def act_as_usual() -> None:
    """Restore the default action: the signals end the process at once."""
    listen(signal.SIG_DFL)


def ignore() -> None:
    """Ignore the signals, in a process that is about to end by itself."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


def wake_main_thread() -> None:
    """Let signals that other threads receive wake the main thread. Does nothing outside the main thread.

    The kernel may deliver a signal to any thread, often not to the main one after SIGSTOP and SIGCONT. Python runs
    handlers in the main thread, which does not wake up from a lock without a timeout. This function starts a thread
    that interrupts the lock.
    """
    global _waking
    if _waking or threading.current_thread() is not threading.main_thread():
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    if before != -1:  # an event loop uses it, and wakes up by itself
        signal.set_wakeup_fd(before)
        os.close(read)
        os.close(write)
        return
    _waking = True
    signal.signal(_WAKE, _note_woken)
    # A forked child has no such thread.
    os.register_at_fork(after_in_child=_do_not_wake)
    threading.Thread(target=_wake, args=(read,), name="signals", daemon=True).start()


def _note_woken(number: int, frame: FrameType | None) -> None:
    global _woken
    _woken = True


def _do_not_wake() -> None:
    global _waking
    if _waking:
        signal.set_wakeup_fd(-1)
        _waking = False


def _wake(read: int) -> None:
    global _woken
    main = threading.main_thread()
    while numbers := os.read(read, 64):
        if all(number == _WAKE for number in numbers):
            continue
        _woken, pause = False, 0.01
        # Repeated, since the main thread may just be about to sleep.
        while main.is_alive() and main.ident is not None and not _woken:
            signal.pthread_kill(main.ident, _WAKE)
            time.sleep(pause)
            pause = min(2 * pause, 1.0)


def end_with_parent(parent: int, number: int = signal.SIGTERM) -> None:
    """Send this process `number` when its parent ends, even by SIGKILL, or at once if it has ended. Linux only.

    parent: process id of the parent. The end of the parent's thread that started this process counts, too.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    # Another parent is a wrapper of the command, such as a debugger, or the reaper of orphans.
    if os.getppid() != parent and not _lives(parent):
        os.kill(os.getpid(), number)


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state = file.read().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in (b"Z", b"X")


def open_standard_files() -> None:
    """Open /dev/null in place of missing standard input, output or error.

    Otherwise the next opened file would get the missing number, and with it all output.
    """
    while (file := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(file, True)
    os.close(file)
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            stream = open(number, "r" if number == 0 else "w", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def leave_terminal() -> None:
    """Replace standard files of a closed terminal by /dev/null, since writing there would fail."""
    for number in (0, 1, 2):
        try:
            os.write(number, b"")
        except OSError as error:
            if error.errno == errno.EIO:
                _replace(number)


def flush() -> bool:
    """Flush the standard outputs. Return False if nobody reads them; this and later output is then dropped."""
    read = True
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            read = False
            _replace(number)
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    return read


def _replace(number: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, number)
    os.close(null)


def tell(line: str) -> None:
    """Print a line on standard error; safe in a signal handler that interrupts `print`."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())


class CommandEnd:
    """Signal handler of a command: the first signal raises, for a clean end; the next one ends it at once.

    Its multiprocessing children get SIGTERM at the first, SIGKILL at the next.

    Attributes:
        number: number of the first signal, or 0.
    """

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            leave_terminal()
        # An exception during an import may be replaced or swallowed.
        at_once = self.number > 0 or _importing(frame)
        first, self.number = not self.number, self.number or number
        processes = sys.modules.get("multiprocessing.process")
        for child in processes.active_children() if processes else ():
            child.kill() if at_once else child.terminate()
        if at_once:
            if first and number == signal.SIGINT:
                tell(INTERRUPTED)
            os._exit(128 + self.number)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def begin_command() -> None:
    """Install CommandEnd as the handler. Does nothing at a second call, or outside the main thread."""
    if _waking or threading.current_thread() is not threading.main_thread():
        return
    listen(CommandEnd())
    open_standard_files()
    wake_main_thread()
