"""Messages on /diagnostics for each camera, the device and the outputs in space.

They have diagnostic_updater's form, which is not on PyPI.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from m2f_ros.node.segmentation.counts import SpaceTally, Tally
from m2f_ros.node.segmentation.space.outputs import GROUND
from m2f_ros.node.segmentation.space.reports import of
from m2f_ros.node.throttle import cut

if TYPE_CHECKING:
    from m2f_ros.pipeline import Pipeline

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR

# Seconds for one frame before an error: a backend converts or compiles the network for each new size.
PREPARING = 60.0
# Keys that evaluation_node reads: number of frames that arrived, and header stamp of the newest, nanoseconds.
RECEIVED, NEWEST = "received", "newest stamp (ns)"
LONGEST = 500  # characters of a text, which may come from a camera


def status(name: str, hardware: str, level: bytes, message: str, values: Mapping[str, object]) -> DiagnosticStatus:
    """Make the message of one task. name: "/NAMESPACE/NODE: TASK"."""
    pairs = [KeyValue(key=key, value=_text(value)) for key, value in values.items()]
    message, hardware = cut(message, LONGEST), cut(hardware, LONGEST)
    return DiagnosticStatus(level=level, name=name, message=message, hardware_id=hardware, values=pairs)


def camera_level(
    now: Tally, before: Tally, time_s: float, state: str, busy: float, stale_after: float, late_after: float
) -> tuple[bytes, str]:
    """Return the level and the message of a camera.

    Args:
        now: present counts of the camera.
        before: counts at the last message.
        time_s: present time, time.monotonic().
        state: state of the node's lifecycle.
        busy: seconds that the pipeline has worked on its present frame, of any camera; 0.0 if idle.
        stale_after: value of the parameter, seconds.
        late_after: value of the parameter, seconds.
    """
    if state != "active":
        return OK, f"the node is {state}"
    if now.heard is None:
        return WARN, "no image yet"
    if time_s - now.heard > stale_after:
        return WARN, f"no image for {time_s - now.heard:.1f} s"
    if now.bad > before.bad:
        if now.segmented == before.segmented:
            return ERROR, f"nothing can be segmented: {now.error}"
        return WARN, f"{now.bad - before.bad} bad frames: {now.error}"
    if now.segmented == before.segmented:
        if now.received == before.received:
            return OK, "nobody listens"
        if now.waiting is not None and time_s - now.waiting > stale_after:
            if 0 < busy < PREPARING:
                return WARN, f"at one frame for {busy:.1f} s: the first of a new size takes long"
            return ERROR, f"images come, and no result for {time_s - now.waiting:.1f} s"
    elif (late := float(np.median(now.ages)) / 1e3) > late_after:
        return WARN, f"results are {late:.2f} s behind their stamps"
    return OK, "segmenting"


def camera_values(now: Tally, before: Tally, seconds: float) -> dict[str, object]:
    """Return the keys and values of a camera. seconds: time since `before`, more than 0."""
    values: dict[str, object] = {
        "rate in (Hz)": (now.arrived - before.arrived) / seconds,
        "rate out (Hz)": (now.segmented - before.segmented) / seconds,
        **percentiles("age", now.ages),
        RECEIVED: now.received,
        NEWEST: "none" if now.newest is None else now.newest,
        "segmented": now.segmented,
        "bad": now.bad,
        "stretched to a size that was ready": now.stretched,
    }
    values |= {f"dropped: {reason}": count for reason, count in now.dropped.items()}
    return values | {"last error": now.error}


def space_level(now: SpaceTally, before: SpaceTally, state: str) -> tuple[bytes, str]:
    """Return the level and the message of the outputs in space.

    now, before: present counts, and those at the last message. state: of the node's lifecycle.
    """
    if state != "active":
        return OK, f"the node is {state}"
    made = [name for name, count in now.published.items() if count > before.published.get(name, 0)]
    missed = [name for name, count in now.missed.items() if count > before.missed.get(name, 0)]
    # An output that misses some frames, as the grid at the start of tf, is still there.
    lines = [f"{name}: {now.trouble[name]}" for name in missed if name not in made]
    if GROUND & set(made):
        lines += now.stopped.values()
    if lines:
        return WARN, "; ".join(lines)
    return OK, f"publishing {', '.join(sorted(made))}" if made else "nobody listens"


def space_values(now: SpaceTally, times: Mapping[str, Sequence[float]]) -> dict[str, object]:
    """Return the keys and values of the outputs in space. times: output -> milliseconds of recent messages."""
    values: dict[str, object] = {f"published: {name}": count for name, count in sorted(now.published.items())}
    values |= {f"missed: {name}": count for name, count in sorted(now.missed.items())}
    for name, recent in times.items():
        values |= percentiles(name, recent)
    values["dropped: newer"] = now.dropped
    values |= {of("ground", camera): kind for camera, kind in sorted(now.ground.items())}
    return values | {f"last trouble: {name}": text for name, text in sorted(now.trouble.items())}


def percentiles(name: str, times_ms: Sequence[float]) -> dict[str, object]:
    """Return the 50th and 99th percentile of times in milliseconds; empty without times."""
    if not times_ms:
        return {}
    p50, p99 = np.percentile(times_ms, (50, 99))
    return {f"{name} p50 (ms)": float(p50), f"{name} p99 (ms)": float(p99)}


def device_values(pipeline: Pipeline, stages: Mapping[str, Sequence[float]]) -> dict[str, object]:
    """Return the keys and values of the device, from PyTorch and NVML, which are safe during a capture."""
    values: dict[str, object] = {
        "device": pipeline.device,
        "backend": pipeline.backend,
        "precision": pipeline.precision,
        **_memory(pipeline),
    }
    for stage, times in stages.items():
        values |= percentiles(stage, times)
    return values | pipeline.counters


def _memory(pipeline: Pipeline) -> dict[str, object]:
    if pipeline.device.type != "cuda":
        statm = Path("/proc/self/statm")
        if not statm.exists():
            return {}
        return {"memory of the process (MiB)": int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20}
    import torch

    values: dict[str, object] = {
        "name": torch.cuda.get_device_name(pipeline.device),
        "memory in use (MiB)": torch.cuda.memory_allocated(pipeline.device) >> 20,
        "memory reserved (MiB)": torch.cuda.memory_reserved(pipeline.device) >> 20,
        "memory of the device (MiB)": torch.cuda.get_device_properties(pipeline.device).total_memory >> 20,
    }
    with contextlib.suppress(Exception):  # NVML, or its Python binding, may be absent
        values["temperature (C)"] = torch.cuda.temperature(pipeline.device)
    return values


def _text(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else cut(str(value), LONGEST)
