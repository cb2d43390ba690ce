"""The part of the demo that is in space: what a drive has to give, where its sensors are, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from m2f_ros.bags import topics
from m2f_ros.errors import SourceError
from m2f_ros.frame.outputs import SPATIAL_NAMES
from m2f_ros.replay.space_pictures import PICTURED
from m2f_ros.sources.sample import Sample, SpaceOptions
from m2f_ros.space.transforms import OPTICAL, TransformError, inverse

SPACE_TOPICS = {name: f"/segmentation_node/{name}" for name in SPATIAL_NAMES}
DEPTH, CLOUDS = f"{topics.CAMERA}/{topics.DEPTH}", f"{topics.LIDAR}/{topics.POINTS}"
_BASE = "base_link"  # the node's default
_PLACED = frozenset({"grid", "obstacles", "lidar"})  # outputs that need the poses of camera and lidar


def space_options(outputs: Collection[str]) -> SpaceOptions:
    """Return what a source has to give for these outputs; "points" and "lidar" cannot do without their input."""
    return SpaceOptions(
        depth=bool(outputs),
        transforms=not _PLACED.isdisjoint(outputs),
        clouds="lidar" in outputs,
        needed=not {"points", "lidar"}.isdisjoint(outputs),
    )


def extrinsics(first: Sample, outputs: Collection[str]) -> dict[str, list[float]]:
    """Return the node's parameters for the poses of camera and lidar, as the transforms of the first frame have them.

    Without tf2_msgs the node cannot ask for them. Raises SourceError if an output needs a pose that is not there.
    """
    if _PLACED.isdisjoint(outputs) or first.transforms is None or first.header is None:
        return {}
    at_ns = first.header.sec * 1_000_000_000 + first.header.nanosec
    axes = {"extrinsics": (first.frame_id, OPTICAL)}
    if first.clouds:
        axes["lidar.extrinsics"] = first.clouds[0].frame_id, np.eye(4)
    try:
        return {
            name: _values(first.transforms.lookup(_BASE, frame, at_ns) @ inverse(turn))
            for name, (frame, turn) in axes.items()
        }
    except TransformError as error:
        names = ", ".join(name for name in outputs if name in _PLACED)
        raise SourceError(
            f"{names} cannot be placed: {error}; the demo takes poses from the drive's tf alone"
        ) from None


def describe_space(counts: Mapping[str, int], out: Path) -> str:
    """Return lines on the outputs in space and their pictures; "" without outputs."""
    if not counts:
        return ""
    lines = ", ".join(f"{count} {name}" for name, count in counts.items()) + "\n"
    pictures = [str(out / f"{name}.png") for name in counts if name in PICTURED]
    return lines + (f"look at {', '.join(pictures)}\n" if pictures else "")


def _values(matrix: np.ndarray) -> list[float]:
    """Return x, y, z, roll, pitch, yaw of a pose, as `transforms.pose` takes them."""
    (m00, _, _), (m10, _, _), (m20, m21, m22) = matrix[:3, :3].tolist()
    turn = math.atan2(m21, m22), math.atan2(-m20, math.hypot(m00, m10)), math.atan2(m10, m00)
    return [*matrix[:3, 3].tolist(), *turn]
