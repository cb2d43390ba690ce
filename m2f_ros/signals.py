"""Signals that end a process, its parent's end, and its standard files. Only the standard library in here.

A process ends by SIGINT, SIGTERM or SIGHUP (the terminal was closed). One of them that is ignored when the process
starts stays ignored: SIGHUP by `nohup`, SIGINT by a shell without job control for what it runs in the background.
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
PARENT = "M2F_ENDS_WITH"  # variable: process id of the parent with which a process ends
# Ignored unless a program wants it: it interrupts a system call and means nothing.
_WAKE = signal.SIGURG
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

INTERRUPTED = "m2f: interrupted"

Handler = Callable[[int, "FrameType | None"], object] | int | None
_waking = False
_woken = False


def listen(handler: Handler) -> dict[signal.Signals, Handler]:
    """Let `handler` take the signals that end a process, and return their handlers before. Only in the main thread."""
    before = {number: signal.getsignal(number) for number in ENDING}
    taken = {number: old for number, old in before.items() if old is not signal.SIG_IGN}
    for number in taken:
        signal.signal(number, handler)
    return taken


def restore(before: Mapping[signal.Signals, Handler]) -> None:
    """Put the handlers back that `listen` returned."""
    for number, handler in before.items():
        # None: one that was not set from Python.
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


def act_as_usual() -> None:
    """Restore the default action: the signals end the process at once."""
    listen(signal.SIG_DFL)


def ignore() -> None:
    """Ignore the signals, in a process that is about to end by itself."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


def wake_main_thread() -> None:
    """Wake the main thread for signals that another thread receives. Does nothing in another thread.

    The kernel may give a signal to any thread; after SIGSTOP and SIGCONT it often does not choose the main one. Python
    runs handlers in the main thread, which sleeps on while it waits for a lock without a timeout. A thread that this
    function starts interrupts that sleep.
    """
    global _waking
    if _waking or threading.current_thread() is not threading.main_thread():
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    if before != -1:  # an event loop has it, which wakes up by itself
        signal.set_wakeup_fd(before)
        os.close(read)
        os.close(write)
        return
    _waking = True
    signal.signal(_WAKE, _note_woken)
    # A forked child has neither the thread nor a use of the parent's.
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
        # Again, since the main thread may be about to sleep, too late to see the signal and too early to be woken.
        while main.is_alive() and main.ident is not None and not _woken:
            signal.pthread_kill(main.ident, _WAKE)
            time.sleep(pause)
            pause = min(2 * pause, 1.0)


def end_with_parent(parent: int, number: int = signal.SIGTERM) -> None:
    """Send this process `number` when its parent ends, even by SIGKILL; at once where it has ended. Linux only.

    parent: its process id. Ends with the thread that started this process, where that ends before its process does.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    # Another parent is a debugger, or what else the command was put behind; or the one that takes orphans in.
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
    """Give a process that was started without standard input, output or error /dev/null in their place.

    The next file that the process opens would get the missing number, and with it all that the process prints.
    """
    while (file := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(file, True)
    os.close(file)
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            stream = open(number, "r" if number == 0 else "w", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def leave_terminal() -> None:
    """Put /dev/null in the place of standard files whose terminal has gone: writing there would fail."""
    for number in (0, 1, 2):
        try:
            os.write(number, b"")
        except OSError as error:
            if error.errno == errno.EIO:
                _replace(number)


def flush() -> bool:
    """Write out what is printed so far. False where nobody reads it; it is dropped, and what comes after it, too."""
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
    """One line on standard error, from a signal handler too: `print` may be at work below it."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())


class CommandEnd:
    """The handler of a command: the first signal raises, so that what is open is closed; the next one ends it at once.

    Processes that multiprocessing has started for it get SIGTERM at the first, SIGKILL at the next.

    Attributes:
        number: of the first signal; 0: none came.
    """

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            leave_terminal()
        # An exception in the middle of an import may come out as another one, or not at all.
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
    """Begin a command: listen to signals. A second call, and one outside the main thread, do nothing."""
    if _waking or threading.current_thread() is not threading.main_thread():
        return
    listen(CommandEnd())
    open_standard_files()
    wake_main_thread()
