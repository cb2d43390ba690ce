"""The ROS node end to end: a camera of 1920x1080, the node and a recorder as three processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2

from m2f_ros.benchmark.gpu_check.matrix import FRAMES, street
from m2f_ros.benchmark.weights import checkpoint
from m2f_ros.pipeline.device import choose_device
from m2f_ros.replay.demo import Options, run

FULL_HD = (1080, 1920)


def run_node(arguments: dict, note: Callable[[dict], None]) -> None:
    """Play `frames` images at `rate` to the node with `model`; notes what `m2f demo` sums up.

    Raises:
        ProcessError: the package is not built, or a process failed.
    """
    device = choose_device(arguments["device"])
    scratch = Path(arguments["scratch"])
    weights = checkpoint(arguments["model"], scratch, device)
    images = scratch / "full_hd"
    images.mkdir(exist_ok=True)
    drawn = street(scratch, FULL_HD)
    for i in range(arguments["frames"]):
        path = images / f"{i:05}.jpg"
        if i < FRAMES:
            cv2.imwrite(str(path), cv2.cvtColor(drawn[i], cv2.COLOR_RGB2BGR))
        else:
            os.link(images / f"{i % FRAMES:05}.jpg", path)
    options = Options(
        source=str(images),
        rate=arguments["rate"],
        frames=arguments["frames"],
        model=str(weights.folder),
        device=arguments["device"],
        out=scratch / "node",
        timeout=40.0,
    )
    note({"size": FULL_HD, "weights": weights.origin, **run(options)})
