"""Memory that a contestant adds: of the device, or on a CPU of the process."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path

import torch


class MemoryWatch:
    """Counts from its making: `restart` forgets the peak so far, `peak_mb` is the peak since then."""

    def __init__(self, device: torch.device):
        self.device = device
        collect(self.device)
        self._before = self._used()

    def restart(self) -> None:
        """Forget what loading and conversion took for a while."""
        collect(self.device)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # the kernel's peak of resident memory

    def peak_mb(self) -> float | None:
        """Megabytes (10^6) above what was used at the making; None where the system does not tell."""
        if self.device.type == "cuda":
            return (torch.cuda.max_memory_allocated(self.device) - self._before) / 1e6
        peak = _status("VmHWM")
        return None if peak is None or self._before is None else max(0, peak - self._before) / 1e6

    def _used(self) -> int | None:
        return torch.cuda.memory_allocated(self.device) if self.device.type == "cuda" else _status("VmRSS")


def collect(device: torch.device) -> None:
    """Give the memory of what nobody holds any more back to the device, or on a CPU to the system: kept by this process
    it would hide what the next one takes."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
    else:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def _status(key: str) -> int | None:
    """Bytes of a line of /proc/self/status; None where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)
