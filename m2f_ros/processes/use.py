"""Memory, files, threads and CPU time of a process on this machine, by Linux' /proc."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class ProcessUse:
    """Use of memory, files, threads and CPU time at one moment.

    Attributes:
        resident_mb: all pages in memory, anonymous, shared and mapped files, in megabytes (10^6).
        anonymous_mb: heap and stacks, in megabytes.
        shared_mb: shared memory, such as the segments of DDS, in megabytes.
        files: number of file descriptors.
        threads: number of threads.
        cpu_s: seconds of CPU time since its start.
    """

    resident_mb: float
    anonymous_mb: float
    shared_mb: float
    files: int
    threads: int
    cpu_s: float


def process_use(pid: int) -> ProcessUse | None:
    """Read the use of a process; None if the process has ended."""
    folder = Path("/proc", str(pid))
    try:
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        # The fields after the name in brackets, which may contain any character. (proc_pid_stat(5))
        times = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
        files = len(os.listdir(folder / "fd"))
        resident, anonymous, shared = (
            int(status[key].split()[0]) * 1024 / 1e6 for key in ("VmRSS", "RssAnon", "RssShmem")
        )
    except (OSError, KeyError):  # a zombie has no memory
        return None
    return ProcessUse(resident, anonymous, shared, files, int(status["Threads"]), sum(map(int, times)) / _TICKS)


def shared_memory_mb(folder: Path = Path("/dev/shm")) -> float:
    """Return the megabytes (10^6) of all files in the folder, of any process."""
    total = 0
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            with contextlib.suppress(OSError):
                total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total / 1e6
